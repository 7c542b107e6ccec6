import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import CampaignError, VerificationError
from common.messages import PlanReply, PlanRequest, Signed, TrainReply, TrainRequest
from common.receipts import Receipt
from common.version import VERSION
from server.campaign.received_receipts import Asked, Receipts
from tests.receipts import KEY, PUBLIC_KEY, make_receipt

PLAN = PlanRequest(campaign="test", request_id="fresh", version=VERSION, plan="{}", plan_hash="p" * 64)


def consent(sequence: int = 1, *, site: str = "north", key: Ed25519PrivateKey = KEY) -> Signed[PlanReply]:
    public_key = key.public_key().public_bytes_raw().hex()
    reply = PlanReply(site=site, version=VERSION, plan_hash="p" * 64, usable={}, public_key=public_key)
    receipt = make_receipt(
        site=site, request_id="fresh", server_round=0, group="", sequence=sequence, key=key
    )
    return Signed(reply=reply, receipt=receipt, contents_hash="a" * 64)


def request(server_round: int = 1) -> TrainRequest:
    return TrainRequest(
        campaign="test",
        plan_hash="p" * 64,
        request_id=f"r{server_round}",
        group="g",
        server_round=server_round,
        encoding="float32",
        weights={},
        layouts={},
    )


def answer(server_round: int = 1, sequence: int = 2) -> Signed[TrainReply]:
    receipt = make_receipt(request_id=f"r{server_round}", server_round=server_round, sequence=sequence)
    reply = TrainReply(site="north", request_id=f"r{server_round}", networks={})
    return Signed(reply=reply, receipt=receipt, contents_hash="a" * 64)


def met(folder: Path, sequence: int = 1) -> Receipts:
    receipts = Receipts(folder)
    receipts.meet(PLAN, consent(sequence))
    return receipts


def kept(folder: Path) -> list[int]:
    lines = (folder / "receipts" / "north.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["receipt"]["sequence"] for line in lines]


def take(receipts: Receipts, asked: Asked, signed: Signed[TrainReply]) -> TrainReply:
    reply = receipts.check(asked, signed)
    receipts.keep(signed)
    return reply


def test_receipts_that_fit_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    receipts = met(folder)
    assert take(receipts, receipts.asked("north", request(1)), answer(1, 2)) == answer(1, 2).reply
    take(receipts, receipts.asked("north", request(2)), answer(2, 5))
    assert kept(folder) == [1, 2, 5]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"campaign": "other"}, "campaign"),
        ({"plan_hash": "q" * 64}, "plan_hash"),
        ({"request_id": "r0"}, "request_id"),
        ({"server_round": 2}, "server_round"),
        ({"group": "h"}, "group"),
        ({"site": "south"}, "site"),
        ({"reply_hash": "d" * 64}, "reply_hash"),
        ({"sequence": 1}, "sent again"),
        ({"key": Ed25519PrivateKey.from_private_bytes(bytes(32))}, "signature"),
    ],
)
def test_a_receipt_that_does_not_fit_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    receipts = met(tmp_path)
    facts = {"request_id": "r1", "server_round": 1, "sequence": 2, **changes}
    bad = replace(answer(), receipt=make_receipt(**facts))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=says):
        take(receipts, receipts.asked("north", request()), bad)
    assert kept(tmp_path) == [1]


def test_replies_may_overtake_each_other_but_not_go_back_behind_their_group(tmp_path: Path) -> None:
    receipts = met(tmp_path)
    first, second = receipts.asked("north", request(1)), receipts.asked("north", request(2))
    take(receipts, second, answer(2, 3))
    take(receipts, first, answer(1, 2))
    with pytest.raises(VerificationError, match="above 3"):
        take(receipts, receipts.asked("north", request(3)), answer(3, 3))


def test_the_same_reply_may_come_again_and_is_kept_once(tmp_path: Path) -> None:
    receipts = met(tmp_path)
    asked = receipts.asked("north", request(1))
    take(receipts, asked, answer(1, 2))
    take(receipts, asked, answer(1, 2))
    again = met(tmp_path, sequence=3)
    take(again, again.asked("north", request(1)), answer(1, 2))
    assert kept(tmp_path) == [1, 2, 3]


def test_taken_up_again_numbers_go_on_growing_or_the_campaign_stops(tmp_path: Path) -> None:
    receipts = met(tmp_path)
    take(receipts, receipts.asked("north", request()), answer(1, 4))
    with (tmp_path / "receipts" / "north.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"received"')  # the centre was killed
    with pytest.raises(VerificationError, match="above 4"):
        met(tmp_path, sequence=4)
    met(tmp_path, sequence=5)
    assert kept(tmp_path) == [1, 4, 5]


def test_another_key_in_the_same_run_stops_the_campaign(tmp_path: Path) -> None:
    met(tmp_path)
    with pytest.raises(VerificationError, match=r"keys/receipt\.pem"):
        Receipts(tmp_path).meet(PLAN, consent(2, key=Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("name", ["../north", "", "a/b", ".hidden", "x" * 65])
def test_a_name_that_is_none_makes_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(CampaignError, match="site's name"):
        Receipts(tmp_path).meet(PLAN, consent(site=name))
    assert not list(tmp_path.iterdir())


def test_a_consent_to_an_earlier_handshake_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="request_id"):
        Receipts(tmp_path).meet(replace(PLAN, request_id="next"), consent())


def test_a_consent_that_was_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="reply_hash"):
        Receipts(tmp_path).meet(PLAN, replace(consent(), contents_hash="e" * 64))
    signed = consent()
    assert signed.reply.public_key == PUBLIC_KEY
    assert isinstance(signed.receipt, Receipt)
