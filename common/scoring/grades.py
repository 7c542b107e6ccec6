"""Whole-number checks that the scoring rules share."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Integer
from numpy.typing import ArrayLike

from common.errors import DataError

Numbers: TypeAlias = ArrayLike | float | int
"""An array, nested lists or one number. (``ArrayLike`` has int only through ``complex``.)"""


class GradeError(DataError, ValueError):
    """A grade, vote, bit or combination that cannot be.

    Also a ``ValueError``: for a caller of a pure function it is a bad argument.
    """


def checked(values: Numbers, *, count: int, what: str) -> Integer[np.ndarray, "*shape"]:
    """Return ``values`` as an array after checking that each is one of ``0 .. count - 1``.

    Args:
        values: numbers of any shape; of an integer or boolean type.
        count: how many different values there are.
        what: name for the error message, for example ``hypertrophy``.

    Raises:
        GradeError: for numbers that are not of an integer type or are out of range, with the first place.
    """
    array = np.asarray(values)
    if array.dtype == np.bool_ or array.size == 0:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise GradeError(f"Expected whole numbers for {what}, got {array.dtype}: drop missing values first.")
    if array.size and (array.min() < 0 or array.max() >= count):
        place = first_index((array < 0) | (array >= count))
        raise GradeError(f"Expected {what} in 0..{count - 1}, got {array[place]} at index {_plain(place)}.")
    return array


def first_index(wrong: np.ndarray) -> tuple[int, ...]:
    """Index of the first true element, in C order."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))


def _plain(index: tuple[int, ...]) -> int | tuple[int, ...]:
    return index[0] if len(index) == 1 else index
