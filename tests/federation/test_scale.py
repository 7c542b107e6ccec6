"""Two hundred sites in one process: the centre's memory depends on a network's size, not on their number."""

import resource
from pathlib import Path

import pytest

from client.app import app
from server.campaign import campaign
from server.campaign.campaign import Status
from server.campaign.roster import Roster
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from tests.federation.test_campaign import configured
from tests.site_folders import SITE_TOML, make_site_folder

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
SITES = 200


def sites_of_one_folder(folder: Path, count: int) -> list[Path]:
    """Sites that read the same tables and pictures."""
    data = make_site_folder(
        folder / "data", patients=8, measurements=("hypertrophy",), grades=3, held_out_patients=2
    )
    made = []
    for number in range(count):
        site = folder / f"site-{number:03d}"
        site.mkdir()
        toml = SITE_TOML.format(name=site.name, consensus="median")
        (site / "site.toml").write_text(
            toml.replace("[data]\n", f'[data]\nfolder = "{data}"\n'), encoding="utf-8"
        )
        made.append(site)
    return made


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_two_hundred_sites_take_part(tmp_path: Path) -> None:
    folders = sites_of_one_folder(tmp_path / "sites", SITES)
    settings = configured("[federation]\nrounds = 2")
    peaks: list[int] = []
    with Workers(("cpu",), threads=1) as workers:
        outcome = campaign.run(
            StrictGrid(InProcessGrid(app, folders, workers)),
            settings,
            roster=Roster.anyone(SITES),
            folder=tmp_path,
            campaign="scale",
            observer=lambda event: peaks.append(peak_bytes()),
        )
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert len(outcome.sites) == SITES
    assert peaks[-1] - peaks[0] < 400_000_000
