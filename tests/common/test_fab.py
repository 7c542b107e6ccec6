import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

from flwr.cli.install import install_from_fab
from flwr.common.config import get_fab_config, get_metadata_from_config, validate_config

from common.fab import fab, fab_hash
from common.version import VERSION


def test_it_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(fab())) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_flower_installs_it(tmp_path: Path) -> None:
    place = install_from_fab(fab(), install_dir=tmp_path)
    assert [path.name for path in place.iterdir()] == ["pyproject.toml"]


def test_flower_accepts_it_and_reads_the_version() -> None:
    config = get_fab_config(fab())
    assert get_metadata_from_config(config) == ("synofed/synofed", VERSION)
    assert config["tool"]["flwr"]["app"]["config"] == {"campaign": ""}


def test_the_apps_that_it_names_are_those_that_are_installed() -> None:
    valid, errors, _ = validate_config(get_fab_config(fab()), check_module=True)
    assert valid, errors


def test_another_process_makes_the_same_bytes() -> None:
    script = "import hashlib; from common.fab import fab; print(hashlib.sha256(fab()).hexdigest())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fab_hash() == hashlib.sha256(fab()).hexdigest()
