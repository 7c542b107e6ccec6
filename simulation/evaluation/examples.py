"""Chooses exams that the ensemble got right, wrong and far off, and shows their pictures as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.data.pictures import clips
from client.data.tables.rows import read_rows
from client.site.site import Site
from common.evaluation.mistakes import FAR
from common.exam import Roi
from common.settings import Settings
from server.report.examples import Example, write_examples
from simulation.cohorts.cohort import Cohort

EACH = 4
"""Examples of each kind: right, wrong, far off."""


def write(folder: Path, predictions: pd.DataFrame, cohort: Cohort, settings: Settings) -> None:
    """Write a few examples for the report.

    Args:
        folder: ``figures`` of the run: ``examples`` (right and wrong) and ``far_off`` (by two grades and more) in it.
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
    for name, rows in (("examples", chosen), ("far_off", _far_off(graded, reference, names))):
        write_examples(
            folder / name,
            [
                example(
                    row,
                    _pictures(folders[row["site"]], str(row["exam_id"]), settings.images),
                    reference=reference,
                    names=names,
                )
                for row in rows
            ],
        )


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
