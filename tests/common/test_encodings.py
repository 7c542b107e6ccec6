from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import bfloat16, blocks, encodings
from common.errors import ConfigurationError
from common.messages import Encoding
from tests.site_folders import make_settings

TRAINED = 3 * blocks.BLOCK
SIZE = TRAINED + 40


def drawn(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    sizes = generator.choice([1e-6, 1e-3, 1.0], SIZE)
    return np.asarray(generator.standard_normal(SIZE) * sizes, dtype=np.float32)


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_what_left_in_all_rounds_is_all_updates_but_the_last_rounding(seed: int, rounds: int) -> None:
    updates = [drawn(seed + r) for r in range(rounds)]
    residual, left = np.zeros(SIZE, np.float32), np.zeros(SIZE)
    for update in updates:
        whole = update + residual
        sent, residual = encodings.sent_update(update, residual, trained=TRAINED)
        step = np.abs(whole[:TRAINED]).reshape(3, -1).max(axis=1) / 7
        left += sent
    owed = np.sum(updates, axis=0, dtype=np.float64) - left
    np.testing.assert_allclose(owed, residual, atol=1e-6 * rounds)
    assert (np.abs(residual[:TRAINED]).reshape(3, -1).max(axis=1) <= 0.505 * step).all()


def test_statistics_of_norms_are_sent_whole() -> None:
    """A channel that hardly varies beside one that does: eight bits would make its variance zero."""
    weights = drawn(0)
    weights[TRAINED:] = 1e-4
    weights[-1] = 900
    for sent in (
        encodings.sent_weights(weights, "int8_int4", trained=TRAINED),
        encodings.sent_update(weights, np.zeros(SIZE, np.float32), trained=TRAINED)[0],
    ):
        np.testing.assert_array_equal(sent[TRAINED:], weights[TRAINED:])
        assert not np.array_equal(sent[:TRAINED], weights[:TRAINED])


def test_weights_are_what_the_wire_makes_of_them() -> None:
    weights = drawn(1)
    assert encodings.sent_weights(weights, "float32", trained=TRAINED) is weights
    np.testing.assert_array_equal(
        encodings.sent_weights(weights, "bfloat16", trained=TRAINED),
        bfloat16.decode(bfloat16.encode(weights)),
    )


@pytest.mark.parametrize(
    ("encoding", "down", "up"),
    [
        ("float32", 4 * SIZE, 4 * SIZE),
        ("bfloat16", 2 * SIZE, 2 * SIZE),
        ("int8_int4", 3 * 66 + 4 * 40, 3 * 34 + 4 * 40),
    ],
)
def test_bytes_of_a_network(encoding: Encoding, down: int, up: int) -> None:
    assert encodings.weights_bytes(encoding, size=SIZE, trained=TRAINED) == down
    assert encodings.update_bytes(encoding, size=SIZE, trained=TRAINED) == up


def test_it_is_not_for_sums_under_masks() -> None:
    text = '[federation]\nencoding = "int8_int4"\nsecure = {sites = 4, survivors = 3}'
    with pytest.raises(ConfigurationError, match=r"\[federation.secure\] needs federation.encoding"):
        make_settings(text=text)


def test_it_is_not_for_differential_privacy() -> None:
    text = '[federation]\nencoding = "int8_int4"\n[privacy]\nnoise_multiplier = 10\npatients = 50'
    with pytest.raises(ConfigurationError, match=r"\[privacy\] needs federation.encoding"):
        make_settings(method="probe", text=text)
