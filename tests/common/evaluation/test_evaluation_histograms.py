import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from common.errors import DataError, UpdateError
from common.evaluation import agreement, roc
from common.evaluation.histograms import BINS, ScoreHistograms
from common.sections.section import Criterion


def drawn(seed: int, exams: int = 60) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, size=exams)
    labels[:2] = 0, 1
    scores = np.clip(generator.normal(0.4 + 0.2 * labels, 0.3), 0, 1)
    return scores, labels


@given(st.integers(0, 2**32 - 1))
def test_auc_is_sklearns_on_binned_scores(seed: int) -> None:
    scores, labels = drawn(seed)
    binned = np.minimum(np.floor(scores * BINS), BINS - 1)
    assert ScoreHistograms.from_scores(scores, labels).auc() == pytest.approx(roc_auc_score(labels, binned))


@given(st.integers(0, 2**32 - 1))
def test_histograms_of_parts_add_up_to_the_whole(seed: int) -> None:
    scores, labels = drawn(seed)
    parts = ScoreHistograms.from_scores(scores[:20], labels[:20]) + ScoreHistograms.from_scores(
        scores[20:], labels[20:]
    )
    assert (parts.counts == ScoreHistograms.from_scores(scores, labels).counts).all()
    assert ((parts + ScoreHistograms.empty()).counts == parts.counts).all()


@given(st.integers(0, 2**32 - 1))
def test_threshold_is_the_best_edge_and_means_at_least(seed: int) -> None:
    scores, labels = drawn(seed)
    histograms = ScoreHistograms.from_scores(scores, labels)
    bits = scores[None, :] >= np.arange(1, BINS)[:, None] / BINS
    confusions = np.array([[[(bit & (labels == y)).sum() for bit in (~b, b)] for y in (0, 1)] for b in bits])
    measures: dict[Criterion, ArrayLike] = {
        "youden": roc.youden(confusions, cut=0),
        "accuracy": agreement.accuracy(confusions),
        "kappa": agreement.kappa(confusions),
    }
    for criterion, values in measures.items():
        found = np.round(np.asarray(values), 9)
        best = max(range(1, BINS), key=lambda k: (found[k - 1], -abs(k - BINS // 2), -k))
        assert histograms.threshold(criterion) == best / BINS


def test_scores_at_an_edge_and_at_one() -> None:
    counts = ScoreHistograms.from_scores([0.0, 0.5, 1.0], [0, 1, 1]).counts
    assert counts[0, 0] == counts[1, 128] == counts[1, 255] == 1
    assert counts.sum() == 3


def test_separated_classes_take_the_edge_nearest_to_one_half() -> None:
    assert ScoreHistograms.from_scores([0.1, 0.9], [0, 1]).threshold("youden") == 0.5
    assert ScoreHistograms.from_scores([0.1, 0.25], [0, 1]).threshold("youden") == 0.25
    assert ScoreHistograms.from_scores([0.75, 0.9], [0, 1]).threshold("youden") == 0.75 + 1 / BINS


@pytest.mark.parametrize(("scores", "labels"), [([], []), ([0.2, 0.9], [1, 1]), ([0.3], [0])])
def test_a_missing_class_gives_no_auc_and_one_half(scores: list[float], labels: list[int]) -> None:
    histograms = ScoreHistograms.from_scores(np.array(scores), np.array(labels, dtype=int))
    assert np.isnan(histograms.auc())
    assert histograms.threshold("youden") == 0.5


def test_boolean_labels_and_float32_scores() -> None:
    histograms = ScoreHistograms.from_scores(np.array([0.1, 0.9], dtype=np.float32), np.array([False, True]))
    assert histograms.exams == (1, 1)
    assert histograms.auc() == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [1], "one length"),
        ([1.1], [1], r"scores in \[0, 1\]"),
        ([np.nan], [1], "not a number"),
        ([0.5], [-1], "labels 0 .. 1"),
    ],
)
def test_other_scores_and_labels_are_refused(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ScoreHistograms.from_scores(scores, labels)


def test_negative_counts_are_refused() -> None:
    counts = np.zeros((2, BINS), dtype=np.int64)
    counts[1, 7] = -1
    with pytest.raises(UpdateError, match="non-negative int64"):
        ScoreHistograms(counts=counts)


@given(seed=st.integers(0, 2**32 - 1))
def test_accuracy_is_that_of_the_rounded_expected_grade_but_for_half_a_bin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.random(200), rng.integers(0, 4, size=200)
    borders = (np.arange(3) + 0.5) / 3
    clear = (np.abs(scores[:, None] - borders) > 1 / BINS).all(axis=1)
    found = ScoreHistograms.from_scores(scores[clear], labels[clear], classes=4).accuracy()
    assert found == pytest.approx(np.mean(np.rint(3 * scores[clear]) == labels[clear]))


def test_accuracy_of_ends_and_of_nothing() -> None:
    assert ScoreHistograms.from_scores([0.0, 1.0, 0.34], [0, 3, 1], classes=4).accuracy() == 1
    assert np.isnan(ScoreHistograms.empty(classes=4).accuracy())
