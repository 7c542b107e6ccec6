"""Training without privacy, through the real ClientApp: booked before it leaves, and named in the receipt."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger import ledger, ledger_check, ledger_file, ledger_head
from client.ledger.ledger_spent import spent
from client.rounds import exchange, unprotected
from client.rounds.exchange import Compute
from client.site.site import Site
from client.withdrawal import withdrawal
from common import receipts
from common.messages import Refusal, Signed, TrainReply, TrainRequest
from common.receipts import Kept
from common.settings import Settings
from tests import asking
from tests.asking import Centre

AUTOMATIC = asking.CAUTIOUS + 'approval = "automatic"\n'
GONE = "north-p001"


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    ledger_file._known.clear()
    unprotected._booked.clear()
    asks = Centre(asking.site(tmp_path / "north", policy=AUTOMATIC))
    assert isinstance(asks.plan(asks.plan_request()), Signed)
    yield asks
    ledger_file._known.clear()


def signed(centre: Centre, server_round: int) -> Signed[TrainReply]:
    answer = centre.train(centre.train_request(server_round))
    assert isinstance(answer, Signed), centre.text_log()
    return answer


def test_a_campaign_is_booked_once_for_all_whom_it_reads(centre: Centre) -> None:
    assert ledger_file.read(centre.folder).head.sequence == 0
    replies = [signed(centre, server_round) for server_round in (1, 2, 3)]
    (booked,) = ledger.book(centre.folder).releases
    assert len(booked.eligible) == 6  # of eight patients, two are held out
    assert booked.release.plan_hash == centre.settings.plan_hash()
    found = spent(Site.open(centre.folder))
    assert (found.patients, found.unbounded_patients) == (6, 6)
    salt = ledger_head.salt(centre.folder, centre.settings.plan_hash())
    told = receipts.salted(salt, ledger_file.read(centre.folder).head.hash)
    assert {(one.receipt.ledger_sequence, one.receipt.ledger_head) for one in replies} == {(1, told)}


def test_receipts_tell_where_the_ledger_was(centre: Centre) -> None:
    answer = signed(centre, 1)
    public_key = str(ledger.book(centre.folder).opened["public_key"])
    kept = Kept(received="now", public_key=public_key, receipt=answer.receipt)
    checked = ledger_check.check(centre.folder, [kept])
    assert (checked.receipts, checked.unbounded) == (1, 1)


def test_what_cannot_be_booked_does_not_leave(centre: Centre) -> None:
    ledger_file.site_secret(centre.folder)
    place = centre.folder / ledger_file.NAME
    place.mkdir()
    centre.refused(centre.train(centre.train_request()), "storage", says="ledger")
    place.rmdir()
    assert isinstance(signed(centre, 1), Signed)


def test_whoever_withdraws_while_a_round_is_computed_is_not_in_it(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The withdrawal comes right after training, before the reply."""
    signed(centre, 1)
    site = Site.open(centre.folder)
    real = exchange._trained

    def trained(site: Site, request: TrainRequest, settings: Settings, compute: Compute) -> object:
        reply = real(site, request, settings, compute)
        withdrawal.withdraw(site, GONE)
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(exchange, "_trained", trained)
        answer = centre.train(centre.train_request(2))
    assert isinstance(answer, Refusal)
    assert answer.code == "policy"
    assert "one of them has withdrawn" in centre.text_log()
    signed(centre, 3)
    book = ledger.book(centre.folder)
    (gone,) = book.withdrawn.values()
    assert [gone in one.eligible for one in book.releases] == [True]
    (campaign,) = withdrawal.withdraw(site, GONE).statement.campaigns
    assert campaign.rounds == (1,)
