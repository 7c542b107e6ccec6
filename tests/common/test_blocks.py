from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common import blocks
from common.blocks import BLOCK, TOPS
from common.errors import UpdateError

NUMBERS = arrays(
    np.float32,
    st.integers(0, 5 * BLOCK),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    fill=st.floats(-1, 1, width=32),
)
BITS = st.sampled_from(sorted(TOPS))


def drawn(size: int = 5 * BLOCK + 7, *, scale: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(size) * scale).astype(np.float32)


@given(NUMBERS, BITS, st.data())
def test_every_number_is_within_half_a_step_of_its_block_and_the_rest_is_whole(
    values: np.ndarray, bits: int, data: st.DataObject
) -> None:
    coded = data.draw(st.integers(0, len(values)))
    rounded = blocks.rounded(values, coded, bits=bits)
    full = coded // BLOCK * BLOCK
    np.testing.assert_array_equal(rounded[full:], values[full:])
    before = values[:full].reshape(-1, BLOCK).astype(np.float64)
    largest = np.abs(before).max(axis=1, initial=0.0, keepdims=True)
    step = largest / TOPS[bits]
    half = np.where(largest > 3.3e38, 1, 0.5)  # beside the largest float32 no larger scale can be
    allowed = np.where(step < 1.19e-38, largest, half * step * (1 + 2**-7))
    assert (np.abs(rounded[:full].reshape(-1, BLOCK) - before) <= allowed).all()


@given(NUMBERS, BITS)
def test_what_was_rounded_is_written_in_few_bits_and_read_without_loss(values: np.ndarray, bits: int) -> None:
    rounded = blocks.rounded(values, len(values), bits=bits)
    data = blocks.encode(rounded, bits=bits)
    assert len(data) == blocks.size_bytes(len(values), len(values), bits=bits)
    read = blocks.decode(data, len(values), bits=bits)
    np.testing.assert_array_equal(read, rounded)
    np.testing.assert_array_equal(blocks.rounded(read, len(read), bits=bits), read)
    assert blocks.encode(read, bits=bits) == data


@given(NUMBERS, BITS)
def test_whatever_was_not_rounded_is_written_without_loss_too(values: np.ndarray, bits: int) -> None:
    data = blocks.encode(values, bits=bits)
    assert len(data) <= 4 * len(values)
    np.testing.assert_array_equal(blocks.decode(data, len(values), bits=bits), values)


def test_nan_and_infinity_arrive_so_that_the_receiver_can_refuse_them() -> None:
    values = blocks.rounded(drawn(), 5 * BLOCK, bits=4)
    values[BLOCK + 3], values[-1] = np.nan, np.inf
    data = blocks.encode(values, bits=4)
    assert len(data) == blocks.size_bytes(len(values), BLOCK, bits=4)
    np.testing.assert_array_equal(blocks.decode(data, len(values), bits=4), values)


def test_more_blocks_than_are_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = blocks.rounded(drawn(), 5 * BLOCK, bits=8)
    data = blocks.encode(values, bits=8)
    monkeypatch.setattr(blocks, "CHUNK", 2)
    np.testing.assert_array_equal(blocks.rounded(drawn(), 5 * BLOCK, bits=8), values)
    assert blocks.encode(values, bits=8) == data


GOLDEN = {
    8: "bc888d1a2693c50e7a85a804b060a0984b06559a1270f8756859ea2af34a13cc",
    4: "f55e30c965300a72aea20ebd4827176729d72ed7ed548ca8f9a0bd27796581d4",
}


@pytest.mark.parametrize("bits", sorted(GOLDEN))
def test_the_bytes_stay(bits: int) -> None:
    values = np.sin(np.arange(2 * BLOCK + 5)).astype(np.float32)
    data = blocks.encode(blocks.rounded(values, len(values), bits=bits), bits=bits)
    assert hashlib.sha256(data).hexdigest() == GOLDEN[bits]


def test_bytes_by_hand() -> None:
    values = np.zeros(BLOCK + 1, dtype=np.float32)
    values[:3] = 7.0, -3.4, 0.6
    values[-1] = 0.1
    data = blocks.encode(blocks.rounded(values, BLOCK, bits=4), bits=4)
    scale, codes, whole = data[:2], data[2 : 2 + BLOCK // 2], data[2 + BLOCK // 2 :]
    assert scale == b"\x80\x3f"  # bfloat16 of 1
    assert codes == bytes([0xD7, 0x01, *[0] * (BLOCK // 2 - 2)])  # 7 and -3, 1 and 0
    assert whole == np.float32(0.1).tobytes()


def damaged(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize(
    ("bits", "change", "says"),
    [
        (8, lambda d: d[:-1], "no number of blocks"),
        (4, lambda d: d + b"\0", "no number of blocks"),
        (4, lambda d: d[: 2 * 34], "no number of blocks"),
        (8, lambda d: b"", "no number of blocks"),
        (8, lambda d: damaged(d, 0, b"\xc0\x7f"), "scales"),  # NaN
        (8, lambda d: damaged(d, 2, b"\x80\x7f"), "scales"),  # infinity
        (4, lambda d: damaged(d, 2, b"\x80\xbf"), "scales"),  # -1
        (4, lambda d: damaged(d, 0, b"\x01\x00"), "scales"),  # smaller than any that is written
        (8, lambda d: damaged(d, 0, b"\x7f\x7f"), "scales"),  # times 127 it is infinite
        (4, lambda d: damaged(d, 0, b"\x00\x00"), "codes"),  # codes without a scale
        (8, lambda d: damaged(d, 10, b"\x80"), "codes"),  # -128
        (4, lambda d: damaged(d, 10, b"\x88"), "codes"),  # -8
        (4, lambda d: damaged(d, 10, b"\0" * 32), "codes"),  # a scale without codes
    ],
)
def test_bytes_that_nothing_was_written_as_are_refused(bits: int, change: object, says: str) -> None:
    values = blocks.rounded(drawn(5 * BLOCK), 5 * BLOCK, bits=bits)
    data = blocks.encode(values, bits=bits)
    assert callable(change)
    with pytest.raises(UpdateError, match=says):
        blocks.decode(change(data), len(values), bits=bits)
