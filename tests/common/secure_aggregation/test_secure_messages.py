"""Secure sums on the wire."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from common import wire
from common.errors import UpdateError
from common.messages import Signed, SumReply, SumRequest, TrainRequest, sum_request_id
from common.receipts import Receipt
from common.secure_aggregation import messages as sums
from common.secure_aggregation.messages import Reply, Request
from tests import summing
from tests.receipts import make_receipt

RECEIPT: Receipt = make_receipt()
CONTEXT = summing.context("7")
REQUESTS: tuple[Request, ...] = (
    sums.KeysRequest(context=CONTEXT),
    sums.SharesRequest(
        context=CONTEXT,
        sites=("a", "b"),
        mask_keys=(b"\0" * 32, b"1" * 32),
        share_keys=(b"2" * 32, b"3" * 32),
        signatures=(b"4" * 64, b"5" * 64),
    ),
    sums.MaskedRequest(context=CONTEXT, sharers=("a", "b"), senders=("b",), ciphertexts=(b"\xff\0",)),
    sums.SurvivorsRequest(context=CONTEXT, survivors=("a", "b")),
    sums.UnmaskRequest(context=CONTEXT, signers=(), signatures=()),
)
REPLIES: tuple[Reply, ...] = (
    sums.KeysReply(site="a", mask_key=b"\0" * 32, share_key=b"1" * 32, signature=b"2" * 64),
    sums.SharesReply(site="a", receivers=("b",), ciphertexts=(b"\xff\0",), commitment=b"3" * 32),
    sums.SurvivorsReply(site="a", signature=b"4" * 64),
    sums.UnmaskReply(site="a", survivors=("a",), seed_shares=(b"5",), dropped=(), key_shares=()),
)


def request(asks: Request) -> SumRequest:
    request_id = sum_request_id(CONTEXT, asks.phase)
    train = TrainRequest(
        campaign="c",
        plan_hash=CONTEXT.plan_hash,
        request_id=request_id,
        group=CONTEXT.group,
        server_round=CONTEXT.server_round,
        encoding="float32",
        weights={"n": np.arange(3, dtype=np.float32)},
        layouts={"n": "x"},
        extra={"n": {}},
    )
    masked = asks.phase == "masked"
    return SumRequest(
        campaign="c",
        request_id=request_id,
        networks=("n",),
        asks=asks,
        train=train if masked else None,
    )


@pytest.mark.parametrize("asks", REQUESTS, ids=lambda asks: asks.phase)
def test_requests_come_as_they_were_sent(asks: Request) -> None:
    sent = request(asks)
    came = wire.decode(SumRequest, wire.encode(sent))
    assert came.asks == asks
    assert (came.campaign, came.request_id, came.networks) == (sent.campaign, sent.request_id, ("n",))
    if sent.train is not None:
        assert came.train is not None
        np.testing.assert_array_equal(came.train.weights["n"], sent.train.weights["n"])
        assert replace(came.train, weights={}) == replace(sent.train, weights={})
    assert came.place == ((3, "heads") if asks.phase == "masked" else (0, "sum/heads/3"))


@pytest.mark.parametrize("says", REPLIES, ids=lambda says: says.phase)
def test_replies_come_as_they_were_sent(says: Reply) -> None:
    record = wire.encode(SumReply(site="a", request_id="r", says=says))
    came = wire.decode_round_reply(SumReply, wire.with_receipt(record, RECEIPT))
    assert isinstance(came, Signed)
    assert came.reply == SumReply(site="a", request_id="r", says=says)
    assert came.contents_hash == wire.contents(record).hash


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_vectors_come_as_they_were_sent(kind: type[np.unsignedinteger]) -> None:
    vector = np.array([0, 1, 2**32 - 1], kind)
    says = sums.MaskedReply(site="a", vector=vector)
    record = wire.encode(SumReply(site="a", request_id="r", says=says))
    came = wire.decode_round_reply(SumReply, wire.with_receipt(record, RECEIPT))
    assert isinstance(came, Signed)
    assert isinstance(came.reply.says, sums.MaskedReply)
    assert came.reply.says.vector.dtype == kind
    np.testing.assert_array_equal(came.reply.says.vector, vector)
    record["vector"] = ArrayRecord({"masked": Array("float32", (3,), "raw", b"\0" * 12)})
    with pytest.raises(UpdateError, match="uint32 or uint64"):
        wire.decode_round_reply(SumReply, wire.with_receipt(record, RECEIPT))


def test_what_is_none_of_the_protocol_is_refused() -> None:
    record = wire.encode(request(REQUESTS[0]))
    record["sum"] = ConfigRecord({**record.config_records["sum"], "more": 1})
    with pytest.raises(UpdateError, match="more"):
        wire.decode(SumRequest, record)
    record = wire.encode(request(REQUESTS[1]))
    record["sum"] = ConfigRecord({**record.config_records["sum"], "signatures": ["zz", "00"]})
    with pytest.raises(UpdateError, match="hex"):
        wire.decode(SumRequest, record)
    record = wire.encode(request(REQUESTS[2]))
    del record["train"]
    with pytest.raises(UpdateError, match="in phase masked alone"):
        wire.decode(SumRequest, record)
    reply = wire.encode(SumReply(site="a", request_id="r", says=REPLIES[0]))
    reply["losses"] = ConfigRecord({"loss": 0.5})
    with pytest.raises(UpdateError, match="losses"):
        wire.decode_round_reply(SumReply, wire.with_receipt(reply, RECEIPT))


def test_ids_tell_phases_and_attempts_apart() -> None:
    ids = {
        sum_request_id(context, phase) for context in (CONTEXT, summing.context("8")) for phase in sums.PHASES
    }
    assert len(ids) == 2 * len(sums.PHASES)
