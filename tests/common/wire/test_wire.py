from collections.abc import Mapping
from typing import cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common import wire
from common.errors import UpdateError, VerificationError
from common.messages import Encoding, NetworkReply, PlanReply, Refusal, Signed, TrainReply, TrainRequest
from tests.receipts import make_receipt

FLOATS = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def _request(weights: np.ndarray, encoding: Encoding = "float32") -> TrainRequest:
    return TrainRequest(
        campaign="c",
        plan_hash="p",
        request_id="r",
        group="g",
        server_round=3,
        encoding=encoding,
        weights={"a/b": weights},
        layouts={"a/b": "h"},
    )


@given(FLOATS)
def test_request_round_trip_is_exact_in_float32(weights: np.ndarray) -> None:
    decoded = wire.decode(TrainRequest, wire.encode(_request(weights)))
    assert decoded.server_round == 3
    assert decoded.layouts == {"a/b": "h"}
    np.testing.assert_array_equal(decoded.weights["a/b"], weights)


@given(FLOATS)
def test_bfloat16_rounds_as_torch_does(weights: np.ndarray) -> None:
    decoded = wire.decode(TrainRequest, wire.encode(_request(weights, "bfloat16")))
    expected = torch.from_numpy(weights.copy()).bfloat16().float().numpy()
    np.testing.assert_array_equal(decoded.weights["a/b"], expected)


def test_bfloat16_keeps_nan_and_halves_the_bytes() -> None:
    record = wire.encode(_request(np.array([1.0, np.nan], dtype=np.float32), "bfloat16"))
    array = record.array_records["weights"]["a/b"]
    assert len(array.data) == 4
    assert np.isnan(wire.decode(TrainRequest, record).weights["a/b"][1])


def test_reply_round_trip_with_and_without_update_and_histograms() -> None:
    histograms = np.arange(512, dtype=np.int64).reshape(2, 256)
    reply = TrainReply(
        site="s",
        request_id="r",
        networks={
            "a": NetworkReply(
                update=np.ones(3, dtype=np.float32), num_examples=7, loss=0.5, histograms=histograms
            ),
            "b": NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=None),
        },
    )
    record = wire.encode(reply, encoding="float32")
    receipt = make_receipt(reply_hash=wire.contents(record).hash)
    signed = wire.decode_round_reply(TrainReply, wire.with_receipt(record, receipt))
    assert isinstance(signed, Signed)
    assert signed.receipt == receipt
    assert signed.contents_hash == receipt.reply_hash
    decoded = signed.reply
    assert decoded.networks["a"].num_examples == 7
    np.testing.assert_array_equal(decoded.networks["a"].histograms, histograms)
    assert decoded.networks["b"].update is None
    assert decoded.networks["b"].histograms is None


def test_refusal_carries_a_code_and_the_version_and_nothing_else() -> None:
    refusal = Refusal(site="s", code="data", version="0.9")
    record = wire.encode(refusal)
    assert dict(record.config_records["refusal"]) == {"site": "s", "code": "data", "version": "0.9"}
    assert wire.decode_round_reply(TrainReply, record) == refusal
    assert wire.decode_reply(PlanReply, record) == refusal


def _consent(hours: tuple[tuple[int, int], ...], round_seconds: float) -> PlanReply:
    return PlanReply(
        site="s",
        version="1",
        plan_hash="p",
        usable={"hypertrophy": 3},
        public_key="k",
        hours=hours,
        round_seconds=round_seconds,
    )


def test_consent_announces_hours_and_pace() -> None:
    reply = _consent(((0, 420), (1140, 1860)), 12.5)
    record = wire.encode(reply)
    receipt = make_receipt(reply_hash=wire.contents(record).hash)
    signed = wire.decode_reply(PlanReply, wire.with_receipt(record, receipt))
    assert isinstance(signed, Signed)
    assert signed.reply == reply


@pytest.mark.parametrize("hours", ["3", "[[3]]", "[[5, 4]]", "[[0, 10081]]", '[["a", "b"]]'])
def test_hours_outside_a_week_are_refused(hours: str) -> None:
    record = wire.encode(_consent((), 1.0))
    record.config_records["reply"]["hours"] = hours
    with pytest.raises(UpdateError, match="hours"):
        wire.decode_reply(PlanReply, record)


