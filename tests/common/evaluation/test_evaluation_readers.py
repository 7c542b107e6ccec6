from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from common.errors import DataError
from common.evaluation import bootstrap, paired, readers
from common.evaluation.agreement import Weights, accuracy, confusion, kappa
from common.evaluation.readers import WITH, WITHOUT, ReaderMetric

# Andersen et al. 2019, test set: golden values in test_evaluation_agreement.
ANDERSEN = np.array([[39, 4, 1, 0], [5, 28, 11, 0], [0, 11, 29, 4], [0, 0, 8, 36]])
PATIENTS, EXAMS = 20, 6


@pytest.mark.parametrize(("weights", "golden"), [(None, 0.667), ("linear", 0.794), ("quadratic", 0.891)])
def test_statsmodels_and_scikit_learn_agree_on_andersens_matrix(weights: Weights, golden: float) -> None:
    truth, graded = (index.repeat(ANDERSEN.ravel()) for index in np.divmod(np.arange(16), 4))
    assert (confusion(truth, graded, 4) == ANDERSEN).all()
    ours = kappa(ANDERSEN, weights=weights)
    assert round(float(ours), 3) == golden
    # statsmodels raises the distance to a power, 1 if linear.
    powers: dict[Weights, dict[str, object]] = {
        None: {},
        "linear": {"wt": "toeplitz", "weights": np.arange(4)},
        "quadratic": {"wt": "quadratic"},
    }
    assert cohens_kappa(ANDERSEN, **powers[weights]).kappa == pytest.approx(ours)
    assert cohen_kappa_score(truth, graded, weights=weights) == pytest.approx(ours)
    assert accuracy(ANDERSEN) == accuracy_score(truth, graded) == 0.75


def readings(
    seed: int, right: float | Sequence[float], *, count: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Long columns: each reader's grades of the same exams."""
    generator = np.random.default_rng(seed)
    exams = PATIENTS * EXAMS
    truth = np.tile(np.random.default_rng(9).integers(0, 4, exams), count)
    patient = np.tile(np.repeat(np.arange(PATIENTS), EXAMS), count)
    reader = np.repeat(np.arange(count), exams)
    chance = np.asarray(right)[reader] if np.ndim(right) else right
    graded = np.where(generator.random(len(truth)) < chance, truth, generator.integers(0, 4, len(truth)))
    return truth, graded, reader, patient


def counts(seed: int, right: float | Sequence[float], *, count: int = 3) -> np.ndarray:
    truth, graded, reader, patient = readings(seed, right, count=count)
    return readers.reader_confusions(
        truth, graded, reader=reader, patient=patient, grades=4, readers=count, patients=PATIENTS
    )


def draws(replicates: int = 200) -> np.ndarray:
    return bootstrap.resamples(PATIENTS, replicates=replicates, generator=np.random.default_rng(1))


def table(
    given: Mapping[str, np.ndarray], *, permutations: int = 999
) -> dict[tuple[str, int | None], ReaderMetric]:
    generator = np.random.default_rng(2)
    return {
        (row.metric, row.reader): row
        for row in readers.rows(given, weights=draws(), generator=generator, permutations=permutations)
    }


def difference(row: ReaderMetric) -> paired.Comparison:
    assert row.difference is not None
    return row.difference


def test_counts_of_a_reader_are_those_of_his_readings() -> None:
    truth, graded, reader, patient = readings(0, 0.6)
    got = counts(0, 0.6)
    assert got.shape == (3, PATIENTS, 4, 4)
    use = (reader == 1) & (patient == 7)
    assert (got[1, 7] == confusion(truth[use], graded[use], 4)).all()


def test_each_reader_and_their_mean() -> None:
    given = {WITHOUT: counts(0, 0.4), WITH: counts(1, 0.7)}
    got = table(given)
    assert list(readers.metrics(4)) == [
        "accuracy", "kappa_linear", "youden_0|123", "youden_01|23", "youden_012|3", "spearman", "icc"
    ]  # fmt: skip
    assert set(got) == {(name, reader) for name in readers.metrics(4) for reader in (None, 0, 1, 2)}
    truth, graded, reader, _ = readings(0, 0.4)
    each = [accuracy_score(truth[reader == r], graded[reader == r]) for r in range(3)]
    for r in range(3):
        assert got["accuracy", r].conditions[WITHOUT].value == pytest.approx(each[r])
        cut = truth[reader == r] > 1
        answer = graded[reader == r] > 1
        youden = answer[cut].mean() + (~answer[~cut]).mean() - 1
        assert got["youden_01|23", r].conditions[WITHOUT].value == pytest.approx(youden)
    mean = got["accuracy", None]
    assert mean.conditions[WITHOUT].value == pytest.approx(np.mean(each))
    assert difference(mean).value == pytest.approx(
        mean.conditions[WITH].value - mean.conditions[WITHOUT].value
    )
    for row in got.values():
        gain = difference(row)
        assert gain.low < gain.value < gain.high
        assert all(one.low < one.value < one.high for one in row.conditions.values())


def test_the_mean_is_tested_with_the_readers_swapped_together_and_readers_by_holm() -> None:
    given = {WITHOUT: counts(3, 0.5), WITH: counts(4, (0.5, 0.62, 0.9))}
    got = table(given)
    p = [difference(got["accuracy", r]).p for r in range(3)]
    assert [got["accuracy", r].p_holm for r in range(3)] == pytest.approx(paired.holm(p))
    assert got["accuracy", None].p_holm is None
    assert p[2] == 1 / 1000
    assert p[0] > 0.05
    expected = paired.swap_test(
        accuracy, given[WITH], given[WITHOUT], generator=np.random.default_rng(7), permutations=999
    )
    assert difference(got["accuracy", None]).p == pytest.approx(expected, abs=0.05)


def test_readers_who_gain_alike_are_clearer_together_than_alone() -> None:
    got = table({WITHOUT: counts(5, 0.5, count=6), WITH: counts(6, 0.62, count=6)})
    each = [difference(got["accuracy", r]).p for r in range(6)]
    assert difference(got["accuracy", None]).p < np.median(each)


def test_assistance_that_changes_nothing_is_rarely_found() -> None:
    found = []
    for seed in range(100):
        given = {WITHOUT: counts(2 * seed, 0.5, count=2), WITH: counts(2 * seed + 1, 0.5, count=2)}
        p = paired.swap_test(
            accuracy, given[WITH], given[WITHOUT], generator=np.random.default_rng(seed), permutations=199
        )
        found.append(p <= 0.05)
    assert np.mean(found) < 0.11


def test_one_condition_has_no_difference() -> None:
    got = table({WITHOUT: counts(0, 0.6)})
    for row in got.values():
        assert row.difference is None
        assert row.p_holm is None
        assert list(row.conditions) == [WITHOUT]


def test_other_exams_in_the_second_condition_are_refused() -> None:
    with pytest.raises(DataError, match="same exams"):
        table({WITHOUT: counts(0, 0.6), WITH: counts(0, 0.6)[:, ::-1].copy()})


def test_indices_out_of_range_are_refused() -> None:
    for reader, patient in ((2, 0), (0, 5), (-1, 0)):
        with pytest.raises(DataError, match=r"reader in 0\.\.1 and a patient in 0\.\.4"):
            readers.reader_confusions(
                [0],
                [0],
                reader=np.array([reader]),
                patient=np.array([patient]),
                grades=4,
                readers=2,
                patients=5,
            )
