"""Stacked regression (Breiman 1996): several networks' numbers become one, weighted by what each is worth.

The weights are found on *out-of-fold* answers: each network is asked about patients whom it never trained on. For
least squares nothing of them is needed but sums over exams, of products of two networks' answers and of answer and
truth; sums of several sites add up to those of all exams, so sites that send nothing else give the weights of pooled
data.

What is minimised, with n exams, k networks' answers ``x`` and the truth ``y`` as shares of the number's range:
``sum (y - b - x w)**2 + ridge n sum (w - 1/k)**2``: without much to go by, ``w`` is the plain mean.

Guarantees, asserted by tests: sums of parts equal sums of the whole; without ridge the weights are those of
``numpy.linalg.lstsq`` on pooled answers; with a large one they are 1/k and the intercept is the mean error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from common.errors import DataError, UpdateError


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalSums:
    """Sums for the normal equations.

    Attributes:
        exams: how many were added up.
        gram: sums of products of two answers, the last one being 1, so that ``gram[-1, -1]`` is ``exams``.
        moment: sums of products of answer and truth; the last is the truth's sum.
    """

    exams: int
    gram: Float64[np.ndarray, "k1 k1"]
    moment: Float64[np.ndarray, " k1"]

    @staticmethod
    def none(networks: int) -> NormalSums:
        """Of no exams."""
        size = networks + 1
        return NormalSums(exams=0, gram=np.zeros((size, size)), moment=np.zeros(size))

    @property
    def matrix(self) -> Float64[np.ndarray, "k1 k2"]:
        """All of it as it travels: ``gram``, and beside it ``moment`` as the last column."""
        return np.concatenate([self.gram, self.moment[:, None]], axis=1)

    @staticmethod
    def read(matrix: Float64[np.ndarray, "k1 k2"], *, networks: int) -> NormalSums:
        """Undo :attr:`matrix`, of somebody who may have sent anything.

        Args:
            matrix: as it came.
            networks: how many there are.

        Raises:
            UpdateError: if it cannot be such sums of shares in [0, 1] over at least one exam.
        """
        expected = (networks + 1, networks + 2)
        if matrix.shape != expected:
            raise UpdateError(f"Expected sums for stacking of shape {expected}, got {matrix.shape}")
        gram, exams = matrix[:, :-1], matrix[-1, -2]
        within = np.isfinite(matrix).all() and (matrix >= 0).all() and (matrix <= exams * (1 + 1e-9)).all()
        if not (within and exams >= 1 and exams == np.round(exams) and (gram == gram.T).all()):
            raise UpdateError(
                "Expected sums for stacking as of shares in [0, 1]: finite, symmetric, none below 0 or above the "
                "whole number of exams; got something else"
            )
        return NormalSums(exams=int(exams), gram=gram, moment=matrix[:, -1])

    @staticmethod
    def of(answers: Float64[np.ndarray, "n k"], truth: Float64[np.ndarray, " n"]) -> NormalSums:
        """Of some exams.

        Raises:
            DataError: if a value is not finite.
        """
        if not (np.isfinite(answers).all() and np.isfinite(truth).all()):
            raise DataError("Expected finite answers and truths for stacking, got NaN or infinity")
        design = np.concatenate([answers, np.ones((len(answers), 1))], axis=1)
        gram = design.T @ design
        return NormalSums(exams=len(truth), gram=(gram + gram.T) / 2, moment=design.T @ truth)

    def __add__(self, other: NormalSums) -> NormalSums:
        """Of both."""
        return NormalSums(
            exams=self.exams + other.exams, gram=self.gram + other.gram, moment=self.moment + other.moment
        )

    def __sub__(self, other: NormalSums) -> NormalSums:
        """Of those that are not in the other, which is a part of this."""
        return NormalSums(
            exams=self.exams - other.exams, gram=self.gram - other.gram, moment=self.moment - other.moment
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """How networks' numbers become one, as shares of the number's range."""

    weights: Float64[np.ndarray, " k"]
    intercept: float

    def __call__(self, answers: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
        """The one number, in [0, 1]."""
        return np.asarray(np.clip(answers @ self.weights + self.intercept, 0.0, 1.0))


def solve(sums: NormalSums, *, ridge: float) -> Stack:
    """The weights.

    Args:
        sums: of all exams; of none the stack is the plain mean.
        ridge: how strongly the plain mean is preferred, >= 0.
    """
    networks = len(sums.moment) - 1
    if not sums.exams:
        return Stack(weights=np.full(networks, 1 / networks), intercept=0.0)
    pull = np.append(np.full(networks, ridge * sums.exams), 0.0)
    right = sums.moment + pull / networks
    found = np.linalg.lstsq(sums.gram + np.diag(pull), right, rcond=1e-12)[0]  # networks may be alike
    return Stack(weights=found[:-1], intercept=float(found[-1]))
