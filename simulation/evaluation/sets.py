"""Sets of grades on exams that only a simulation can look at: of machines that no site trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from common.evaluation import conformal
from common.exam import MISSING
from simulation.evaluation.scorer import Block, grades_in, networks_of_task


def unseen(predictions: pd.DataFrame, thresholds: Mapping[str, float], grades: Mapping[str, int]) -> Block:
    """What sets at the common thresholds are worth on sites that never trained, against their readers' consensus.

    Args:
        predictions: see :func:`simulation.evaluation.metrics.metrics`.
        thresholds: measurement -> threshold, of :func:`server.report.inside.thresholds`.
        grades: measurement -> number of grades.

    Returns:
        Measurement -> the fields of :class:`common.evaluation.conformal.Tried`; those without exams are left out.
    """
    frame = predictions[~predictions["trained_site"].astype(bool)]
    found: Block = {}
    for name, threshold in thresholds.items():
        reference, decision = grades_in(frame, f"label_{name}"), grades_in(frame, f"decision_{name}")
        known = reference != MISSING
        if not known.any():
            continue
        asked = (networks_of_task(frame[known], name, cut) for cut in range(grades[name] - 1))
        above = np.stack([one.to_numpy(dtype=np.float64).mean(axis=1) for one in asked], axis=1)
        chances = conformal.probabilities(above)
        told = conformal.conformity(
            conformal.efforts(chances, decision[known]),
            chances,
            reference=reference[known],
            decision=decision[known],
            calibrates=np.zeros(int(known.sum()), dtype=bool),
        )
        tried = conformal.tried(told, threshold)
        assert tried is not None, "there are exams"
        found[name] = asdict(tried)
    return found