@pytest.mark.parametrize("change", ["missing", "unknown", "type"])
def test_a_request_with_other_fields_is_refused(change: str) -> None:
    record = wire.encode(_request(np.ones(2, dtype=np.float32)))
    config = record.config_records["request"]
    if change == "missing":
        del config["group"]
    elif change == "unknown":
        config["code"] = "import os"
    else:
        config["server-round"] = "3"
    with pytest.raises(UpdateError, match="Expected"):
        wire.decode(TrainRequest, record)


def test_arrays_of_another_length_type_or_name_are_refused() -> None:
    good = wire.encode(_request(np.ones(2, dtype=np.float32)))
    for array in (
        Array("float32", (3,), "raw", b"1234"),
        Array("float64", (1,), "raw", b"12345678"),
        Array(np.ones(2, dtype=np.float32)),
    ):
        record = RecordDict(
            {"request": good.config_records["request"], "weights": ArrayRecord({"a/b": array})}
        )
        with pytest.raises(UpdateError, match="Expected raw"):
            wire.decode(TrainRequest, record)
    record = RecordDict(
        {
            "request": ConfigRecord(dict(good.config_records["request"])),
            "weights": ArrayRecord({"other": good.array_records["weights"]["a/b"]}),
        }
    )
    with pytest.raises(UpdateError, match="Expected weights of"):
        wire.decode(TrainRequest, record)


