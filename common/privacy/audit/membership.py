"""Do networks of folds know their own patients? A lower bound on epsilon from a run's cross-validation.

Each fold's networks were trained without that fold's patients. So, for the networks without fold ``f``, patients of
``f`` were out and those of the next fold, ``g``, were in; which of the two folds a patient came into was a fair coin,
given that it was one of them. Networks of all other folds were trained on both kinds and serve as the yardstick: a
patient on whom the networks without ``f`` do better than the others do looks as if it was in. That is the one-run
audit (:mod:`common.privacy.audit.audit`) on a run that is there anyway, without canaries. It also works on
training without any privacy, where it shows what an outsider could tell.

It needs each network's losses on **training** patients. A run's ``predictions.parquet`` has none, it holds held-out
exams alone: the losses come from networks and a site's store (:mod:`simulation.privacy.fold_membership`).

=====================================  ==================================================================
case                                   answer
=====================================  ==================================================================
patients were not remembered           bound near 0, area near 0.5: proves nothing
two folds                              no yardstick: a weaker attack
a patient without a loss (nan)         refused: leave the patient out
folds balanced rather than drawn       coins depend on each other a little: the confidence is approximate
=====================================  ==================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import ConfigurationError
from common.evaluation.roc import auc
from common.privacy.audit.audit import best_lower_bound, epsilon_lower_bound

SHARES = (0.1, 0.2, 0.4, 0.8)
"""Of the patients on whom the auditor does not abstain."""
FEWEST = 10
"""Patients that two folds must have together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What networks show of who trained them.

    Attributes:
        patients: who trained.
        folds: attacks that were made, one per fold.
        bound: lower bound on epsilon of one fold's networks, for one patient; the best attack's.
        ceiling: the bound, if every guess were right.
        area: under the ROC curve of "in" against "out", mean over the attacks; 0.5 is chance.
        confidence: with which the bound is not too high.
    """

    patients: int
    folds: int
    bound: float
    ceiling: float
    area: float
    confidence: float


def membership(
    losses: Float64[np.ndarray, "folds patients"],
    fold: Int64[np.ndarray, " patients"],
    *,
    delta: float | int = 0.0,
    confidence: float | int = 0.95,
) -> Membership:
    """Attack each fold's networks.

    Args:
        losses: each patient's mean loss under the networks that were trained without that fold.
        fold: each patient's, 0 .. folds - 1.
        delta: of the claim that is held against; 0 where there is none.
        confidence: of all attacks and choices together.

    Raises:
        ConfigurationError: for fewer than two folds, too few patients in two of them, or losses that are not finite.
    """
    folds, patients = losses.shape
    if folds < 2 or not np.isfinite(losses).all() or not set(fold.tolist()) <= set(range(folds)):
        raise ConfigurationError(
            f"Expected finite losses of at least two folds, and patients' folds in 0..{folds - 1}"
        )
    share = 1 - (1 - confidence) / folds
    bounds, ceilings, areas = [], [], []
    for out in range(folds):
        score, included = _attack(losses, fold, out)
        choices = guesses(len(score))
        bounds.append(best_lower_bound(score, included, guesses=choices, delta=delta, confidence=share))
        each = 1 - (1 - share) / len(choices)
        ceilings += [
            epsilon_lower_bound(canaries=len(score), guesses=r, correct=r, delta=delta, confidence=each)
            for r in choices
        ]
        areas.append(float(auc(score, included)))
    return Membership(
        patients=patients,
        folds=folds,
        bound=max(bounds),
        ceiling=max(ceilings),
        area=float(np.mean(areas)),
        confidence=confidence,
    )


def guesses(patients: int) -> tuple[int, ...]:
    """How many guesses the auditor makes: the choices."""
    return tuple(sorted({max(2, 2 * int(share * patients / 2)) for share in SHARES}))


def _attack(
    losses: Float64[np.ndarray, "folds patients"], fold: Int64[np.ndarray, " patients"], out: int
) -> tuple[Float64[np.ndarray, " some"], np.ndarray]:
    """Scores of the patients of fold ``out`` and the next, and which were in."""
    folds = len(losses)
    other = (out + 1) % folds
    chosen = np.flatnonzero((fold == out) | (fold == other))
    included = fold[chosen] == other
    if len(chosen) < FEWEST or included.all() or not included.any():
        raise ConfigurationError(
            f"Expected at least {FEWEST} patients in folds {out} and {other}, some in each, got {len(chosen)}"
        )
    yardsticks = np.delete(losses[:, chosen], [out, other], axis=0)
    yardstick = yardsticks.mean(axis=0) if len(yardsticks) else 0.0
    return yardstick - losses[out, chosen], included
