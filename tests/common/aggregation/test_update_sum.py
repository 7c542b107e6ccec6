"""Updates as the vector that is summed."""

from __future__ import annotations

import numpy as np
import pytest

from common.aggregation.update_sum import Summed, UpdateSum
from common.errors import UpdateError
from common.evaluation.histograms import BINS
from common.messages import NetworkReply
from common.sections.secure import SecureSettings

PLAN = UpdateSum(
    networks={"a": Summed(size=5, classes=2), "b": Summed(size=3, classes=0)},
    secure=SecureSettings(sites=3, survivors=2, largest_update=1.0, most_examples=1000),
)


def reply(update: np.ndarray | None, count: int, histograms: np.ndarray | None = None) -> NetworkReply:
    return NetworkReply(update=update, num_examples=count, loss=0.1, histograms=histograms)


def test_the_sum_is_the_weighted_mean_to_the_grid() -> None:
    rng = np.random.default_rng(0)
    updates = rng.uniform(-1, 1, (3, 5)).astype(np.float32)
    counts = [10, 0, 31]
    histograms = rng.integers(0, 9, (3, 2, BINS))
    vectors = [
        PLAN.encode(
            {
                "a": reply(updates[i], counts[i], histograms[i]),
                "b": reply(None, 5) if i else reply(np.full(3, 9.0, np.float32), 2),
            }
        )
        for i in range(3)
    ]
    assert {len(vector) for vector in vectors} == {PLAN.terms().length}
    found = PLAN.decode(sum(vectors, np.zeros_like(vectors[0])))
    mean = np.average(updates[[0, 2]].astype(np.float64), axis=0, weights=[10, 31])
    np.testing.assert_allclose(found["a"].mean, mean, atol=PLAN.weighted.grid)
    assert found["a"].num_examples == 41
    counted = found["a"].histograms
    assert counted is not None
    np.testing.assert_array_equal(counted, histograms.sum(0))
    assert found["b"].histograms is None
    np.testing.assert_array_equal(found["b"].mean, np.ones(3))  # clipped; who trained nothing has no weight
    nothing = PLAN.decode(np.zeros_like(vectors[0]))
    assert not nothing["a"].mean.any()
    assert nothing["a"].num_examples == 0


@pytest.mark.parametrize(
    "networks",
    [
        {"b": reply(None, 0), "a": reply(None, 0)},
        {"a": reply(np.ones(4, np.float32), 1), "b": reply(None, 0)},
        {"a": reply(np.ones(5, np.float32), 1001), "b": reply(None, 0)},
        {"a": reply(np.full(5, np.nan, np.float32), 1), "b": reply(None, 0)},
        {"a": reply(None, 0, np.ones((3, BINS), np.int64)), "b": reply(None, 0)},
        {"a": reply(None, 0, np.full((2, BINS), 1001)), "b": reply(None, 0)},
    ],
)
def test_what_does_not_fit_into_the_sum_is_refused(networks: dict[str, NetworkReply]) -> None:
    with pytest.raises(UpdateError):
        PLAN.encode(networks)
