"""The offline bundle, made and installed; the whole of it, with torch, in ``make soak``."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common import fab
from common.version import VERSION

ROOT = Path(__file__).parents[2]
NOBODY = ("unshare", "--user", "--net")
"""No network, and no rights but those of a file's owner."""


def make(out: Path, *arguments: str) -> Path:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "bundle.py", "--out", out, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of synofed alone."""
    return make(tmp_path_factory.mktemp("own"), "--own-only")


def install(bundle: Path, target: Path, *, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the installer with the network off."""
    probe = shutil.which("unshare") and subprocess.run([*NOBODY, "true"], capture_output=True, check=False)
    apart = NOBODY if probe and probe.returncode == 0 else ()
    dead = "http://127.0.0.1:9"  # where no network can be taken away, there is none that works
    environment = {
        "PATH": f"{Path(sys.executable).resolve().parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PYTHON": str(Path(sys.executable).resolve()),
        "HOME": str(home),
        "HTTP_PROXY": dead,
        "HTTPS_PROXY": dead,
    }
    command = [*apart, "sh", str(bundle / "install.sh"), str(target)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.soak
@pytest.mark.ci
def test_installs_without_a_network(own: Path, tmp_path: Path) -> None:
    done = install(own, tmp_path / "it", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert fab.fab_hash() in done.stdout
    listed = _python(tmp_path / "it", "import synofed, sys; print(synofed.__file__, sys.prefix)").split()
    assert listed[0].startswith(listed[1])
    assert (tmp_path / "it" / "bin" / "synofed").exists()


def test_says_what_it_is(own: Path) -> None:
    facts = dict(line.split("=", 1) for line in (own / "BUNDLE").read_text().splitlines())
    assert facts["version"] == VERSION
    assert facts["fab_sha256"] == fab.fab_hash()
    assert facts["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=own, check=True)
    (wheel,) = (own / "wheels").glob("*.whl")
    assert (own / "requirements.txt").read_text().startswith(f"synofed=={VERSION} --hash=sha256:")
    assert wheel.name == f"synofed-{VERSION}-py3-none-any.whl"
    example = (ROOT / "configs" / "mapping.example.toml").read_bytes()
    assert (own / "mapping.example.toml").read_bytes() == example
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("client/data/ingest/mapping_template.toml") == example


@pytest.mark.parametrize("change", ["wheel", "more", "script", "python", "target"])
def test_refuses_before_anything_is_installed(own: Path, tmp_path: Path, change: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(own, bundle)
    (wheel,) = (bundle / "wheels").glob("*.whl")
    target = tmp_path / "it"
    if change == "wheel":
        content = bytearray(wheel.read_bytes())
        content[len(content) // 2] ^= 1
        wheel.write_bytes(content)
    elif change == "more":
        shutil.copy(wheel, bundle / "wheels" / "torch-9-py3-none-any.whl")
    elif change == "script":
        (bundle / "requirements.txt").write_text("synofed\n")
    elif change == "python":
        facts = (bundle / "BUNDLE").read_text()
        (bundle / "BUNDLE").write_text(facts.replace("python=3", "python=2"))
        _sum_again(bundle)
    else:
        target.mkdir()
        (target / "theirs").write_text("x")
    done = install(bundle, target, home=tmp_path)
    assert done.returncode == {"python": 3, "target": 3}.get(change, 8)
    assert "install.sh: expected" in done.stderr
    assert not target.exists() or [path.name for path in target.iterdir()] == ["theirs"]


def _sum_again(bundle: Path) -> None:
    names = [line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()]
    done = subprocess.run(["sha256sum", *names], cwd=bundle, check=True, capture_output=True, text=True)
    (bundle / "SHA256SUMS").write_text(done.stdout)


def _python(target: Path, code: str) -> str:
    command = [str(target / "bin" / "python"), "-I", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=target)
    return done.stdout


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_whole_bundle_trains_without_a_network(tmp_path: Path) -> None:
    bundle = make(tmp_path / "out")
    assert (tmp_path / "out" / f"{bundle.name}.tar").stat().st_size > 100_000_000
    for _ in range(2):  # the second time over the first
        done = install(bundle, tmp_path / "it", home=tmp_path)
        assert done.returncode == 0, done.stderr
    synofed = tmp_path / "it" / "bin" / "synofed"
    settings = [
        "--set",
        "federation.rounds=1",
        "--set",
        "cohort.phantom.patients=20",
        "--set",
        "rating.folds=2",
        "--set",
        "rating.fusion=joint",
        "--set",
        "evaluate.baselines=false",
        "--out",
        str(tmp_path / "run"),
    ]
    command: list[str] = [
        *NOBODY,
        str(synofed),
        "simulate",
        str(ROOT / "configs" / "quickstart.toml"),
        *settings,
    ]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "COMPLETE_ALL_SITES" in ran.stdout
