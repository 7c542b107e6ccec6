"""Hotspots: what in their pictures spoke for the diagnosis that the networks saw, side by side for people to read.

Schlereth et al. (EULAR 2025) collected the heatmaps of their diagnosis networks and looked for anatomy in them. Here
a contact sheet for each diagnosis has, of each predicted class, the scans that the networks are surest of, of as many
patients: the whole first picture with its region, then each image's region under its heatmap
(:mod:`common.ensemble.heatmaps`). The sign says for which class a pixel speaks: for class 1 what raises its log odds,
for class 0 what lowers them. Where folds judge, the network that explains a scan is the one that judged it.

Nothing is measured here. A heatmap says what a network used, not that it was right to use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from client.data.pictures import contact_sheet
from client.data.pictures.contact_sheet import Part, Screen
from client.data.pictures.decoder import decode
from client.data.tables.rows import read_rows
from client.site.site import Site
from common.ensemble.committee import Committee
from common.ensemble.explained import under
from common.ensemble.heatmaps import HeatmapSettings, Progress, attributions, scaled
from common.exam import MISSING, Roi
from common.settings import Settings
from simulation.cohorts.cohort import Cohort
from simulation.engine.places import Place, Places, in_order
from simulation.evaluation import ensembles, heatmaps
from simulation.evaluation.ensembles import Opens
from simulation.evaluation.scorer import grades_in, likeliness

FOLDER = "hotspots"


def write(
    run: Path,
    ensemble: Opens,
    predictions: pd.DataFrame,
    cohort: Cohort,
    *,
    places: Places,
    progress: Progress | None = None,
    settings: HeatmapSettings | None = None,
) -> list[Path]:
    """Write ``figures/hotspots/<diagnosis>.png`` for each diagnosis that binary networks tell.

    Args:
        run: the run's folder.
        ensemble: its ensemble.
        predictions: of the run; ``evaluate.hotspots`` scans of each predicted class are taken.
        cohort: the sites.
        places: each explains one scan at a time.
        progress: told of scans done, out of all.
        settings: steps, copies, cut; ``None``: RATING's.

    Returns:
        The files; none where the plan has no diagnosis.
    """
    tasks = [name for name in ensemble.settings.diagnoses if f"decision_{name}" in predictions]
    scans = [
        (task, scan.to_frame().T)
        for task in tasks
        for _, scan in _chosen(predictions, task, ensemble.settings).iterrows()
    ]
    how = settings or HeatmapSettings()
    pieces = [places.submit(_screen, ensemble, scan, task, cohort, how) for task, scan in scans]
    screens = in_order(pieces, progress or (lambda done, total: None))
    files = []
    for task, found in groupby(zip(scans, screens, strict=True), key=lambda one: one[0][0]):
        path = run / "figures" / FOLDER / f"{task}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet.draw([screen for _, screen in found]).save(path, optimize=True)
        files.append(path)
    return files


def _chosen(predictions: pd.DataFrame, task: str, settings: Settings) -> pd.DataFrame:
    """Of each predicted class the scans with the highest probability, one a patient, with the probability."""
    known = predictions[grades_in(predictions, f"label_{task}") != MISSING]
    shares = likeliness(known, task, grades=settings.measurements[task].grades)
    if shares is None or shares.shape[1] != 2:
        return known.iloc[:0]
    sure = known.assign(hotspot=shares.max(axis=1), predicted=shares.argmax(axis=1))
    sure = sure.sort_values(["predicted", "hotspot"], ascending=[True, False], kind="stable")
    first = sure.groupby(["predicted", "site", "patient_id"], sort=False).head(1)
    return first.groupby("predicted", sort=True).head(settings.evaluate.hotspots)


def _screen(
    place: Place,
    ensemble: Opens,
    scan: pd.DataFrame,
    task: str,
    cohort: Cohort,
    settings: HeatmapSettings,
) -> Screen:
    row, committee = scan.iloc[0], ensembles.opened(place, ensemble)
    asked = committee.of_fold(int(row["fold"])) if "fold" in scan else committee
    found = _heatmaps(asked, scan, task, cohort, settings, negative=row["predicted"] == 0)
    classes = ["/".join(values) for values in committee.settings.measurements[task].classes]
    predicted, known = classes[int(row["predicted"])], classes[int(row[f"label_{task}"])]
    said = f"{task}: predicted {predicted}, {row['hotspot']:.2f}; is {known}; {row['site']} {row['exam_id']}"
    pictures = _pictures(cohort, row, list(found))
    screen, shown = next(iter(pictures.values()))
    parts = []
    for image, (picture, roi) in pictures.items():
        region = picture[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
        parts.append(
            Part(
                box=shown, roi=None, masked=(), result=under(region, found[image]), title=f"{image}: hotspots"
            )
        )
    return Screen(rgb=screen, title=said, parts=tuple(parts))


def _heatmaps(
    committee: Committee,
    scan: pd.DataFrame,
    task: str,
    cohort: Cohort,
    settings: HeatmapSettings,
    *,
    negative: bool,
) -> dict[str, Float[Tensor, "h w"]]:
    specs = zip(committee.specs, committee.modules, strict=True)
    asked = [(spec, module) for spec, module in specs if spec.scoring and spec.target.measurement == task]
    images = asked[0][0].images
    pictures = heatmaps.stored(committee, scan, cohort)
    signed = attributions(
        [module for _, module in asked],
        [pictures[name] for name in images],
        settings=settings,
        generator=torch.Generator().manual_seed(committee.settings.seed),
    )
    return {
        name: scaled(-values if negative else values, settings)[0]
        for name, values in zip(images, signed, strict=True)
    }


def _pictures(cohort: Cohort, row: pd.Series, images: Sequence[str]) -> Mapping[str, tuple[np.ndarray, Roi]]:
    """The scan's whole pictures and their regions of interest, by image."""
    site = Site.open(next(one.folder for one in cohort.sites if one.name == row["site"]))
    manifest = read_rows(site.data_folder / site.file.data.manifest, ["exam_id"]).rows
    cells = next(cells for _, cells in manifest if cells["exam_id"] == row["exam_id"])
    found = {}
    for image in images:
        picture = np.asarray(
            decode((site.data_folder / cells[f"{image}_path"]).read_bytes(), mode="RGB").image
        )
        roi = cells.get(f"{image}_roi", "")
        whole = Roi(x=0, y=0, width=picture.shape[1], height=picture.shape[0])
        found[image] = picture, Roi.parse(roi) if roi else whole
    return found
