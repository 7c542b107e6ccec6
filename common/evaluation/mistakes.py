"""Which answers are far off: an error of one grade is what readers make, one of two is another kind of mistake."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike

from common.errors import DataError

FAR = 2
"""Grades between answer and reference from which on an error is far off."""


def far_off(reference: ArrayLike, answer: ArrayLike, *, missing: int = -1) -> Int64[np.ndarray, " errors"]:
    """Places of the exams whose answer is ``FAR`` grades or more from the reference, the farthest first.

    Exams that are equally far keep their order.

    Args:
        reference: grades, ``(exams,)``.
        answer: grades, ``(exams,)``.
        missing: stands for no grade, on either side; such exams are no errors.

    Raises:
        DataError: for lengths that differ.
    """
    truth, decided = np.asarray(reference, dtype=np.int64), np.asarray(answer, dtype=np.int64)
    if truth.ndim != 1 or truth.shape != decided.shape:
        raise DataError(f"Expected grades of one length, got shapes {truth.shape} and {decided.shape}.")
    distance = np.abs(truth - decided)
    distance[(truth == missing) | (decided == missing)] = 0
    order = np.argsort(-distance, kind="stable")
    return order[: int((distance >= FAR).sum())]
