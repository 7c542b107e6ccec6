"""Every reader beside the ensemble: accuracy and Youden's index at each cut (figure 6 of Zhou et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from common.exam import MISSING
from simulation.evaluation.scorer import Block, Patients, Scorer


def block(scorer: Scorer, seen: pd.DataFrame, readers: Sequence[str]) -> Block:
    """What the figure shows.

    A reader graded the exams of one site. The ensemble is held against each on the exams that both graded, and the
    readers' mean against the ensemble on all.

    Args:
        scorer: against the truth; against a consensus its own readers could not be judged.
        seen: predictions for the held-out exams of the sites that trained.
        readers: who have columns in it.

    Returns:
        ``ensemble`` and ``mean`` -> :meth:`Scorer.rates`; ``readers``: name -> ``exams`` (of both), ``reader`` and
        ``ensemble`` -> the same. Empty without readers.
    """
    if not readers:
        return {}
    patients = Patients.of(seen)
    weights = scorer.weights(patients)
    tallies = [scorer.tally(seen, patients, f"reader_{name}") for name in readers]
    each: Block = {name: _beside(scorer, seen, name) for name in readers}
    return {
        "ensemble": scorer.rates([scorer.tally(seen, patients)], weights),
        "mean": scorer.rates(tallies, weights),
        "readers": each,
    }


def _beside(scorer: Scorer, seen: pd.DataFrame, reader: str) -> Block:
    given = scorer.answers(seen, f"reader_{reader}")
    part = seen[[any(grades[row] != MISSING for grades in given.values()) for row in range(len(seen))]]
    patients = Patients.of(part)
    weights = scorer.weights(patients)
    sources = {"reader": f"reader_{reader}", "ensemble": "decision"}
    rates = {
        side: scorer.rates([scorer.tally(part, patients, source)], weights)
        for side, source in sources.items()
    }
    return {"exams": len(part), "patients": len(patients), **rates}
