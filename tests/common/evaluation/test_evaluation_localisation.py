import numpy as np
import pytest

from common.errors import DataError
from common.evaluation.bootstrap import resamples
from common.evaluation.localisation import localisation


def weights(patients: int, replicates: int = 200) -> np.ndarray:
    return resamples(patients, replicates=replicates, generator=np.random.default_rng(0))


def scene(exams: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random heatmaps and regions of 8 x 8 pixels."""
    rng = np.random.default_rng(seed)
    return rng.random((exams, 8, 8)), (rng.random((exams, 8, 8)) < 0.2).astype(float)


def test_a_uniform_map_is_at_chance() -> None:
    _, regions = scene()
    found = localisation(np.full((12, 8, 8), 0.3), regions, np.arange(12), weights(12))
    assert found.inside.value == pytest.approx(regions.mean())
    assert found.chance.value == pytest.approx(regions.mean())
    assert found.ratio.value == pytest.approx(1)
    assert found.shuffled.value == pytest.approx(regions.mean())
    for zero in (found.inside_minus_chance, found.inside_minus_shuffled):
        assert (zero.low, zero.value, zero.high) == pytest.approx((0, 0, 0))


def test_the_region_itself_as_map_is_wholly_inside() -> None:
    _, regions = scene()
    found = localisation(regions, regions, np.arange(12), weights(12))
    assert (found.inside.low, found.inside.value, found.inside.high) == pytest.approx((1, 1, 1))
    assert found.ratio.value == pytest.approx(1 / regions.mean())
    assert found.inside_minus_shuffled.low > 0.5


def test_values_are_means_over_exams_and_over_the_other_patients_maps() -> None:
    heatmaps, regions = scene(exams=6)
    patient = np.array([0, 0, 1, 2, 2, 2])
    found = localisation(heatmaps, regions, patient, weights(3))
    share = heatmaps / heatmaps.sum((1, 2), keepdims=True)
    inside = np.array([[(share[j] * regions[i]).sum() for j in range(6)] for i in range(6)])
    others = [inside[i, patient != patient[i]].mean() for i in range(6)]
    assert found.inside.value == pytest.approx(inside.diagonal().mean())
    assert found.shuffled.value == pytest.approx(np.mean(others))
    assert found.exams == 6


def test_a_replicate_is_the_value_of_the_drawn_patients() -> None:
    heatmaps, regions = scene(exams=6)
    patient = np.array([0, 0, 1, 2, 2, 2])
    drawn = np.array([[2, 0, 1]] * 100)  # patients 0, 0, 2
    rows = np.array([0, 1, 0, 1, 3, 4, 5])
    found = localisation(heatmaps, regions, patient, drawn)
    again = localisation(heatmaps[rows], regions[rows], np.array([0, 0, 0, 0, 1, 1, 1]), weights(2))
    for name in ("inside", "chance", "ratio", "shuffled", "inside_minus_shuffled"):
        estimate = getattr(found, name)
        assert estimate.low == estimate.high == pytest.approx(getattr(again, name).value)


def test_maps_that_know_where_regions_usually_lie_beat_chance_but_not_the_shuffled_ones() -> None:
    rng = np.random.default_rng(1)
    regions = np.zeros((40, 8, 8))
    regions[:, 3:5] = rng.random((40, 2, 8)) < 0.5
    heatmaps = np.zeros((40, 8, 8))
    heatmaps[:, 3:5] = rng.random((40, 2, 8))
    found = localisation(heatmaps, regions, np.arange(40), weights(40, replicates=1000))
    assert found.inside_minus_chance.low > 0
    assert found.inside_minus_shuffled.low < 0 < found.inside_minus_shuffled.high


def test_empty_maps_are_counted_and_left_out() -> None:
    heatmaps, regions = scene(exams=4)
    heatmaps[1] = 0
    found = localisation(heatmaps, regions, np.arange(4), weights(4))
    rest = [0, 2, 3]
    alone = localisation(heatmaps[rest], regions[rest], np.arange(3), weights(3))
    assert (found.exams, found.empty) == (3, 1)
    assert found.inside.value == pytest.approx(alone.inside.value)
    assert np.isfinite(found.inside.low)


def test_nothing_is_made_up_where_there_is_nothing_to_compare() -> None:
    heatmaps, regions = scene(exams=2)
    one_patient = localisation(heatmaps, regions, np.array([0, 0]), weights(1))
    assert np.isfinite(one_patient.inside.value)
    assert np.isnan(one_patient.shuffled.value)
    none = localisation(heatmaps * 0, regions, np.array([0, 1]), weights(2))
    assert none.exams == 0
    assert np.isnan(none.inside.value)


def test_negative_maps_are_refused() -> None:
    heatmaps, regions = scene(exams=2)
    with pytest.raises(DataError, match="negative"):
        localisation(-heatmaps, regions, np.arange(2), weights(2))
