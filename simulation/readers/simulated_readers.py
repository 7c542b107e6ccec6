"""A simulated reader study: ordinary readers, drawn, who read a run's held-out phantoms alone and assisted.

The readers grade what is true of a phantom with habits and noise (``simulation.phantom.readers``), calibrated to
RATING's readers alone, 41 % of combined scores right. Assisted, they see what the run's ensemble decided, and take
it for their own with a fixed probability. **The effect of assistance is therefore an assumption that goes into the
simulation, not a finding that comes out of it**: such a study shows how readings are analysed, and how large a
study must be. Every table of such readings has readers called ``simulated-...``, by which all that is made from it
is labelled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import DataError
from common.evaluation.readers import WITH, WITHOUT
from common.exam import MISSING
from simulation.phantom.random import stream
from simulation.phantom.readers import (
    ALONE,
    ASSISTED,
    ENSEMBLE,
    FOLLOWING,
    draw_ordinary_readers,
    draw_severity,
    read_alone,
    read_assisted,
)
from simulation.readers.readings import PAIR, SIMULATED, SIMULATED_READERS

READERS = 6
NOTICE = (
    "Simulated readers: drawn, not people. Habits and noise are calibrated to readers who alone get "
    f"{100 * ALONE:.1f} % of combined scores right.",
    f"The effect of assistance is an assumption, not a finding: a simulated reader takes the ensemble's answer with "
    f"probability {FOLLOWING:.2f}, which leads from {100 * ALONE:.1f} to {100 * ASSISTED:.1f} % beside an ensemble "
    f"of {100 * ENSEMBLE:.1f} %.",
)


def readings(run: Path, *, seed: int, count: int = READERS) -> pd.DataFrame:
    """Draw a study on the held-out phantoms of the sites that trained.

    Args:
        run: folder of a finished run.
        seed: the same seed gives the same readings.
        count: of readers; all read all exams, in both conditions.

    Returns:
        A table as ``simulation.readers.readings.read`` takes it, with a column ``kind`` that says whose they are.

    Raises:
        DataError: if the run has no predictions, or not those of phantoms.
    """
    exams = _exams(run)
    truth, answers = (
        tuple(exams[f"{source}_{name}"].to_numpy(dtype=np.int64) for name in PAIR)
        for source in ("truth", "decision")
    )
    rng = stream(seed, "reader study")
    readers = draw_ordinary_readers(rng, count=count, prefix=SIMULATED)
    severity = draw_severity(rng, truth[0], truth[1])
    graded = {
        WITHOUT: read_alone(rng, readers, severity),
        WITH: read_assisted(rng, readers, severity, answers=(answers[0], answers[1])),
    }
    same = {
        f"{source}_{name}": grades
        for source, pair in (("truth", truth), ("ensemble", answers))
        for name, grades in zip(PAIR, pair, strict=True)
    }
    parts = [
        exams[["exam_id", "patient_id"]].assign(
            reader=reader.name,
            kind=SIMULATED_READERS,
            condition=condition,
            **{name: grades[index] for name, grades in zip(PAIR, pairs, strict=True)},
            **same,
        )
        for index, reader in enumerate(readers)
        for condition, pairs in graded.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _exams(run: Path) -> pd.DataFrame:
    path = run / "predictions.parquet"
    if not path.is_file():
        raise DataError(f"Expected a finished run's predictions at {path}: finish it with simulate --resume")
    table = pd.read_parquet(path)
    needed = [f"{source}_{name}" for source in ("truth", "decision") for name in PAIR]
    missing = [column for column in needed if column not in table]
    if missing:
        raise DataError(
            f"Expected a run on phantoms that scores {' and '.join(PAIR)}, whose truth is known; {path} has no "
            f"{', '.join(missing)}: simulate readers on a run with [cohort.phantom]"
        )
    known = (table[needed] != MISSING).all(axis=1) & table["trained_site"].astype(bool)
    exams = table.loc[known].reset_index(drop=True)
    if not len(exams):
        raise DataError(
            f"Expected held-out exams with truth and decision in {path}, got none of {len(table)}"
        )
    # Names are a site's own.
    site = exams["site"].astype(str) + "/"
    return exams.assign(**{name: site + exams[name].astype(str) for name in ("exam_id", "patient_id")})
