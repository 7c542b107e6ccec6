"""What the centre can tell of a site's ledger, from signed receipts alone, is what the site booked."""

from __future__ import annotations

from pathlib import Path

from client.ledger import ledger
from client.site import keys
from common.messages import Signed
from common.privacy.accounting.spending import PrivateRelease
from common.receipts import Kept, dump
from common.settings import Settings
from server.runs import run_evidence
from server.runs.run_folder import RunFolder
from tests.client.rounds.test_private_network import approved
from tests.privacy_evidence import ROUNDS, Campaign

Told = list[tuple[str, int, int]]
"""Of each release: kind, round, private steps."""


def private(releases: list[object]) -> list[PrivateRelease]:
    assert all(isinstance(one, PrivateRelease) for one in releases)
    return [one for one in releases if isinstance(one, PrivateRelease)]


def from_centre(folder: Path) -> Told:
    (site,) = run_evidence.read(folder).sites
    found = private([one.release for one in site.book.releases])
    return [(one.kind, one.server_round, one.steps.count) for one in found]


def from_ledger(folder: Path) -> Told:
    """A round's steps added up."""
    found = private([one.release for one in ledger.book(folder).releases])
    rounds = sorted({(one.kind, one.server_round) for one in found})
    return [
        (
            kind,
            number,
            sum(one.steps.count for one in found if (one.kind, one.server_round) == (kind, number)),
        )
        for kind, number in rounds
    ]


def begin(folder: Path, settings: Settings) -> Path:
    RunFolder.begin(folder, settings)
    (folder / "receipts").mkdir(exist_ok=True)
    return folder


def test_heads_were_booked_as_sums(tmp_path: Path) -> None:
    site = Campaign.begin(tmp_path / "north").run()
    run = begin(tmp_path / "run", site.settings)
    site.receipts(run / "receipts" / "north.jsonl")
    told = from_centre(run)
    assert told == from_ledger(site.site.folder)
    assert told == [("private-sum", number, 1) for number in range(1, ROUNDS + 1)]


def test_whole_networks_were_booked_as_steps(tmp_path: Path) -> None:
    centre = approved(tmp_path)
    answers = [centre.train(centre.train_request(number)) for number in (1, 2, 3, 4)]
    run = begin(tmp_path / "run", centre.settings)
    key = keys.public_key(centre.folder)
    lines = [
        dump(Kept(received=f"2026-01-0{number}T00:00:00+00:00", public_key=key, receipt=answer.receipt))
        for number, answer in enumerate(answers, start=1)
        if isinstance(answer, Signed)
    ]
    (run / "receipts" / "north.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    told = from_centre(run)
    assert told == from_ledger(centre.folder)
    assert told == [("private-step", number, 4) for number in (1, 2, 3)]
