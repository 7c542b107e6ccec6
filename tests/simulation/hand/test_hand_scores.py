"""The score is what the joints are: grades by construction, their sum, their classes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtr

from simulation.hand import severity
from simulation.hand.anatomy import draw_build
from simulation.hand.damage import Damage, draw_damage, erosion_grades, narrowing_grades, scores
from simulation.hand.readers import consensus, draw_readers, read
from simulation.hand.sites import (
    CLASSES,
    EROSION_SITES,
    NARROWING_SITES,
    WORST_TOTAL,
    Scores,
    severity_class,
)

EROSIONS = arrays(np.int64, (2, 16), elements=st.integers(0, 5))
NARROWINGS = arrays(np.int64, (2, 15), elements=st.integers(0, 4))
MEASURED_Z = ((0.24, 0.33), (-0.16, 0.29), (-0.39, 0.44), (-1.41, 1.01))
"""Mean and spread of the width of metacarpophalangeal joints by narrowing 0-3 (ar4163, table 1)."""


def damages(erosion: np.ndarray, narrowing: np.ndarray, seed: int) -> tuple[Damage, Damage]:
    rng = np.random.default_rng(seed)
    left, right = (draw_damage(rng, erosion[side], narrowing[side]) for side in range(2))
    return left, right


def test_the_score_has_its_sites_and_its_worst() -> None:
    assert (len(set(EROSION_SITES)), len(set(NARROWING_SITES)), WORST_TOTAL) == (16, 15, 280)


@given(EROSIONS, NARROWINGS)
def test_the_total_is_the_sum_of_the_sites(erosion: np.ndarray, narrowing: np.ndarray) -> None:
    found = Scores(erosion=erosion, narrowing=narrowing)
    assert found.total == sum(int(grade) for grade in (*erosion.flat, *narrowing.flat))
    assert found.by_hand.tolist() == [int(erosion[side].sum() + narrowing[side].sum()) for side in range(2)]
    assert 0 <= found.total <= WORST_TOTAL
    assert found.mirrored().total == found.total


@pytest.mark.parametrize(
    ("total", "expected"),
    # 0, 2 and 10 as in Bo's survey; the lower edge belongs to the class
    [(0, 0), (1.5, 0), (2, 1), (4.5, 1), (5, 2), (10, 3), (15, 4), (20, 5), (30, 6), (45, 7), (70, 8), (109.5, 8),
     (110, 9), (280, 9)],
)  # fmt: skip
def test_the_lower_edge_belongs_to_the_class(total: float, expected: int) -> None:
    assert severity_class(total) == expected


@settings(max_examples=60)
@given(EROSIONS, NARROWINGS, st.integers(0, 2**32 - 1))
def test_what_is_drawn_of_a_grade_has_that_grade(
    erosion: np.ndarray, narrowing: np.ndarray, seed: int
) -> None:
    found = scores(*damages(erosion, narrowing, seed))
    assert found.erosion.tolist() == erosion.tolist()
    assert found.narrowing.tolist() == narrowing.tolist()


@given(st.floats(0, 1), st.floats(0, 1))
def test_losing_more_is_never_a_lower_grade(one: float, other: float) -> None:
    low, high = erosion_grades(np.array(sorted((one, other))))
    assert low <= high


def test_widths_of_neighbouring_grades_overlap_as_measured() -> None:
    rng = np.random.default_rng(1)
    widths: list[list[float]] = [[] for _ in range(4)]
    for _ in range(500):
        build = draw_build(rng)
        narrowing = rng.integers(0, 4, len(NARROWING_SITES))
        damage = draw_damage(rng, np.zeros(len(EROSION_SITES), np.int64), narrowing)
        for grade, width in zip(
            narrowing_grades(damage)[:5], (build.own_width_mm * damage.left)[:5], strict=True
        ):
            widths[grade].append(width / build.scale)
    for grade, (one, other) in enumerate(pairwise(MEASURED_Z)):
        above = (np.array(widths[grade])[:, None] > np.array(widths[grade + 1])).mean()
        published = ndtr((one[0] - other[0]) / np.hypot(one[1], other[1]))
        assert above == pytest.approx(published, abs=0.06)


def test_all_ten_classes_occur_and_sides_go_together() -> None:
    rng = np.random.default_rng(2)
    latent = np.stack([severity.draw_latent(rng) for _ in range(2000)])
    classes = np.bincount([severity_class(severity.grade(one).total) for one in latent], minlength=CLASSES)
    assert 0.10 < classes[0] / len(latent) < 0.25
    assert classes.min() > 0.02 * len(latent)
    left, right = latent[:, 0].ravel(), latent[:, 1].ravel()
    assert np.corrcoef(left, right)[0, 1] == pytest.approx(severity.SIDES_CORRELATION, abs=0.02)


def test_early_sites_are_damaged_before_others() -> None:
    rng = np.random.default_rng(3)
    grades = [severity.grade(severity.draw_latent(rng)) for _ in range(1500)]
    mean = dict(zip(EROSION_SITES, np.mean([g.erosion for g in grades], axis=(0, 1)), strict=True))
    assert min(mean[site] for site in ("MCP2", "MCP3", "ulna")) > max(mean[site] for site in ("PIP5", "IP1"))


def test_a_shift_makes_patients_more_ill() -> None:
    plain, worse = (severity.draw_latent(np.random.default_rng(4), shift=shift) for shift in (0.0, 1.5))
    assert severity.grade(worse).total > severity.grade(plain).total


def test_two_readers_mean_half_points_and_are_near_the_truth() -> None:
    rng = np.random.default_rng(5)
    totals = np.array([severity.grade(severity.draw_latent(rng)).total for _ in range(1500)])
    given_totals = read(rng, draw_readers(rng), totals)
    mean = consensus(given_totals)
    assert given_totals.min() >= 0
    assert given_totals.max() <= WORST_TOTAL
    assert set(np.unique(mean % 1)) == {0.0, 0.5}
    assert 0.96 < np.corrcoef(given_totals[0], given_totals[1])[0, 1] < 0.999
    assert 1 < np.sqrt(np.mean((mean - totals) ** 2)) < 10
