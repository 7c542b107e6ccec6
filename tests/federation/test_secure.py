"""Campaigns under secure aggregation, from the centre's requests to the sites' ledgers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message

from client import ledger
from client.app import app as client_app
from common import network_files, pretrained, wire
from common.privacy import spending
from common.privacy.accounting import epsilon
from common.settings import Settings
from server import campaign
from server.campaign import Outcome, Status
from server.journal import RoundRecord
from server.roster import Roster
from simulation import peers
from simulation.grid import InProcessGrid, StrictGrid, Workers
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings, make_site_folder

App = Callable[[Message, Context], Message]
NAMES = ("east", "north", "south")
ROUNDS = 2
SIGMA = 4.0
SECURE = """
[federation.secure]
sites = 3
survivors = 2
"""
PRIVATE = f"""
[federation]
rounds = {ROUNDS}
quorum = 2
{SECURE}
[probe]
neck = 6
initialisations = 2
[privacy]
noise_multiplier = {SIGMA}
patients = 6
images = 2
"""


def private(text: str = PRIVATE, *, encoders: Path) -> Settings:
    settings = make_settings(text=text, method="probe", weights=str(encoders))
    if not encoders.exists():
        make_encoders(encoders, settings)
    return pretrained.resolved(settings)


def site(base: Path, name: str, *, seed: int = 0) -> Path:
    folder = make_site_folder(base / name, name=name, patients=8, held_out_patients=2, seed=seed)
    toml = (folder / "site.toml").read_text()
    toml = toml.replace("keep_outbox_days = 0", "keep_outbox_days = 9")
    (folder / "site.toml").write_text(f"{toml}maximum_epsilon = 50.0\nminimum_peers = 1\n")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [site(tmp_path, name, seed=seed) for seed, name in enumerate(NAMES)]
    peers.pin(made)
    return made


def run(
    folders: Sequence[Path],
    settings: Settings,
    folder: Path,
    *,
    app: App = client_app,
    records: list[RoundRecord] | None = None,
) -> Outcome:
    folder.mkdir(exist_ok=True)

    def observe(event: campaign.Event) -> None:
        if records is not None and isinstance(event, RoundRecord):
            records.append(event)

    with Workers(("cpu",), threads=1) as pool:
        return campaign.run(
            StrictGrid(InProcessGrid(app, folders, pool)),  # type: ignore[arg-type]
            settings,
            roster=Roster.anyone(len(folders)),
            folder=folder,
            campaign="test",
            observer=observe,
        )


def test_every_round_is_booked_once(tmp_path: Path, folders: list[Path]) -> None:
    settings = private(encoders=tmp_path / "encoders")
    records: list[RoundRecord] = []
    outcome = run(folders, settings, tmp_path / "run", records=records)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert [record.participants for record in records] == [NAMES] * ROUNDS
    for folder in folders:
        book = ledger.book(folder)
        assert len(book.releases) == ROUNDS
        assert spending.worst(book.histories(), delta=1e-5) == pytest.approx(
            epsilon([settings.privacy.steps(ROUNDS)], delta=1e-5), abs=1e-9
        )
    for network in network_files.load_all(tmp_path / "run" / "networks"):
        print(network.spec.name, network.weights.std(), network.result)
    assert np
    assert wire
