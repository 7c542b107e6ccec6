"""MULTITUDE: one valid answer from the votes of several scoring models.

Each model votes a grade of every measurement. With q_t[g] the number of models that voted grade g of
measurement t, a combination of grades (g_1, g_2, ...) weighs q_1[g_1] * q_2[g_2] * ...; the answer is the
*valid* combination with the largest weight, a tie going to the lexicographically first. If no valid
combination has any weight (all say hypertrophy 0 and all say vascularity > 0), the same rule gives the first
valid one; such an answer is flagged as contested.

**Shared votes.** A model that says how likely each grade is may divide its vote among them (:func:`decide_shared`);
q_t[g] is then the sum of what grade g got. The paper's models do not: each votes one grade.

**Ties.** An answer is a tie where another valid combination has *the same* weight: the rule "lexicographically
first", not the votes, chose between them. With two models every disagreement is one. Where no valid combination has
any weight, all of them weigh the same, so that such an answer is a tie as well as contested.

Source: Zhou et al. 2022, Patterns, doi 10.1016/j.patter.2022.100592, algorithm MULTITUDE. Where the released
code leaves the paper's rule (it returns an invalid pair when all weights are zero), the paper is followed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, Real

from common.scoring.grades import GradeError, Numbers, checked

Tally: TypeAlias = Real[np.ndarray, "_ exams"]
"""What each grade of a measurement got; exams last, so that rows are long."""
_CHUNK = 1 << 19
"""Weights held at a time: small enough for a CPU's cache, large enough to hide the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the ensemble answers.

    Attributes:
        decision: grades, ``(exams, measurements)``; always a valid combination.
        weight: weight of the answer, ``(exams,)``; models ** measurements if all agree, 0 if nobody voted for
            a valid combination. Whole numbers, unless votes are shared.
        runner_up_weight: the largest weight among the other valid combinations, ``(exams,)``; 0 without any.
        contested: ``(exams,)``; true where the weight is 0, or where the answer differs in some measurement
            from its own plurality (tie to the lower grade).
        tie: ``(exams,)``; true where another valid combination weighs as much as the answer.
    """

    decision: Int64[np.ndarray, "exams measurements"]
    weight: Int64[np.ndarray, " exams"] | Float64[np.ndarray, " exams"]
    runner_up_weight: Int64[np.ndarray, " exams"] | Float64[np.ndarray, " exams"]
    contested: Bool[np.ndarray, " exams"]
    tie: Bool[np.ndarray, " exams"]


def decide(votes: Numbers, *, values: Sequence[int], is_valid: Callable[[tuple[int, ...]], bool]) -> Decision:
    """Answer with the valid combination of the largest weight.

    Args:
        votes: grades voted, whole numbers of shape ``(exams, models, measurements)``.
        values: the number of grades of each measurement; for RATING ``(4, 4)``.
        is_valid: whether a combination, one grade per measurement, can be; called once for each of them.

    Raises:
        GradeError: for votes of another shape or out of range, or if no combination is valid.
    """
    array = _checked_votes(votes, values)
    _, models, measurements = array.shape
    if models**measurements >= 2**63:
        raise GradeError(f"Weights of {models} models and {measurements} measurements exceed 64 bits.")
    return _decide(
        lambda part: _counts(array[part], values),
        len(array),
        values=values,
        is_valid=is_valid,
        dtype=np.int64,
    )


def decide_shared(
    shares: Sequence[Float64[np.ndarray, "exams models _"]], *, is_valid: Callable[[tuple[int, ...]], bool]
) -> Decision:
    """The same where models divide their votes.

    Args:
        shares: for each measurement what every model gives to each grade, ``(exams, models, grades)``, not negative;
            a model's sum to 1.
        is_valid: whether a combination, one grade per measurement, can be; called once for each of them.

    Raises:
        GradeError: if no combination is valid.
    """
    tallies = [np.ascontiguousarray(each.sum(axis=1).T) for each in shares]
    return _decide(
        lambda part: [tally[:, part] for tally in tallies],
        tallies[0].shape[1],
        values=[len(tally) for tally in tallies],
        is_valid=is_valid,
        dtype=np.float64,
    )


def _decide(
    tallies: Callable[[slice], list[Tally]],
    exams: int,
    *,
    values: Sequence[int],
    is_valid: Callable[[tuple[int, ...]], bool],
    dtype: type[np.int64] | type[np.float64],
) -> Decision:
    valid = np.array([c for c in itertools.product(*map(range, values)) if is_valid(c)], dtype=np.int64)
    if not len(valid):
        raise GradeError(f"Expected a valid combination among values {tuple(values)}: is_valid refuses all.")
    answer = Decision(
        decision=np.empty((exams, len(values)), dtype=np.int64),
        weight=np.empty(exams, dtype=dtype),
        runner_up_weight=np.empty(exams, dtype=dtype),
        contested=np.empty(exams, dtype=np.bool_),
        tie=np.empty(exams, dtype=np.bool_),
    )
    step = max(1, _CHUNK // len(valid))
    for start in range(0, exams, step):
        part = slice(start, start + step)
        _decide_part(tallies(part), valid, answer, part)
    return answer


def majority(votes: Numbers, *, values: Sequence[int]) -> Int64[np.ndarray, "exams measurements"]:
    """The plurality of each measurement by itself, a tie going to the lower grade: a baseline.

    Its combinations may be invalid. Arguments and errors as in :func:`decide`.
    """
    array = _checked_votes(votes, values)
    counts = _counts(array, values)
    return np.stack([c.argmax(axis=0) for c in counts], axis=-1).astype(np.int64)


def majority_shared(
    shares: Sequence[Float64[np.ndarray, "exams models _"]],
) -> Int64[np.ndarray, "exams measurements"]:
    """The same where models divide their votes (:func:`decide_shared`)."""
    return np.stack([each.sum(axis=1).argmax(axis=1) for each in shares], axis=-1).astype(np.int64)


def likeliest(
    shares: Sequence[Float64[np.ndarray, "exams models _"]],
) -> Int64[np.ndarray, "exams models scores"]:
    """The grade to which each model gives most, a tie going to the lower (``shares`` as in :func:`decide_shared`)."""
    return np.stack([each.argmax(axis=2) for each in shares], axis=2)


def majority_ties(votes: Numbers, *, values: Sequence[int]) -> Bool[np.ndarray, " exams"]:
    """Whether some measurement's plurality was a tie: another grade had as many votes.

    Arguments and errors as in :func:`decide`.
    """
    counts = _counts(_checked_votes(votes, values), values)
    tied = np.stack([(c == c.max(axis=0)).sum(axis=0) > 1 for c in counts])
    return np.asarray(tied.any(axis=0))


def _checked_votes(votes: Numbers, values: Sequence[int]) -> Integer[np.ndarray, "exams models measurements"]:
    array = np.asarray(votes)
    if array.ndim != 3 or array.shape[1] == 0 or array.shape[2] != len(values) or not len(values):
        raise GradeError(
            f"Expected votes of shape (exams, models >= 1, measurements = {len(values)}), got {array.shape}."
        )
    if any(count < 1 for count in values):
        raise GradeError(f"Expected at least one value of each measurement, got values {tuple(values)}.")
    lowest = min(values)
    array = checked(array, count=max(values), what="votes")
    if lowest != max(values):
        for measurement, count in enumerate(values):
            checked(array[..., measurement], count=count, what=f"votes of measurement {measurement}")
    return array


def _counts(votes: Integer[np.ndarray, "exams models measurements"], values: Sequence[int]) -> list[Tally]:
    """For each measurement the number of models that voted each value."""
    dtype = np.min_scalar_type(votes.shape[1] ** votes.shape[2])
    rows = np.ascontiguousarray(votes.transpose(2, 1, 0))
    return [
        np.stack([(models == value).sum(axis=0, dtype=dtype) for value in range(count)])
        for models, count in zip(rows, values, strict=True)
    ]


def _decide_part(
    counts: Sequence[Tally],
    valid: Int64[np.ndarray, "combinations measurements"],
    answer: Decision,
    part: slice,
) -> None:
    weights = counts[0][valid[:, 0]]
    for measurement, count in enumerate(counts[1:], start=1):
        weights *= count[valid[:, measurement]]
    best = weights.argmax(axis=0)  # the first maximum: the lexicographically first combination
    exams = np.arange(len(best))
    largest = weights[best, exams]
    weights[best, exams] = 0
    decision = valid[best]
    plurality = np.stack([c.argmax(axis=0) for c in counts], axis=-1)
    answer.decision[part] = decision
    answer.weight[part] = largest
    runner_up = weights.max(axis=0)
    answer.runner_up_weight[part] = runner_up
    answer.contested[part] = (largest == 0) | (decision != plurality).any(axis=-1)
    answer.tie[part] = (runner_up == largest) & (len(valid) > 1)
