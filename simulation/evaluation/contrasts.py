"""Chooses exams for two figures of Zhou et al. 2022: what fusion and MULTITUDE changed (3), kinds of failure (7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from common.exam import MISSING
from common.scoring import validity
from common.settings import Settings
from server.report.tables import title
from simulation.evaluation.scorer import grades_in
from simulation.evaluation.single_image import PREFIX

KINDS = 4
"""Failures shown of each measurement: the most frequent kinds, one exam each."""
Noted: TypeAlias = tuple[str, pd.Series]
"""What an exam is an example of, and its row."""


def contrasts(
    frame: pd.DataFrame, settings: Settings, *, reference: str, names: Sequence[str]
) -> list[Noted]:
    """One exam each on which fusion was right and an image alone wrong, and where MULTITUDE took no impossible pair.

    Args:
        frame: predictions; every exam has a reference.
        settings: of the run.
        reference: ``truth`` or ``label``.
        names: the measurements that were decided.

    Returns:
        As many as there are such exams. Of several the one that the other way misses farthest, then of those that
        are right in all.
    """
    right = {
        name: grades_in(frame, f"{reference}_{name}") == grades_in(frame, f"decision_{name}")
        for name in names
    }
    whole = np.logical_and.reduce(list(right.values()))
    found: list[Noted] = []
    for name in names:
        for image in settings.images:
            alone = grades_in(frame, f"{PREFIX}_{image}_{name}")
            missed = np.abs(alone - grades_in(frame, f"{reference}_{name}")).astype(np.float64)
            row = _first(frame, (alone != MISSING) & right[name] & (missed > 0), missed, whole)
            if row is not None:
                grade = int(row[f"{PREFIX}_{image}_{name}"])
                note = f"Fusion helped against {title(image)} alone: {title(name).lower()} {grade} from it"
                found.append((f"{note}, {int(row[f'decision_{name}'])} from both", row))
    majority = np.stack([grades_in(frame, f"majority_{name}") for name in names])
    if list(names) == list(settings.measurements) and (majority != MISSING).all():
        impossible = ~validity.possible(settings)[tuple(majority)]
        row = _first(frame, impossible, whole.astype(np.float64), whole)
        if row is not None:
            pair, answer = (
                " with ".join(f"{title(name).lower()} {int(row[f'{kind}_{name}'])}" for name in names)
                for kind in ("majority", "decision")
            )
            note = f"MULTITUDE excluded an impossible combination: the models' majorities say {pair}"
            found.append((f"{note}, the answer is {answer}", row))
    return found


def failures(frame: pd.DataFrame, *, reference: str, names: Sequence[str]) -> list[Noted]:
    """One exam of each of the :data:`KINDS` most frequent kinds of failure of each measurement, by grades.

    Arguments as in :func:`contrasts`.
    """
    found: list[Noted] = []
    for name in names:
        columns = [f"{reference}_{name}", f"decision_{name}"]
        wrong = frame[frame[columns[0]] != frame[columns[1]]]
        kinds = wrong.groupby(columns).size().sort_values(ascending=False, kind="stable").head(KINDS)
        for (truth, decision), count in kinds.items():
            of_kind = wrong[(wrong[columns[0]] == truth) & (wrong[columns[1]] == decision)]
            others = [n for n in names if n != name]
            alike = [of_kind[f"{reference}_{n}"] == of_kind[f"decision_{n}"] for n in others]
            fewest = np.logical_and.reduce(alike) if alike else np.ones(len(of_kind), dtype=bool)
            row = of_kind.iloc[
                int(np.argmax(fewest))
            ]  # the first that fails in nothing else, or else the first
            how = "overestimated" if decision > truth else "underestimated"
            note = (
                f"{title(name)} {truth} decided as {decision}: {how}, {count} exam{'' if count == 1 else 's'}"
            )
            found.append((note, row))
    return found


def _first(
    frame: pd.DataFrame,
    use: Bool[np.ndarray, " exams"],
    better: Float64[np.ndarray, " exams"],
    whole: Bool[np.ndarray, " exams"],
) -> pd.Series | None:
    """Of the exams to be used the best; of equals those that are right in all, then the first."""
    if not use.any():
        return None
    return frame.iloc[int(np.argmax(np.where(use, 2 * better + whole, -1.0)))]
