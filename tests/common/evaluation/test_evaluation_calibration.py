import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_curve
from statsmodels.stats.proportion import proportion_confint

from common.errors import DataError
from common.evaluation import calibration, roc
from common.evaluation.histograms import BINS, ScoreHistograms

SEEDS = st.integers(0, 2**32 - 1)
FEW = st.integers(2, 80)


def drawn(seed: int, exams: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Scores of any confidence, some at the ends, and labels of both classes that lean to them."""
    generator = np.random.default_rng(seed)
    scores = generator.beta(generator.uniform(0.2, 3), generator.uniform(0.2, 3), size=exams)
    scores[generator.random(exams) < 0.05] = generator.integers(0, 2)
    labels = (generator.random(exams) < scores ** generator.uniform(0.4, 2.5)).astype(int)
    labels[:2] = 0, 1
    return scores, labels


def ece(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> float:
    weights = np.ones((1, len(scores))) if counts is None else counts[None]
    return float(calibration.weighted_ece(scores, labels, weights)[0])


def brier(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> float:
    weights = np.ones((1, len(scores))) if counts is None else counts[None]
    return float(calibration.weighted_brier(scores, labels, weights)[0])


@given(SEEDS, FEW)
def test_reliability_is_sklearns_calibration_curve(seed: int, exams: int) -> None:
    scores, labels = drawn(seed, exams)
    groups = calibration.reliability(scores, labels)
    share, score = calibration_curve(labels, scores, n_bins=calibration.GROUPS, strategy="uniform")
    assert [group.share for group in groups] == pytest.approx(share)
    assert [group.score for group in groups] == pytest.approx(score)
    assert sum(group.exams for group in groups) == exams
    for group in groups:
        ones = round(group.share * group.exams)
        low, high = proportion_confint(ones, group.exams, method="wilson")
        assert [group.low, group.high] == pytest.approx([low, high])
        assert group.low - 1e-12 <= group.share <= group.high + 1e-12


@given(SEEDS, FEW)
def test_ece_is_the_mean_distance_of_the_diagrams_groups_and_brier_is_sklearns(seed: int, exams: int) -> None:
    scores, labels = drawn(seed, exams)
    groups = calibration.reliability(scores, labels)
    mean = sum(group.exams * abs(group.share - group.score) for group in groups) / exams
    assert ece(scores, labels) == pytest.approx(mean)
    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores))


@given(SEEDS, FEW)
def test_histograms_lose_no_more_than_half_a_bin(seed: int, exams: int) -> None:
    scores, labels = drawn(seed, exams)
    binned = ScoreHistograms.from_scores(scores, labels).binned()
    assert abs(ece(*binned) - ece(scores, labels)) <= calibration.ECE_ERROR + 1e-12
    assert abs(brier(*binned) - brier(scores, labels)) <= calibration.BRIER_ERROR + 1e-12
    exact, coarse = calibration.reliability(scores, labels), calibration.reliability(*binned)
    assert [(g.exams, g.share, g.low, g.high) for g in coarse] == [
        (g.exams, g.share, g.low, g.high) for g in exact
    ]


def test_the_bound_is_reached() -> None:
    scores, labels = np.array([0.0, 0.0]), np.array([0, 0])
    binned = ScoreHistograms.from_scores(scores, labels).binned()
    assert ece(*binned) - ece(scores, labels) == calibration.ECE_ERROR


@given(SEEDS, FEW)
def test_the_roc_curve_of_histograms_is_exact_at_the_edges_of_bins(seed: int, exams: int) -> None:
    scores, labels = drawn(seed, exams)
    histograms = ScoreHistograms.from_scores(scores, labels)
    false_positive, true_positive = roc.curve(*histograms.binned())
    called = scores[None] >= np.arange(BINS + 1)[:, None] / BINS
    exact = {
        ((row & (labels == 0)).sum() / (labels == 0).sum(), (row & (labels == 1)).sum() / labels.sum())
        for row in called
    }
    assert set(zip(false_positive.tolist(), true_positive.tolist(), strict=True)) <= exact | {(0.0, 0.0)}
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(histograms.auc())
    tied = (histograms.counts[0] * histograms.counts[1]).sum() / (2 * (labels == 0).sum() * labels.sum())
    assert abs(histograms.auc() - roc.auc(scores, labels)) <= tied + 1e-12


@given(SEEDS, FEW)
def test_the_roc_curve_is_sklearns_and_its_area_ours(seed: int, exams: int) -> None:
    scores, labels = drawn(seed, exams)
    false_positive, true_positive = roc.curve(scores, labels)
    wanted = roc_curve(labels, scores)
    np.testing.assert_allclose(false_positive, wanted[0])
    np.testing.assert_allclose(true_positive, wanted[1])
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(roc.auc(scores, labels))


@given(SEEDS)
def test_a_weight_is_an_exam_that_many_times(seed: int) -> None:
    scores, labels = drawn(seed, 30)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, 30))
    for row, found, squared in zip(
        weights,
        calibration.weighted_ece(scores, labels, weights),
        calibration.weighted_brier(scores, labels, weights),
        strict=True,
    ):
        times = np.repeat(np.arange(30), row)
        assert found == pytest.approx(ece(scores[times], labels[times]))
        assert squared == pytest.approx(brier(scores[times], labels[times]))


def test_perfect_and_opposite_probabilities() -> None:
    labels = np.array([0, 1, 1, 0])
    assert ece(labels.astype(float), labels) == 0
    assert ece(1.0 - labels, labels) == 1
    assert ece(np.full(4, 0.5), labels) == 0, "never wrong in the mean, and of no use"
    assert brier(np.full(4, 0.5), labels) == 0.25


def test_chance_alone_is_what_drawn_labels_have_and_falls_with_more_exams() -> None:
    generator = np.random.default_rng(5)
    scores = generator.random(400)
    chance = calibration.by_chance(scores, draws=300, generator=generator)
    drawn_ones = [ece(scores, (generator.random(400) < scores).astype(int)) for _ in range(300)]
    assert chance == pytest.approx(np.mean(drawn_ones), rel=0.1)
    more = calibration.by_chance(np.tile(scores, 16), draws=300, generator=generator)
    assert more == pytest.approx(chance / 4, rel=0.15)
    overconfident = np.where(scores < 0.5, scores / 3, 1 - (1 - scores) / 3)
    wrong = ece(overconfident, (generator.random(400) < scores).astype(int))
    assert wrong > 2 * calibration.by_chance(overconfident, draws=300, generator=generator)


def test_nothing_to_count_and_one_class() -> None:
    nothing = np.empty(0)
    assert calibration.reliability(nothing, nothing) == ()
    assert np.isnan(ece(nothing, nothing))
    assert np.isnan(calibration.by_chance(nothing, draws=3, generator=np.random.default_rng(0)))
    assert ScoreHistograms.empty().binned()[2].sum() == 0
    for labels in ([0, 0], [1, 1]):
        assert all(len(axis) == 0 for axis in roc.curve([0.2, 0.9], labels))


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        ([0.5], [0, 1], "one length"),
        ([1.5], [1], "in \\[0, 1\\]"),
        ([float("nan")], [1], "in \\[0, 1\\]"),
        ([0.5], [2], "labels 0 or 1"),
    ],
)
def test_what_cannot_be_counted_is_refused(scores: list[float], labels: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        calibration.reliability(scores, labels)


def test_scores_of_more_than_two_classes_are_no_probabilities() -> None:
    with pytest.raises(DataError, match="two classes"):
        ScoreHistograms.empty(classes=4).binned()
