"""Chooses exams that the ensemble got right, wrong and far off, and shows their pictures as a reader sees them.

Two choices are for figures of Zhou et al. 2022: what fusion and MULTITUDE changed (3), and kinds of failure (7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from client.data.pictures import clips
from client.data.tables.rows import read_rows
from client.site.site import Site
from common.evaluation.mistakes import FAR
from common.exam import MISSING, Roi
from common.scoring import validity
from common.settings import Settings
from server.report.examples import Example, write_examples
from server.report.tables import title
from simulation.cohorts.cohort import Cohort
from simulation.evaluation.blocks.single_image import PREFIX
from simulation.evaluation.scorer import grades_in

EACH = 4
"""Examples of each kind: right, wrong, far off."""
KINDS = 4
"""Failures shown of each measurement: the most frequent kinds, one exam each."""
Noted: TypeAlias = tuple[str, pd.Series]
"""What an exam is an example of, and its row."""


def write(folder: Path, predictions: pd.DataFrame, cohort: Cohort, settings: Settings) -> None:
    """Write a few examples for the report.

    Args:
        folder: ``figures`` of the run: ``examples`` (right and wrong), ``far_off`` (by two grades and more),
            ``contrasts`` and ``failures`` in it.
        predictions: as :func:`simulation.evaluation.predict.predictions` returns them.
        cohort: the sites that the exams are from.
        settings: the configuration.
    """
    reference = "truth" if f"truth_{next(iter(settings.measurements))}" in predictions else "label"
    names = [name for name in settings.measurements if f"decision_{name}" in predictions]
    if not names:  # one combined score: no measurement of its own to be shown beside the pictures
        return
    graded = predictions[(predictions[[f"{reference}_{name}" for name in names]] >= 0).all(axis=1)]
    right = np.logical_and.reduce(
        [graded[f"{reference}_{name}"] == graded[f"decision_{name}"] for name in names]
    )
    diseased = graded[f"{reference}_{names[0]}"] > 0  # a healthy joint that is right teaches little
    chosen = [
        *_spread(graded[right & diseased], f"{reference}_{names[0]}"),
        *_spread(graded[~right], f"{reference}_{names[0]}"),
    ]
    folders = {site.name: site.folder for site in cohort.sites}
    seen = graded[graded["trained_site"].astype(bool)]
    kinds: dict[str, list[Noted]] = {
        "examples": [("", row) for row in chosen],
        "far_off": [("", row) for row in _far_off(graded, reference, names)],
        "contrasts": contrasts(seen, settings, reference=reference, names=names),
        "failures": failures(seen, reference=reference, names=names),
    }
    for name, rows in kinds.items():
        write_examples(
            folder / name,
            [
                replace(
                    example(
                        row,
                        _pictures(folders[row["site"]], str(row["exam_id"]), settings.images),
                        reference=reference,
                        names=names,
                    ),
                    note=note,
                )
                for note, row in rows
            ],
        )


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


def _far_off(graded: pd.DataFrame, reference: str, names: Sequence[str]) -> list[pd.Series]:
    """Up to ``EACH`` exams of the sites that trained, the farthest off first, of different sites where there are."""
    seen = graded[graded["trained_site"].astype(bool)]
    errors = [(seen[f"{reference}_{name}"] - seen[f"decision_{name}"]).abs() for name in names]
    distance = np.max([error.to_numpy() for error in errors], axis=0) if len(seen) else np.zeros(0)
    far = seen.assign(distance=distance)[distance >= FAR].sort_values(
        "distance", ascending=False, kind="stable"
    )
    turn = far.groupby(["distance", "site"]).cumcount()
    ordered = far.assign(turn=turn).sort_values(["distance", "turn"], ascending=[False, True], kind="stable")
    return [row for _, row in ordered.head(EACH).iterrows()]


def _spread(frame: pd.DataFrame, column: str) -> list[pd.Series]:
    """Up to ``EACH`` exams, of different grades and sites as far as there are."""
    shuffled = frame.sample(frac=1.0, random_state=0)
    ranks = shuffled.groupby(column).cumcount()
    ordered = shuffled.assign(rank=ranks).sort_values(["rank", column], kind="stable")
    return [row for _, row in ordered.head(EACH).iterrows()]


def example(
    row: pd.Series, pictures: Mapping[str, NDArray[np.uint8]], *, reference: str, names: Sequence[str]
) -> Example:
    """An exam to show.

    Args:
        row: of :func:`simulation.evaluation.predict.predictions`.
        pictures: image name -> picture.
        reference: ``truth`` or ``label``.
        names: the measurements that were decided.
    """
    return Example(
        exam_id=str(row["exam_id"]),
        site=str(row["site"]),
        pictures=pictures,
        reference={name: int(row[f"{reference}_{name}"]) for name in names if f"{reference}_{name}" in row},
        decision={name: int(row[f"decision_{name}"]) for name in names},
        votes={
            name: [int(vote) for column, vote in row.items() if str(column).startswith(f"vote_{name}_")]
            for name in names
        },
        majority={name: int(row[f"majority_{name}"]) for name in names},
        tie=bool(row["tie"]),
    )


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


def _pictures(folder: Path, exam_id: str, images: Iterable[str]) -> Mapping[str, NDArray[np.uint8]]:
    site = Site.open(folder)
    table = read_rows(site.data_folder / site.file.data.manifest, ["exam_id"])
    row = next(row for _, row in table.rows if row["exam_id"] == exam_id)
    return {
        image: _roi(site.data_folder / row[f"{image}_path"], row.get(f"{image}_roi", "")) for image in images
    }


def _roi(path: Path, roi_text: str) -> NDArray[np.uint8]:
    shown = clips.frame(path, 1)[0]
    if len({band.tobytes() for band in shown.split()}) == 1:
        shown = shown.convert("L")
    if roi_text:
        roi = Roi.parse(roi_text)
        shown = shown.crop((roi.x, roi.y, roi.x + roi.width, roi.y + roi.height))
    return np.asarray(shown)