@pytest.mark.parametrize(
    ("array", "encoding", "says"),
    [
        (Array("int8", (64,), "raw", b"\xc0\x7f" + b"\x7f" * 64), "int8_int4", "scales"),  # NaN
        (Array("int8", (64,), "raw", b"\x80\x3f" + b"\x80" * 64), "int8_int4", "codes"),  # -128
        (Array("int8", (64,), "raw", b"\x80\x3f" + b"\x7f" * 63), "int8_int4", "65 bytes"),
        (Array("int8", (-1,), "raw", b""), "int8_int4", "0 bytes"),
        (Array("int8", (1, 64), "raw", b"\x80\x3f" + b"\x7f" * 64), "int8_int4", "Expected raw"),
        (
            Array("int4", (64,), "raw", b"\x80\x3f" + b"\x77" * 32),
            "int8_int4",
            "Expected raw",
        ),  # of an update
        (Array("int8", (64,), "raw", b"\x80\x3f" + b"\x7f" * 64), "float32", "written otherwise"),
        (Array("float32", (1,), "raw", b"1234"), "int8_int4", "written otherwise"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(array: Array, encoding: Encoding, says: str) -> None:
    good = wire.encode(_request(np.ones(2, dtype=np.float32), encoding))
    record = RecordDict({"request": good.config_records["request"], "weights": ArrayRecord({"a/b": array})})
    with pytest.raises(UpdateError, match=says):
        wire.decode(TrainRequest, record)


def _reply(**changes: object) -> RecordDict:
    reply = {"site": "s", "request_id": "r", "name": "a"}
    network = {
        "update": np.ones(3, dtype=np.float32),
        "num_examples": 7,
        "loss": 0.5,
        "histograms": np.zeros((2, 256), dtype=np.int64),
    }
    reply |= {name: str(value) for name, value in changes.items() if name in reply}
    network |= {name: value for name, value in changes.items() if name in network}
    name = reply.pop("name")
    networks = {name: NetworkReply(**network)}  # type: ignore[arg-type]
    stacking = cast(Mapping[str, np.ndarray], changes.get("stacking", {}))
    packed = TrainReply(
        site=reply["site"], request_id=reply["request_id"], networks=networks, stacking=stacking
    )
    return wire.encode(packed, encoding="float32")


@pytest.mark.parametrize(
    "change",
    [
        {"site": "t"},
        {"request_id": "q"},
        {"name": "b"},
        {"num_examples": 8},
        {"loss": 0.25},
        {"loss": float("nan")},
        {"update": np.array([1, 1, 1.0000001], dtype=np.float32)},
        {"update": None},
        {"histograms": np.eye(2, 256, dtype=np.int64)},
        {"histograms": None},
        {"stacking": {"n/fold0": np.ones((2, 3))}},
        {"stacking": {"n/fold0": np.zeros((2, 3))}},
    ],
)
def test_the_hash_covers_everything_that_leaves(change: dict[str, object]) -> None:
    assert wire.contents(_reply(**change)).hash != wire.contents(_reply()).hash
    assert wire.contents(_reply(**change)).hash == wire.contents(_reply(**change)).hash


def test_sums_for_stacking_arrive_bit_for_bit_and_have_no_part_where_there_are_none() -> None:
    sums = np.array([[2.0, 1 / 3, 0.1], [1 / 3, 4.0, 1e-300]])
    record = wire.with_receipt(_reply(stacking={"n/fold0": sums}), make_receipt())
    arrived = wire.decode_round_reply(TrainReply, recorddict_from_proto(recorddict_to_proto(record)))
    assert isinstance(arrived, Signed)
    assert arrived.reply.stacking["n/fold0"].tobytes() == sums.tobytes()
    assert "stacking" not in _reply()
    record.array_records["stacking"]["n/fold0"] = Array("float32", (6,), "raw", bytes(24))
    with pytest.raises(UpdateError, match=r"Expected raw float64 of the stated shape, \(rows, columns\)"):
        wire.decode_round_reply(TrainReply, record)


def test_the_hash_is_the_same_after_a_true_passage_over_the_wire() -> None:
    record = wire.with_receipt(_reply(), make_receipt())
    passed = recorddict_from_proto(recorddict_to_proto(record))
    assert wire.contents(passed) == wire.contents(record) == wire.contents(_reply())
    assert wire.contents(record).size_bytes == 3 * 4 + 2 * 256 * 8
    arrived = wire.decode_round_reply(TrainReply, passed)
    assert isinstance(arrived, Signed)
    assert arrived.receipt == make_receipt()


@pytest.mark.parametrize("change", [{"sequence": "3"}, {"sequence": None}, {"more": "x"}])
def test_a_receipt_with_other_fields_is_refused(change: dict[str, object]) -> None:
    record = wire.with_receipt(_reply(), make_receipt())
    config = record.config_records["receipt"]
    for name, value in change.items():
        if value is None:
            del config[name]
        else:
            config[name] = str(value)
    with pytest.raises(VerificationError, match="receipt"):
        wire.decode_round_reply(TrainReply, record)
    with pytest.raises(VerificationError, match="receipt"):
        wire.decode_round_reply(TrainReply, _reply())


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("reply", "num-examples", [7.0]),
        ("reply", "num-examples", [True]),
        ("reply", "num-examples", []),
        ("reply", "loss", [1]),
        ("reply", "networks", [1]),
        ("reply", "site", 1),
    ],
)
def test_nothing_of_another_type_is_converted(part: str, entry: str, value: list[int] | int) -> None:
    record = wire.with_receipt(_reply(), make_receipt())
    record.config_records[part][entry] = value
    with pytest.raises(UpdateError, match=f"{part}.{entry}"):
        wire.decode_round_reply(TrainReply, record)


@pytest.mark.parametrize(
    "usable", ['{"a": 1.5}', '{"a": true}', '{"a": NaN}', '{"a": "3"}', "[1]", "no JSON", "[" * 10_000]
)
def test_counts_that_are_none_are_refused(usable: str) -> None:
    record = wire.encode(_consent((), 1.0))
    record.config_records["reply"]["usable"] = usable
    with pytest.raises(UpdateError, match=r"reply\.usable"):
        wire.decode_reply(PlanReply, record)


def test_a_part_that_no_message_has_is_refused() -> None:
    record = wire.with_receipt(_reply(), make_receipt())
    record["losses"] = ConfigRecord({"loss": 0.5})
    with pytest.raises(UpdateError, match="losses"):
        wire.decode_round_reply(TrainReply, record)
    record = wire.encode(_request(np.ones(2, dtype=np.float32)))
    record["extra"] = ArrayRecord({"moment:b": Array("float32", (1,), "raw", b"1234")})
    with pytest.raises(UpdateError, match="further arrays"):
        wire.decode(TrainRequest, record)


def test_a_network_named_twice_is_refused() -> None:
    record = wire.with_receipt(_reply(), make_receipt())
    record.config_records["reply"].update(
        {"networks": ["a", "a"], "num-examples": [1, 2], "loss": [0.1, 0.2]}
    )
    with pytest.raises(UpdateError, match="once"):
        wire.decode_round_reply(TrainReply, record)
