"""A backup winds log and ledger back together: found by receipts, settled by the officer, and then it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client.cli.site_cli import site as commands
from client.consent import consent, reconcile
from client.data.store import Store
from client.ledger import behind, issued_receipts, ledger, ledger_check, ledger_file
from client.log import chain
from client.site.site import Site
from common.errors import BehindError, DataError
from common.messages import EnsembleReply, PlanRequest, Signed
from common.privacy.accounting import of_plan, spending
from common.receipts import Kept, Receipt, payload
from common.version import VERSION
from server.campaign.received_receipts import Receipts
from tests.exam_tensors import make_exams
from tests.privacy_evidence import IDS, PATIENTS, ROUNDS, Campaign, make_plan
from tests.receipts import KEY


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    ledger_file._known.clear()
    yield
    ledger_file._known.clear()


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """A site that answered two rounds of four, was backed up, answered a third, and was put back."""
    made = Campaign.begin(tmp_path / "north")
    for server_round in (1, 2):
        made.debit(server_round)
        made.send(server_round)
    shutil.copytree(made.site.folder, tmp_path / "backup")
    made.debit(3)
    made.send(3)
    shutil.rmtree(made.site.folder)
    shutil.copytree(tmp_path / "backup", made.site.folder)
    ledger_file._known.clear()

    store = Store(
        tensors=make_exams(len(IDS)),
        exams=pd.DataFrame({"patient_id": list(IDS), "fold": 0}),
        reader_grades=pd.DataFrame(),
        fingerprint="",
        quarantined=(),
        notes=(),
        usable={},
        patients={},
    )
    monkeypatch.setattr(reconcile, "site_store", lambda site, settings: store)
    return made


def last(campaign: Campaign) -> Receipt:
    return campaign.kept[-1].receipt


def steps(campaign: Campaign) -> set[int]:
    return {h.steps[0].count for h in ledger.book(campaign.site.folder).histories()}


def test_a_site_that_was_put_back_spends_nothing_until_that_is_settled(campaign: Campaign) -> None:
    behind.meet(campaign.site, [campaign.kept[1].receipt])  # of before the backup: borne out
    with pytest.raises(BehindError, match="site ledger reconcile"):
        behind.meet(campaign.site, [last(campaign)])
    with pytest.raises(BehindError):
        campaign.debit(3)
    with pytest.raises(BehindError):
        behind.meet(campaign.site, [])  # also a centre that says nothing more
    assert steps(campaign) == {2}

    done = CliRunner().invoke(commands, ["ledger", "reconcile", str(campaign.site.folder)])
    assert done.exit_code == 0, done.output
    assert "1 debits that its receipts prove were booked to every patient" in " ".join(done.output.split())
    assert steps(campaign) == {3}
    assert len(ledger.book(campaign.site.folder).releases[-1].eligible) == PATIENTS
    behind.meet(campaign.site, [last(campaign)])
    campaign.debit(3)
    campaign.send(3)
    assert last(campaign).sequence == 4  # above what the centre knows
    assert last(campaign).ledger_sequence == 4
    behind.meet(campaign.site, [last(campaign)])
    found = issued_receipts.check(campaign.site.folder, with_keys(campaign))
    assert (found.receipts, found.settled) == (3, 1)
    ledger_check.check(campaign.site.folder, with_keys(campaign))
    again = CliRunner().invoke(commands, ["ledger", "reconcile", str(campaign.site.folder)])
    assert "nothing to settle" in again.output
    assert steps(campaign) == {4}


def with_keys(campaign: Campaign) -> list[Kept]:
    from client.site import keys

    return [replace(one, public_key=keys.public_key(campaign.site.folder)) for one in campaign.kept]


def test_a_site_that_went_on_owes_all_that_the_receipt_proves(campaign: Campaign) -> None:
    """Its third round is not the one that the centre has."""
    lost = last(campaign)
    campaign.debit(3, patients=IDS[1:])
    campaign.send(3, seed=99)
    with pytest.raises(BehindError):
        behind.meet(campaign.site, [lost])
    (owed,) = behind.owed(campaign.site)
    assert owed.debits == 3
    (owed,) = behind.owed(campaign.site, whole=True)
    assert owed.debits == 3


def test_killed_between_ledger_and_log_it_is_booked_once(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BehindError):
        behind.meet(campaign.site, [last(campaign)])
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(behind, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        reconcile.reconcile(campaign.site)
    with pytest.raises(BehindError):
        campaign.debit(3)
    assert CliRunner().invoke(commands, ["ledger", "reconcile", str(campaign.site.folder)]).exit_code == 0
    assert steps(campaign) == {3}


def test_a_site_that_has_another_name_now_is_found_too(campaign: Campaign) -> None:
    toml = campaign.site.folder / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace('"north"', '"northern"'), encoding="utf-8")
    with pytest.raises(BehindError):
        behind.meet(Site.open(campaign.site.folder), [last(campaign)])


@pytest.mark.parametrize(
    "forge",
    [
        lambda one: replace(one, ledger_sequence=900),
        lambda one: replace(one, sequence=900, log_head="a" * 64),
        lambda one: replace(one, signature=KEY.sign(payload(one)).hex()),
        lambda one: replace(one, format=1),
        lambda one: replace(one, site="south"),
    ],
)
def test_a_receipt_that_this_site_did_not_sign_changes_nothing(campaign: Campaign, forge: object) -> None:
    assert callable(forge)
    behind.meet(campaign.site, [forge(last(campaign))])
    campaign.debit(3)


def test_a_receipt_of_format_1_is_held_against_the_whole_log(campaign: Campaign) -> None:
    from client.site import keys

    def signed(sequence: int, booked: int) -> Receipt:
        key: Ed25519PrivateKey = keys.signing_key(campaign.site.folder)
        old = replace(
            last(campaign), format=1, sequence=sequence, ledger_sequence=booked, ledger_head="a" * 64
        )
        return replace(old, signature=key.sign(payload(old)).hex())

    with pytest.raises(BehindError):
        behind.meet(campaign.site, [signed(99, 5)])
    (owed,) = behind.owed(campaign.site)
    assert owed.debits == 5 - 3  # opened, and two rounds
    assert CliRunner().invoke(commands, ["ledger", "reconcile", str(campaign.site.folder)]).exit_code == 0
    behind.meet(campaign.site, [signed(99, 5)])
    assert steps(campaign) == {4}


def test_a_plan_that_the_copy_does_not_know_has_to_be_given(campaign: Campaign, tmp_path: Path) -> None:
    with pytest.raises(BehindError):
        behind.meet(campaign.site, [last(campaign)])
    shutil.rmtree(campaign.site.folder / "campaigns")
    folder = str(campaign.site.folder)
    failed = CliRunner().invoke(commands, ["ledger", "reconcile", folder])
    assert isinstance(failed.exception, DataError)
    assert "--plan FILE" in str(failed.exception)
    (tmp_path / "plan.json").write_text(make_plan().plan_json(), encoding="utf-8")
    done = CliRunner().invoke(
        commands, ["ledger", "reconcile", folder, "--plan", str(tmp_path / "plan.json")]
    )
    assert done.exit_code == 0, done.output


def test_the_answer_to_a_plan_says_that_the_site_is_behind_and_nothing_more(campaign: Campaign) -> None:
    request = PlanRequest(
        campaign="heads",
        request_id="again",
        version=VERSION,
        plan=campaign.settings.plan_json(),
        plan_hash=campaign.settings.plan_hash(),
        known=(last(campaign),),
    )
    with pytest.raises(BehindError) as caught:
        consent.consider_plan(campaign.site, request)
    assert (caught.value.code, caught.value.exit_code) == ("behind", 8)


def test_receipts_tell_of_their_own_campaign_alone(tmp_path: Path) -> None:
    """One counter for all told of a withdrawal or another study between two rounds: 2, 3, 5."""

    def signed(*, between: bool) -> list[tuple[int, int]]:
        site = Campaign.begin(tmp_path / str(between))
        told = []
        for server_round in range(1, ROUNDS + 1):
            site.debit(server_round)
            site.send(server_round)
            told.append((last(site).sequence, last(site).ledger_sequence))
            if between and server_round == 2:
                other = replace(of_plan.steps(site.privacy, 1), noise_multiplier=90.0)
                release = ledger.book(site.site.folder).releases[-1].release
                assert isinstance(release, spending.PrivateRelease)
                ledger.reserve(site.site, replace(release, plan_hash="b" * 64, steps=other), IDS[:3])
                chain.append(site.site.folder / chain.NAME, "refusal", {"code": "policy"})
        return told

    assert signed(between=True) == signed(between=False) == [(n, n) for n in range(1, ROUNDS + 1)]


def test_heads_in_receipts_are_found_nowhere_else(tmp_path: Path) -> None:
    site = Campaign.begin(tmp_path / "north").run()
    text = "".join(
        (site.site.folder / name).read_text(encoding="utf-8") for name in (chain.NAME, ledger_file.NAME)
    )
    hashes = {
        entry.hash
        for name in (chain.NAME, ledger_file.NAME)
        for entry in chain.entries(site.site.folder / name)
    }
    told = [value for one in site.kept for value in (one.receipt.log_head, one.receipt.ledger_head)]
    assert not set(told) & hashes
    assert not [value for value in told if value in text]
    assert len({one.receipt.log_head for one in site.kept}) == len(site.kept)


def test_the_centre_keeps_the_highest_receipt_of_each_campaign_over_all_runs(tmp_path: Path) -> None:
    site = Campaign.begin(tmp_path / "north").run()
    first, second = (Receipts(tmp_path / name, kept=tmp_path / "home") for name in ("run1", "run2"))
    for given in (first, second):
        given.know("north", "k")
    (tmp_path / "run1" / "receipts").mkdir(parents=True)
    for one in site.kept[:3]:
        reply = EnsembleReply(site="north", request_id=one.receipt.request_id, missing=())
        first.keep(Signed(reply=reply, receipt=one.receipt, contents_hash=one.receipt.reply_hash))
    assert [asdict(one) for one in second.known("north")] == [asdict(site.kept[2].receipt)]
    assert Receipts(tmp_path / "run3", kept=tmp_path / "home").known("north") == (site.kept[2].receipt,)
    assert second.known("../../north") == second.known("south") == ()
