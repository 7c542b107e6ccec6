"""The EULAR-OMERACT combined score (EOSS): which pairs of grades can be, and what they add up to.

Hypertrophy and vascularity are graded 0-3. Flow is seen inside thickened synovium only, so hypertrophy 0 with
vascularity > 0 is impossible: 13 of the 16 pairs are valid. The combined score is the larger of the two.

Source: D'Agostino et al. 2017, RMD Open 3:e000428, table 3; Zhou et al. 2022, Patterns, doi
10.1016/j.patter.2022.100592.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Integer

from common.exam import MISSING
from common.scoring.grades import GradeError, Numbers, checked, first_index

GRADES = 4
"""Grades 0-3 of hypertrophy, of vascularity and of the combined score."""


def is_valid(hypertrophy: Numbers, vascularity: Numbers) -> Bool[np.ndarray, "*shape"]:
    """Whether pairs of grades can be.

    Args:
        hypertrophy: synovial hypertrophy, whole numbers of any shape.
        vascularity: Doppler grade, of a shape that broadcasts with it.

    Returns:
        True where both grades are in 0-3 and not (hypertrophy = 0 and vascularity > 0).
    """
    h, v = np.asarray(hypertrophy), np.asarray(vascularity)
    graded = (h >= 0) & (h < GRADES) & (v >= 0) & (v < GRADES)
    return np.asarray(graded & ((h > 0) | (v == 0)))


def is_valid_pair(combination: tuple[int, ...]) -> bool:
    """The same for one (hypertrophy, vascularity), in the form that :func:`multitude.decide` asks for."""
    hypertrophy, vascularity = combination
    return bool(is_valid(hypertrophy, vascularity))


def combined(hypertrophy: Numbers, vascularity: Numbers) -> Integer[np.ndarray, "*shape"]:
    """The combined score 0-3 of valid pairs: ``max(hypertrophy, vascularity)``.

    Args:
        hypertrophy: synovial hypertrophy 0-3, of any shape.
        vascularity: Doppler grade 0-3, of a shape that broadcasts with it.

    Raises:
        GradeError: for a grade outside 0-3 or an impossible pair; the message has the first one.
    """
    h = checked(hypertrophy, count=GRADES, what="hypertrophy")
    v = checked(vascularity, count=GRADES, what="vascularity")
    h, v = np.broadcast_arrays(h, v)
    wrong = ~is_valid(h, v)
    if wrong.any():
        place = first_index(wrong)
        raise GradeError(
            f"Expected one of the 13 valid pairs, got hypertrophy {h[place]} with vascularity {v[place]} "
            f"at index {place}: flow without hypertrophy cannot be; quarantine or repair such exams."
        )
    return np.asarray(np.maximum(h, v), dtype=np.int64)


def combined_or_missing(hypertrophy: Numbers, vascularity: Numbers) -> Integer[np.ndarray, "*shape"]:
    """The larger of two grades, ``MISSING`` where either is; whether the pair can be is not asked."""
    h, v = np.asarray(hypertrophy), np.asarray(vascularity)
    return np.where((h == MISSING) | (v == MISSING), MISSING, np.maximum(h, v))
