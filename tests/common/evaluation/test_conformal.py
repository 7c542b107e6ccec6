"""Sets of grades: what they promise holds, they lie side by side, and counts say what exams would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.evaluation import conformal
from common.evaluation.conformal import Conformity

GRADES = 4


def drawn(
    rng: np.random.Generator, exams: int, *, grades: int = GRADES, honest: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of grades, decisions and readers' grades, which follow the probabilities more or less."""
    chances = rng.dirichlet(np.ones(grades), size=exams)
    true = np.where(rng.random(exams)[:, None] < honest, chances, rng.dirichlet(np.ones(grades), size=exams))
    reference = np.array([rng.choice(grades, p=row) for row in true])
    return chances, chances.argmax(axis=1), reference


def counted(
    chances: np.ndarray, decision: np.ndarray, reference: np.ndarray, calibrates: np.ndarray
) -> Conformity:
    return conformal.conformity(
        conformal.efforts(chances, decision),
        chances,
        reference=reference,
        decision=decision,
        calibrates=calibrates,
    )


@given(seed=st.integers(0, 2**32 - 1), grades=st.integers(2, 6))
def test_sets_hold_the_decision_lie_side_by_side_and_grow_with_the_threshold(seed: int, grades: int) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(grades), size=20)
    decision = rng.integers(grades, size=20)  # MULTITUDE's need not be the likeliest
    found = conformal.efforts(chances, decision)
    assert (found[np.arange(20), decision] == 0).all()
    before = np.zeros_like(found, dtype=bool)
    for threshold in (1 / 256, 0.2, 0.5, 0.9, 1.0):
        now = conformal.sets(found, threshold)
        assert now[np.arange(20), decision].all()
        assert (now | ~before).all()
        assert (np.abs(np.diff(np.pad(now, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1) == 2).all()
        before = now
    assert before.all()


def test_a_set_grows_towards_the_likelier_neighbour() -> None:
    chances = np.array([[0.1, 0.5, 0.3, 0.1], [0.3, 0.5, 0.1, 0.1]])
    found = conformal.efforts(chances, np.array([1, 1]))
    np.testing.assert_allclose(found, [[0.8, 0.0, 0.5, 0.8 + 0.1], [0.5, 0.0, 0.8, 0.9]], atol=1e-12)


def test_probabilities_of_cuts_that_contradict_each_other_are_still_probabilities() -> None:
    found = conformal.probabilities(np.array([[0.6, 0.7, 0.1], [0.9, 0.5, 0.2]]))
    np.testing.assert_allclose(found, [[0.4, 0.0, 0.5, 0.1], [0.1, 0.4, 0.3, 0.2]])


@pytest.mark.parametrize(
    ("honest", "level"),
    [
        *((1.0, 0.9), (0.0, 0.8)),
        *(
            pytest.param(*of, marks=pytest.mark.soak)
            for of in ((0.5, 0.8), (0.5, 0.9), (1.0, 0.8), (0.0, 0.9))
        ),
    ],
)
def test_the_promise_holds_whatever_the_networks_are_worth(honest: float, level: float) -> None:
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(300):
        chances, decision, reference = drawn(rng, 140, honest=honest)
        calibrates = np.arange(140) < 60
        told = counted(chances, decision, reference, calibrates)
        found = conformal.tried(told, conformal.threshold(told, level))
        assert found is not None
        covered.append(found.coverage)
    assert np.mean(covered) > level - 3 * np.std(covered) / np.sqrt(len(covered))
    if honest == 1.0:
        assert np.mean(covered) < level + 0.04  # and not by answering everything


@given(seed=st.integers(0, 2**32 - 1))
def test_counts_say_what_the_exams_themselves_would(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances, decision, reference = drawn(rng, 80)
    calibrates = rng.random(80) < 0.5
    told = counted(chances, decision, reference, calibrates)
    at = conformal.threshold(told)
    found = conformal.tried(told, at)
    if found is None:
        return
    rest = ~calibrates
    shown = conformal.sets(conformal.efforts(chances, decision), at)[rest]
    assert found.exams == rest.sum()
    assert found.coverage == pytest.approx(shown[np.arange(len(shown)), reference[rest]].mean())
    assert found.size == pytest.approx(shown.sum(axis=1).mean())
    assert found.single == pytest.approx((shown.sum(axis=1) == 1).mean())
    assert found.low <= found.coverage <= found.high


@given(seed=st.integers(0, 2**32 - 1))
def test_counts_of_sites_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances, decision, reference = drawn(rng, 60)
    calibrates, first = rng.random(60) < 0.5, rng.random(60) < 0.4
    parts = [
        counted(chances[part], decision[part], reference[part], calibrates[part]) for part in (first, ~first)
    ]
    assert parts[0] + parts[1] == counted(chances, decision, reference, calibrates)


def test_too_few_exams_promise_everything() -> None:
    chances, decision, reference = drawn(np.random.default_rng(1), 8)
    told = counted(chances, decision, reference, np.ones(8, dtype=bool))
    assert conformal.threshold(told) == 1.0
    assert conformal.tried(told, 1.0) is None
    assert conformal.threshold(Conformity()) == 1.0


def test_of_the_surest_exams_more_answers_are_right() -> None:
    rng = np.random.default_rng(3)
    told = counted(*drawn(rng, 900), np.zeros(900, dtype=bool))
    everything, some = conformal.surest(told, 1.0), conformal.surest(told)
    assert everything is not None
    assert some is not None
    assert everything[0] == 1.0
    assert 2 / 3 <= some[0] < 0.68
    assert some[1] > everything[1] + 0.05
    assert conformal.surest(Conformity()) is None


@pytest.mark.parametrize("field", ["reference", "right", "grades"])
def test_counts_of_different_exams_are_refused(field: str) -> None:
    whole = counted(*drawn(np.random.default_rng(2), 30), np.zeros(30, dtype=bool)).model_dump()
    with pytest.raises(ValidationError, match="of the same exams"):
        Conformity.model_validate({**whole, field: (0,) * 256})
    with pytest.raises(ValidationError):
        Conformity.model_validate({**whole, field: (1, 2)})
