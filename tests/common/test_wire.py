import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common import wire
from common.errors import UpdateError

FLOATS = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def _request(weights: np.ndarray, encoding: wire.Encoding = "float32") -> wire.TrainRequest:
    return wire.TrainRequest(
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
    decoded = wire.decode_train_request(wire.encode_train_request(_request(weights)))
    assert decoded.server_round == 3
    assert decoded.layouts == {"a/b": "h"}
    np.testing.assert_array_equal(decoded.weights["a/b"], weights)


@given(FLOATS)
def test_bfloat16_rounds_as_torch_does(weights: np.ndarray) -> None:
    decoded = wire.decode_train_request(wire.encode_train_request(_request(weights, "bfloat16")))
    expected = torch.from_numpy(weights.copy()).bfloat16().float().numpy()
    np.testing.assert_array_equal(decoded.weights["a/b"], expected)


def test_bfloat16_keeps_nan_and_halves_the_bytes() -> None:
    record = wire.encode_train_request(_request(np.array([1.0, np.nan], dtype=np.float32), "bfloat16"))
    array = record.array_records["weights"]["a/b"]
    assert len(array.data) == 4
    assert np.isnan(wire.decode_train_request(record).weights["a/b"][1])


def test_reply_round_trip_with_and_without_update_and_histograms() -> None:
    histograms = np.arange(512, dtype=np.int64).reshape(2, 256)
    reply = wire.TrainReply(
        site="s",
        request_id="r",
        networks={
            "a": wire.NetworkReply(
                update=np.ones(3, dtype=np.float32), num_examples=7, loss=0.5, histograms=histograms
            ),
            "b": wire.NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=None),
        },
    )
    decoded = wire.decode_train_reply(wire.encode_train_reply(reply, encoding="float32"))
    assert isinstance(decoded, wire.TrainReply)
    assert decoded.networks["a"].num_examples == 7
    np.testing.assert_array_equal(decoded.networks["a"].histograms, histograms)
    assert decoded.networks["b"].update is None
    assert decoded.networks["b"].histograms is None


def test_refusal_carries_a_code_and_nothing_else() -> None:
    record = wire.encode_refusal(wire.Refusal(site="s", code="data"))
    assert dict(record.config_records["refusal"]) == {"site": "s", "code": "data"}
    assert wire.decode_train_reply(record) == wire.Refusal(site="s", code="data")
    assert wire.decode_plan_reply(record) == wire.Refusal(site="s", code="data")


@pytest.mark.parametrize("change", ["missing", "unknown", "type"])
def test_a_request_with_other_fields_is_refused(change: str) -> None:
    record = wire.encode_train_request(_request(np.ones(2, dtype=np.float32)))
    config = record.config_records["request"]
    if change == "missing":
        del config["group"]
    elif change == "unknown":
        config["code"] = "import os"
    else:
        config["server-round"] = "3"
    with pytest.raises(UpdateError, match="Expected"):
        wire.decode_train_request(record)


def test_arrays_of_another_length_type_or_name_are_refused() -> None:
    good = wire.encode_train_request(_request(np.ones(2, dtype=np.float32)))
    for array in (
        Array("float32", (3,), "raw", b"1234"),
        Array("float64", (1,), "raw", b"12345678"),
        Array(np.ones(2, dtype=np.float32)),
    ):
        record = RecordDict(
            {"request": good.config_records["request"], "weights": ArrayRecord({"a/b": array})}
        )
        with pytest.raises(UpdateError, match="Expected raw"):
            wire.decode_train_request(record)
    record = RecordDict(
        {
            "request": ConfigRecord(dict(good.config_records["request"])),
            "weights": ArrayRecord({"other": good.array_records["weights"]["a/b"]}),
        }
    )
    with pytest.raises(UpdateError, match="Expected weights of"):
        wire.decode_train_request(record)
