"""Error-correcting output codes: grades as the answers of binary networks.

A measurement with ``grades`` grades has ``grades - 1`` binary tasks: grade > 0, > 1, ... Each task is
answered by ``replicas`` networks. The code word of grade g says yes to the first g tasks; the decoded grade
is the one with the nearest code word (Hamming distance), **a tie going to the lower grade**.

Soft decoding keeps what a bit throws away, how sure a network is: :func:`likelihoods`.

Source: Zhou et al. 2022, Patterns, doi 10.1016/j.patter.2022.100592 (RATING: 2 replicas of 3 tasks, 6 bits);
Dietterich and Bakiri 1995, doi 10.1613/jair.105; Allwein, Schapire and Singer 2000, JMLR 1:113-141 (loss-based
decoding; the logistic loss gives the likelihood).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

from common.scoring.grades import GradeError, Numbers, checked

_SURE = 1e-6
"""No network is surer than this: one that says exactly 0 or 1 does not outvote all others."""


def decode(bits: Numbers) -> Int64[np.ndarray, "*shape"]:
    """Grades whose code words are nearest to ``bits``.

    Args:
        bits: 0/1 or boolean, of shape ``(..., replicas, grades - 1)``, for RATING ``(..., 2, 3)``; the last
            axis holds the answers to grade > 0, > 1, ...

    Returns:
        Grades 0 .. grades - 1 of shape ``(...)``.

    Raises:
        GradeError: for values other than 0 and 1, or without the two last axes.
    """
    # argmin gives the first minimum: the lower grade.
    return np.asarray(_distances(bits).argmin(axis=-1), dtype=np.int64)


def decode_upwards(bits: Numbers) -> Int64[np.ndarray, "*shape"]:
    """The same with a tie going to the **higher** grade: it differs from :func:`decode` where there was one.

    Arguments and errors as in :func:`decode`.
    """
    distance = _distances(bits)
    return np.asarray(distance.shape[-1] - 1 - distance[..., ::-1].argmin(axis=-1), dtype=np.int64)


def likelihoods(
    probabilities: Float[np.ndarray, "*shape replicas tasks"],
) -> Float64[np.ndarray, "*shape grades"]:
    """How likely each grade's code word is, were the tasks independent; over all grades they sum to 1.

    Args:
        probabilities: of yes, in [0, 1], ``(..., replicas, grades - 1)``; the last axis holds the answers to
            grade > 0, > 1, ... Replicas count as one network with the mean of their log odds.

    Raises:
        GradeError: for values outside [0, 1] or not a number, or without the two last axes.
    """
    if probabilities.ndim < 2 or 0 in probabilities.shape[-2:]:
        raise GradeError(
            f"Expected probabilities of shape (..., replicas, grades - 1), got {probabilities.shape}."
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise GradeError("Expected probabilities in [0, 1], got a value outside or not a number.")
    yes = np.clip(probabilities.astype(np.float64), _SURE, 1 - _SURE)
    log_odds = (np.log(yes) - np.log1p(-yes)).mean(axis=-2)
    # From grade g to g + 1 the task "> g" turns from no to yes: its log odds are gained.
    logs = np.concatenate([np.zeros_like(log_odds[..., :1]), np.cumsum(log_odds, axis=-1)], axis=-1)
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _distances(bits: Numbers) -> Int64[np.ndarray, "*shape grades"]:
    """Hamming distance to each grade's code word, less that to the first's."""
    array = checked(bits, count=2, what="bits")
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise GradeError(f"Expected bits of shape (..., replicas, grades - 1), got {array.shape}.")
    replicas = array.shape[-2]
    yes = array.sum(axis=-2, dtype=np.int64)
    # From grade g to g + 1 the distance loses the replicas that say "> g" and gains those that deny it.
    steps = np.cumsum(replicas - 2 * yes, axis=-1)
    return np.concatenate([np.zeros_like(steps[..., :1]), steps], axis=-1)
