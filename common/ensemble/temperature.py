"""Temperature: one number by which networks that are too sure, or not sure enough, are brought to tell the truth.

Logits are divided by it, ``softmax(logits / T)``: above 1 probabilities move towards each other, below 1 apart. The
log loss is convex in 1 / T, so there is one best.

**Guarantees**, asserted by tests:

* Of two classes: an exam with a larger probability than another never has a smaller one, at any temperature.
* The fitted temperature's log loss is not above that of temperature 1 on the exams that it was fitted to.
* No grade depends on it: bits and votes are made of probabilities as they were.

Source: Guo, Pleiss, Sun and Weinberger 2017, On calibration of modern neural networks, arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int, Int64
from numpy.typing import ArrayLike

LEAST, MOST = 0.1, 10.0
"""Beyond these a site has too few exams to tell."""
SMALLEST = 1e-7
"""A probability that was rounded to 0 has no logit."""


def tempered(probabilities: ArrayLike, temperature: float) -> Float64[np.ndarray, "exams classes"]:
    """Probabilities at a temperature.

    Args:
        probabilities: of the classes, ``(exams, classes)``, in [0, 1], each row adding up to 1.
        temperature: above 0; 1 leaves them as they are.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1.0:
        return p
    logits = np.log(p.clip(SMALLEST, 1)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    raised = np.exp(logits)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def log_loss(
    probabilities: ArrayLike, labels: Int[np.ndarray, " exams"], temperature: float = 1.0
) -> Float64[np.ndarray, " exams"]:
    """Minus the logarithm of the probability of each exam's class.

    Args:
        probabilities: ``(exams, classes)``.
        labels: the classes, 0 .. classes - 1.
        temperature: of the probabilities.
    """
    p = tempered(probabilities, temperature)
    return np.asarray(-np.log(p[np.arange(len(labels)), labels].clip(SMALLEST, 1)))


def fit(probabilities: ArrayLike, labels: Int[np.ndarray, " exams"]) -> float:
    """The temperature with the smallest mean log loss, between :data:`LEAST` and :data:`MOST`; 1 without exams.

    Args:
        probabilities: ``(exams, classes)``.
        labels: the classes.
    """
    if not len(labels):
        return 1.0
    p = np.asarray(probabilities, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        return float(log_loss(p, labels, math.exp(log_temperature)).mean())

    from scipy.optimize import minimize_scalar  # noqa: PLC0415  takes long

    found = minimize_scalar(loss, bounds=(math.log(LEAST), math.log(MOST)), method="bounded")
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def crossed(
    probabilities: ArrayLike, labels: Int[np.ndarray, " exams"], patient: Int64[np.ndarray, " exams"]
) -> Float64[np.ndarray, " exams"]:
    """By how much each exam's log loss falls at the temperature that all other patients give.

    Args:
        probabilities: ``(exams, classes)``.
        labels: the classes.
        patient: of each exam.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    gain = np.zeros(len(labels))
    for one in np.unique(patient):
        mine = patient == one
        others = fit(p[~mine], labels[~mine])
        gain[mine] = log_loss(p[mine], labels[mine]) - log_loss(p[mine], labels[mine], others)
    return gain
