"""Trained at one site, judged at another: how far each system carries, and where its own machine helps it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from common.evaluation.agreement import METRICS
from simulation.evaluation.scorer import Block, Patients, Scorer


def block(scorer: Scorer, frames: Mapping[str, pd.DataFrame]) -> Block:
    """The matrix of systems and sites.

    Args:
        scorer: of the run.
        frames: system -> its predictions of the held-out exams of every site, those never trained on included.

    Returns:
        Score -> system -> site -> metric, ``None`` where it cannot be computed. No intervals: single cells are small,
        and the matrix is read as a whole.
    """
    found: dict[str, dict[str, dict[str, Block]]] = {score: {} for score in scorer.grades()}
    for system, frame in frames.items():
        for site, part in frame.groupby("site"):
            tally = scorer.tally(part, Patients.of(part))
            for score, of in found.items():
                counts = tally[score].sum(axis=0)
                of.setdefault(system, {})[str(site)] = {
                    name: float(metric(counts)) for name, metric in METRICS.items()
                }
    return dict(found)
