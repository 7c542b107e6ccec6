"""A campaign that goes on while a site's data changed: the site refuses, with a fixed word to the centre."""

from pathlib import Path

import pytest

from client.data.store import close_all
from client.ledger import ledger_file
from client.site.site import Site
from client.withdrawal import withdrawal
from common.errors import CampaignError
from common.settings import Settings
from server.campaign.campaign import Event, Status
from server.rounds.journal import RoundRecord
from tests.federation.test_campaign import configured, run
from tests.site_folders import read_table, small_site, write_table


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    ledger_file._known.clear()
    return [
        small_site(tmp_path / name, seed=seed)
        for seed, name in enumerate(("north", "south", "west"))
    ]  # fmt: skip


def interrupted(folders: list[Path], settings: Settings, folder: Path) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, RoundRecord):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folders, settings, folder, observer=kill)
    close_all()  # whoever goes on is another process


def regrade(site: Path) -> None:
    rows = read_table(site / "grades.csv")
    write_table(
        site / "grades.csv", [row | {"hypertrophy": str(2 - int(row["hypertrophy"]))} for row in rows]
    )


@pytest.mark.parametrize("algorithm", ["fedavg", pytest.param("scaffold", marks=pytest.mark.soak)])
def test_a_killed_centre_goes_on_and_a_site_whose_data_changed_refuses(
    folders: list[Path], tmp_path: Path, algorithm: str
) -> None:
    settings = configured(f'[federation]\nrounds = 2\nquorum = 3\nalgorithm = "{algorithm}"')
    interrupted(folders, settings, tmp_path / "run")
    before = (folders[1] / "grades.csv").read_bytes()
    regrade(folders[1])
    with pytest.raises(CampaignError, match=r"south.*refused: changed") as raised:
        run(folders, settings, tmp_path / "run")
    assert "grades" not in str(raised.value)  # what changed is the site's own affair
    assert "exams with other grades (south-p0" in (folders[1] / "log.txt").read_text(encoding="utf-8")
    assert not (folders[0] / "log.txt").exists()
    (folders[1] / "grades.csv").write_bytes(before)
    assert run(folders, settings, tmp_path / "run").status is Status.COMPLETE_ALL_SITES


def test_a_withdrawal_meanwhile_stops_nothing(folders: list[Path], tmp_path: Path) -> None:
    settings = configured("[federation]\nrounds = 2")
    interrupted(folders, settings, tmp_path / "run")
    withdrawal.withdraw(Site.open(folders[0]), "north-p001")
    assert run(folders, settings, tmp_path / "run").status is Status.COMPLETE_ALL_SITES


def test_a_second_run_of_the_plan_over_new_data_is_a_run_of_its_own(
    folders: list[Path], tmp_path: Path
) -> None:
    settings = configured("[federation]\nrounds = 1")
    interrupted(folders, settings, tmp_path / "first")
    regrade(folders[1])
    assert run(folders, settings, tmp_path / "second").status is Status.COMPLETE_ALL_SITES
