"""A site that runs another version than the centre: both say so, and it takes part once it runs the same."""

import os
import shutil
from pathlib import Path

import pytest

from common.version import VERSION
from server.runs import submit
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation
from tests.deployment.test_end_to_end import configured

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
ROOT = Path(__file__).parents[2]
OTHER = "0.0.9"


@pytest.fixture
def other_version(tmp_path: Path) -> Path:
    """A copy of the packages under another version."""
    for package in ("client", "common", "server", "simulation"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "synofed.py", tmp_path)
    version = tmp_path / "common" / "version.py"
    version.write_text(version.read_text(encoding="utf-8").replace(VERSION, OTHER), encoding="utf-8")
    return tmp_path


def test_both_sides_name_both_versions_and_the_others_go_on(
    federation: Federation, other_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = SITES[2]
    federation.end(name)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(other_version), os.environ.get("PYTHONPATH", "")]))
        federation.join(name)
    federation.wait(lambda: federation.online() == set(SITES), what="all sites connected")
    run = submit.submit(federation.home, configured("other-version", federation="quorum = 2\n"))
    federation.wait(
        lambda: (site := run.status().sites.get(name)) is not None and site.state == "declined",
        what="a site that declines",
    )
    assert run.status().sites[name].reason == (
        f"runs synofed {OTHER}, the centre {VERSION}: bring both to one version"
    )
    told = (federation.site(name) / "log.txt").read_text(encoding="utf-8")
    assert f"Only the package of synofed {OTHER} runs here" in told
    assert f"it runs '{VERSION}': bring both to one version" in told
    federation.ended(run)
    assert run.status().state == "COMPLETE_SUBSET", run.log.read_text()
    assert {site for site, at in run.status().sites.items() if at.used == 0} == {name}
    federation.end(name)
    federation.join(name)
    federation.wait(lambda: federation.online() == set(SITES), what="all sites connected again")
