"""The bytes of every message, as Flower sends them: who changes one changes what other versions can read."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import RecordDict
from flwr.common.serde import recorddict_to_proto

from common import blocks, wire
from common.blocks import BLOCK
from common.messages import (
    Encoding,
    EnsembleReply,
    EnsembleRequest,
    EvaluateReply,
    EvaluateRequest,
    MissingWeights,
    NetworkReply,
    PlanReply,
    PlanRequest,
    Refusal,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
    WeightsRef,
)
from common.secure_aggregation import messages as sums
from common.secure_aggregation.terms import Context
from tests.receipts import make_receipt

RECEIPT = replace(make_receipt(), version="1.2", signature="77" * 64)

FLAT = np.arange(-3, 4, dtype=np.float32) / 3
LONG = np.sin(np.arange(2 * BLOCK + 5)).astype(np.float32)
"""Two blocks and five numbers over."""
PLAN = '{"format":1,"name":"Zürich"}'
CONTEXT = Context(
    plan_hash="ab" * 32,
    run="run-1",
    group="trees/0",
    server_round=3,
    attempt="0f" * 16,
    content="cd" * 32,
)


def train_request(encoding: Encoding = "bfloat16") -> TrainRequest:
    return TrainRequest(
        campaign="c",
        plan_hash="ab" * 32,
        request_id="r-1",
        group="trees/0",
        server_round=3,
        encoding=encoding,
        weights={"n/b": FLAT, "n/a": 2 * FLAT},
        layouts={"n/a": "hash a", "n/b": "hash b"},
        frozen={"n/a": {"backbone": WeightsRef("ef" * 32)}, "n/b": {}},
        attached={"ef" * 32: FLAT[:2]},
        extra={"n/b": {"variate": FLAT, "moment": -FLAT}, "n/a": {}},
        run="run-1",
        state_round=2,
    )


def train_reply() -> TrainReply:
    return TrainReply(
        site="s",
        request_id="r-1",
        networks={
            "n/b": NetworkReply(
                update=FLAT,
                num_examples=7,
                loss=0.25,
                histograms=np.arange(512, dtype=np.int64).reshape(2, 256),
                extra={"variate": FLAT},
            ),
            "n/a": NetworkReply(update=None, num_examples=0, loss=math.nan, histograms=None),
        },
    )


def in_blocks_request() -> TrainRequest:
    weights = blocks.rounded(LONG, len(LONG), bits=8)
    return replace(train_request("int8_int4"), weights={"n/b": weights, "n/a": LONG})


def in_blocks_reply() -> TrainReply:
    reply = train_reply()
    update = blocks.rounded(LONG, len(LONG), bits=4)
    return replace(reply, networks={**reply.networks, "n/b": replace(reply.networks["n/b"], update=update)})


def sum_request(asks: sums.Request) -> SumRequest:
    train = train_request("float32") if asks.phase == "masked" else None
    return SumRequest(campaign="c", request_id="r-2", networks=("n/b", "n/a"), asks=asks, train=train)


def sum_reply(says: sums.Reply) -> SumReply:
    return SumReply(site="s", request_id="r-2", says=says)


PLAN_REQUEST = PlanRequest(
    campaign="c",
    request_id="r-0",
    version="1.2",
    plan=PLAN,
    plan_hash="ab" * 32,
    run="run-1",
    known=(RECEIPT, replace(RECEIPT, sequence=9)),
)
PLAN_REPLY = PlanReply(
    site="s",
    version="1.2",
    plan_hash="ab" * 32,
    usable={"vascularity": 12, "hypertrophy": 0},
    public_key="01" * 32,
    without=("trees",),
    hours=((0, 420), (1140, 1860)),
    round_seconds=12.5,
    statistics='{"format":1}',
)
ENSEMBLE_REQUEST = EnsembleRequest(
    campaign="c",
    plan_hash="ab" * 32,
    request_id="r-3",
    statement='{"x":1}',
    signature="22" * 64,
    certificate="PEM",
    weights={"ef" * 32: FLAT},
)
EVALUATE_REQUEST = EvaluateRequest(
    campaign="c",
    plan_hash="ab" * 32,
    request_id="r-3",
    statement='{"x":1}',
    signature="22" * 64,
    certificate="PEM",
    weights={"ef" * 32: FLAT},
)
SUM_REQUESTS: tuple[sums.Request, ...] = (
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
    sums.UnmaskRequest(context=CONTEXT, signers=("a",), signatures=(b"6" * 64,)),
)
SUM_REPLIES: tuple[sums.Reply, ...] = (
    sums.KeysReply(site="s", mask_key=b"\0" * 32, share_key=b"1" * 32, signature=b"2" * 64),
    sums.SharesReply(site="s", receivers=("b",), ciphertexts=(b"\xff\0",), commitment=b"3" * 32),
    sums.MaskedReply(site="s", vector=np.array([0, 1, 2**32 - 1], np.uint32)),
    sums.MaskedReply(site="s", vector=np.array([0, 1, 2**64 - 1], np.uint64)),
    sums.SurvivorsReply(site="s", signature=b"4" * 64),
    sums.UnmaskReply(site="s", survivors=("a",), seed_shares=(b"5",), dropped=(), key_shares=()),
)


def records() -> Mapping[str, RecordDict]:
    """Every kind of message, by name."""
    found = {
        "plan request": wire.encode(PLAN_REQUEST),
        "plan request, bare": wire.encode(
            PlanRequest(campaign="c", request_id="r", version="1", plan="{}", plan_hash="p")
        ),
        "plan reply": wire.encode(PLAN_REPLY),
        "plan reply, bare": wire.encode(
            PlanReply(site="s", version="1", plan_hash="p", usable={}, public_key="k")
        ),
        "train request, bfloat16": wire.encode(train_request()),
        "train request, float32": wire.encode(train_request("float32")),
        "train reply, bfloat16": wire.encode(train_reply(), encoding="bfloat16"),
        "train reply, float32": wire.encode(train_reply(), encoding="float32"),
        "train request, int8_int4": wire.encode(in_blocks_request()),
        "train reply, int8_int4": wire.encode(in_blocks_reply(), encoding="int8_int4"),
        "train reply, stacking": wire.encode(
            replace(train_reply(), stacking={"n/fold1": np.arange(6).reshape(2, 3) / 3}), encoding="float32"
        ),
        "ensemble request": wire.encode(ENSEMBLE_REQUEST),
        "ensemble reply": wire.encode(EnsembleReply(site="s", request_id="r-3", missing=("ef" * 32,))),
        "evaluate request": wire.encode(EVALUATE_REQUEST),
        "evaluate reply": wire.encode(
            EvaluateReply(site="s", request_id="r-3", missing=(), tables='{"tables":[]}')
        ),
        "refusal": wire.encode(Refusal(site="s", code="budget", version="1.2")),
        "missing weights": wire.encode(MissingWeights(site="s", request_id="r-1", hashes=("ef" * 32,))),
    }
    found |= {f"sum request, {a.phase}": wire.encode(sum_request(a)) for a in SUM_REQUESTS}
    found |= {
        f"sum reply {number}, {says.phase}": wire.encode(sum_reply(says))
        for number, says in enumerate(SUM_REPLIES)
    }
    receipted = wire.with_receipt(found["train reply, float32"], RECEIPT)
    return found | {"receipt": receipted}


def digest(record: RecordDict) -> str:
    return hashlib.sha256(recorddict_to_proto(record).SerializeToString(deterministic=True)).hexdigest()


GOLDEN = {
    "plan request": "db631deff5f129e2b361a7496f308f1b0de299312d642b0f5d303fad50a296d0",
    "plan request, bare": "4fc90663377388cf68c8164ab2ea95c3d8762718ef3c5fc96248667828568b11",
    "plan reply": "51ad9e2530239c6ddbbd4c0ff8b20aef5588a053a9c691af4513b0b446c04d3d",
    "plan reply, bare": "aef0dd6a6d6e0931b4e23443cee0b8e37c781f456315b5087b37094e6b78b989",
    "train request, bfloat16": "7dfcc6ef5b687ded5fd54701c49b87442632f3485d6b337eb36edd504e4039d7",
    "train request, float32": "4cdf0f80fc080c9f0406388e3d184b76ad55c97736df76a32aa19db67af45cff",
    "train reply, bfloat16": "865fbd95833f0ec4611498b6ba669c478d088fd2ce9c216ef58d1a0b75a7c0f8",
    "train reply, float32": "3b6be77d2723d725250230abba3786056feb70bd36df48795e43db65ee2c3fe9",
    "train request, int8_int4": "80c52fabe0cdb66446c9d9929ee1cb843e5b915bb7a015e5b37da2eebdc71e02",
    "train reply, int8_int4": "49c4df41182d047cb3f5922a1a755a7b81ef6bffcb829312cd3e44e5fdc27cbe",
    "train reply, stacking": "da0854e8833a9ea1729673078a25b96e8adb47da53057f665b59204322a464da",
    "ensemble request": "dfa82d2346235fd79549eab0bc75c6d2d39f792464929b8bd3eae667170e4631",
    "ensemble reply": "27062e7b0a8154fe82590beccc68e32add3f8b96d80bb7a9752f324f72fabc3f",
    "evaluate request": "dfa82d2346235fd79549eab0bc75c6d2d39f792464929b8bd3eae667170e4631",
    "evaluate reply": "8c7250a35a95dd989b29cbe7b3ac1dd9005e557bf22e638d3566d9e1f096853e",
    "refusal": "148e0628f630d2d8956b967529d4d53fcf08ea7ec17a44896122a4a29f8205e6",
    "missing weights": "b75dbd7c9531129c6b3567f5ed7db2a70807706d05529ab1c2016abe768e4d25",
    "sum request, keys": "94db850ddcb48b090aeb278ccca195eecd9c0b4fed51f55bdeb292c071e727d9",
    "sum request, shares": "715097fb79977841a9ab49245da15ba46c5a8e71d4ff393cde0eca2585824336",
    "sum request, masked": "d8a7c9293b2d0d8f81306751e4fb32a67d055b6d19785f7d1b26707e3757bf63",
    "sum request, survivors": "8f4c198ae5e1f105fa4596748b54517b470e15af27ea81a78c3dc9a29a40e164",
    "sum request, unmask": "122ff5769d3748ca7fb4e43f22c2a1ed5933698349e6ba903528a22c7f2848b5",
    "sum reply 0, keys": "8d7f38a82fff9b03f0e838b86958bb78f5b79aa2962e66e52d73db602d26a9ed",
    "sum reply 1, shares": "94779b819bf36c3731331f1f1ce7e0f36c82f12c1fa03f4cef73143bef1227c6",
    "sum reply 2, masked": "cf0a8de44abe85b3e3b8d12bc2d1c7a6241c58775f48ceb2167d17f827f5e074",
    "sum reply 3, masked": "943468e6e70f39fc0f64fce84190669e2bfd7a285eb41ef30a172be5d0ab4c2b",
    "sum reply 4, survivors": "d898bf7367431059e4a312178396584e0df1c86e0ef8a62b089f8d94a11fee26",
    "sum reply 5, unmask": "bcbd1fa9a8bcfc81e615792ad701b5cba21b7137b2ddaf8ba9e3e428448ba154",
    "receipt": "b4f6dbebbf7d1437d48384ad232ed85a09467d54b06a40a2c1b845c86d3d25a0",
}
CONTENT = "a07c143cecf084b4a6a163969065f5cfa29d293c2232dcadde265590d58e79b1"
REPLY = "1e20cde5275f74474baa6b193b636f5908a2af6621a916e155217dfd2b6dcdbf"


def test_every_message_is_here() -> None:
    assert set(records()) == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_a_message_stay(name: str) -> None:
    assert digest(records()[name]) == GOLDEN[name]


def test_what_a_request_asks_for_has_the_same_hash_in_every_version() -> None:
    assert wire.content_hash(train_request()) == CONTENT
    assert wire.contents(records()["train reply, float32"]).hash == REPLY


def test_what_was_rounded_arrives_as_it_was() -> None:
    request = wire.decode(TrainRequest, wire.encode(in_blocks_request()))
    assert wire.content_hash(request) == wire.content_hash(in_blocks_request())
    for name, values in in_blocks_request().weights.items():
        np.testing.assert_array_equal(request.weights[name], values)
    weights, updates = (
        record.array_records[part]["n/b"]
        for record, part in (
            (records()["train request, int8_int4"], "weights"),
            (records()["train reply, int8_int4"], "updates"),
        )
    )
    assert (weights.dtype, len(weights.data)) == ("int8", 2 * 66 + 5 * 4)
    assert (updates.dtype, len(updates.data)) == ("int4", 2 * 34 + 5 * 4)
