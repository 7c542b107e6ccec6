"""Answers that need no network, to be set beside every system: a system that is no better has learnt nothing.

* *The commonest grade*, always: of the training labels, never of the exams that are scored.
* *Counted colour*: the area of a Doppler picture's flow mask, cut into grades. What vascularity means is mostly
  how much flow there is, so a count with well-chosen cuts goes far.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from common.errors import DataError


def commonest(labels: ArrayLike, *, grades: int) -> int:
    """The grade that most training labels have, a tie going to the lower.

    Args:
        labels: grades 0 .. ``grades`` - 1, ``(exams,)``; at least one.
        grades: the number of grades.

    Raises:
        DataError: without labels, or for one out of range.
    """
    return int(np.bincount(_labels(labels, grades), minlength=grades).argmax())


def tuned_cuts(counts: ArrayLike, labels: ArrayLike, *, grades: int) -> Float64[np.ndarray, " cuts"]:
    """The cuts of a count that give the most training labels exactly.

    All cuts are tried, by dynamic programming over the counts that occur: with ``hits[c, g]`` the exams of count c
    and label g, and the grade never falling as the count rises, the best of counts up to c with grade g for c is
    ``hits[c, g] + max over g' <= g`` of the best up to the count before. Of equally good cuts the highest are
    taken, that is the lower grades. A cut lies half-way between two counts that occur.

    Args:
        counts: not negative, ``(exams,)``; at least one.
        labels: grades 0 .. ``grades`` - 1, ``(exams,)``.
        grades: the number of grades.

    Returns:
        ``grades - 1`` cuts that do not fall; the grade is the number of cuts that a count reaches. Infinite for
        a grade that is never given, 0 where every count has at least that grade.

    Raises:
        DataError: for lengths that differ, no exams, or a label out of range.
    """
    truth, values = _labels(labels, grades), np.asarray(counts, dtype=np.float64)
    if values.shape != truth.shape or not (np.isfinite(values).all() and (values >= 0).all()):
        raise DataError(
            f"Expected a count of 0 or more for each of {truth.size} labels, got shape {values.shape}."
        )
    occurring, place = np.unique(values, return_inverse=True)
    hits = np.zeros((len(occurring), grades), dtype=np.int64)
    np.add.at(hits, (place, truth), 1)
    best = np.zeros_like(hits)
    best[0] = hits[0]
    for row in range(1, len(occurring)):
        best[row] = hits[row] + np.maximum.accumulate(best[row - 1])
    grade = np.empty(len(occurring), dtype=np.int64)
    highest = grades - 1
    for row in range(len(occurring) - 1, -1, -1):
        grade[row] = highest = int(best[row, : highest + 1].argmax())
    first = np.searchsorted(grade, np.arange(1, grades))  # the first count that has at least this grade
    between = np.concatenate([[0.0], (occurring[1:] + occurring[:-1]) / 2, [np.inf]])
    return np.asarray(between[first])


def graded(counts: ArrayLike, cuts: ArrayLike) -> Int64[np.ndarray, " exams"]:
    """The grade of each count: how many cuts it reaches."""
    return np.searchsorted(np.asarray(cuts), np.asarray(counts), side="right").astype(np.int64)


def _labels(labels: ArrayLike, grades: int) -> Int64[np.ndarray, " exams"]:
    array = np.asarray(labels)
    if array.ndim != 1 or not array.size or array.min() < 0 or array.max() >= grades:
        raise DataError(
            f"Expected training labels in 0..{grades - 1}, at least one, got {array.size} of shape {array.shape}: "
            "leave out exams without a grade."
        )
    return array.astype(np.int64)
