import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.aggregation.mean import InMemory, Weighted, weighted_mean
from server.rounds.spool import Spool
from tests.full_disk import limited_files


def _updates(seed: int, sites: int, size: int) -> list[Weighted]:
    rng = np.random.default_rng(seed)
    return [
        Weighted(
            source=InMemory(rng.normal(size=size).astype(np.float32)), num_examples=int(rng.integers(0, 90))
        )
        for _ in range(sites)
    ]


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 70), st.integers(1, 80))
def test_mean_is_numpys_in_float64_whatever_the_chunk(seed: int, sites: int, size: int, chunk: int) -> None:
    updates = _updates(seed, sites, size)
    mean = weighted_mean(updates, size=size, chunk=chunk)
    weights = np.array([u.num_examples for u in updates], dtype=np.float64)
    values = np.stack([u.source.read(0, size) for u in updates]).astype(np.float64)
    expected = (weights @ values) / weights.sum() if weights.sum() else np.zeros(size)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(mean, weighted_mean(updates, size=size))


def test_no_weight_gives_zeros() -> None:
    nothing = Weighted(source=InMemory(np.full(4, np.nan, dtype=np.float32)), num_examples=0)
    np.testing.assert_array_equal(weighted_mean([nothing], size=4), np.zeros(4))
    np.testing.assert_array_equal(weighted_mean([], size=4), np.zeros(4))


def test_spooled_updates_give_the_bits_of_those_in_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "g")
    in_memory = _updates(3, 4, 1000)
    spooled = []
    for site, update in enumerate(in_memory):
        values = update.source.read(0, 1000)
        written = spool.write(site, {"update": {"a": values[:400], "b": values[400:]}})
        spooled.append(Weighted(source=written["update"]["b"], num_examples=update.num_examples))
    tail = [
        Weighted(source=InMemory(u.source.read(400, 1000)), num_examples=u.num_examples) for u in in_memory
    ]
    np.testing.assert_array_equal(
        weighted_mean(spooled, size=600, chunk=77), weighted_mean(tail, size=600, chunk=600)
    )


def test_a_full_disk_is_told_by_its_number_so_that_it_can_be_waited_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "g")
    values = np.ones(100_000, dtype=np.float32)
    with limited_files(50_000), pytest.raises(OSError) as caught:
        spool.write(0, {"update": {"a": values}})
    assert caught.value.errno == errno.EFBIG  # a limit's number; that of a disk is ENOSPC
