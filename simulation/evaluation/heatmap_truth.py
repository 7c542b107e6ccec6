"""On the phantom it is known where disease is: how much of the heatmaps' mass falls inside it, against chance.

In a joint's ultrasound that is the synovium, on a radiograph of hands the joints that are damaged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from scipy.ndimage import binary_dilation

from common.ensemble.explained import under
from common.ensemble.heatmaps import HeatmapSettings, networks_above_zero
from common.errors import DataError
from common.evaluation.bootstrap import Estimate, resamples
from common.evaluation.localisation import Localisation, localisation
from common.methods.stages import networks
from common.sections.cohort import HandSettings
from common.settings import Settings
from server.report.examples import HEATMAP, Example, write_examples
from simulation.cohorts import cohort as cohorts
from simulation.cohorts import hands
from simulation.cohorts.cohort import Cohort
from simulation.engine.places import Places, in_order
from simulation.engine.progress import Display
from simulation.evaluation import heatmaps, predict
from simulation.evaluation.ensembles import Opens
from simulation.evaluation.examples import example
from simulation.hand import folders as hand_folders
from simulation.hand import places
from simulation.phantom.arrays import Bytes
from simulation.phantom.folders import Job
from simulation.phantom.masks import Region, SiteExam, regions

MOST_EXAMS = 50
SYNOVIUM, JOINTS = "synovium", "damaged joints"
"""What heatmaps should show, in words of the report."""
EXAMPLES = 4
OUTLINE = (0, 255, 255)


def write(
    folder: Path,
    ensemble: Opens,
    predictions: pd.DataFrame,
    cohort: Cohort,
    *,
    exams: int,
    settings: HeatmapSettings,
    places: Places,
    display: Display,
) -> dict[str, object]:
    """Compare heatmaps of held-out exams that have disease with where it is, and write a few for the report.

    Args:
        folder: of the run; examples go to ``figures/heatmaps``.
        ensemble: the trained ensemble.
        predictions: as :func:`simulation.evaluation.predict.predictions` returns them.
        cohort: the sites, of phantoms.
        exams: how many, up to ``MOST_EXAMS``; of as many patients as there are.
        settings: steps, copies, cut.
        places: each explains one exam at a time.
        display: shows cost and progress.

    Returns:
        What ``metrics.json`` holds under ``heatmaps``: plain values, ``None`` for what cannot be computed.

    Raises:
        ConfigurationError: if the run's method gives no heatmaps.
        DataError: if the cohort is none of phantoms, another version made it, or no such exam is there.
    """
    chosen = _chosen(predictions, ensemble.settings, exams=min(exams, MOST_EXAMS))
    names = list(zip(chosen["site"], chosen["exam_id"], strict=True))
    made = jobs(cohort)
    truth = regions_of(made, names)
    each = [chosen.iloc[[place]] for place in range(len(chosen))]
    start = time.monotonic()
    cost, networks = places.submit(
        heatmaps.cost_of, ensemble, each[0], cohort, settings, exams=len(each)
    ).result()
    display.line(str(cost))
    with display.step("heatmaps") as bar:
        one = in_order([places.submit(heatmaps.of_exam, ensemble, e, cohort, settings) for e in each], bar)
    found = {name: np.concatenate([exam[name] for exam in one]) for name in networks.images}
    seconds = time.monotonic() - start
    image_px = ensemble.settings.network.image_px
    patient, patients = pd.factorize(pd.MultiIndex.from_frame(chosen[["site", "patient_id"]]))
    weights = resamples(
        len(patients),
        replicates=ensemble.settings.evaluate.bootstrap,
        generator=np.random.default_rng(ensemble.settings.seed),
    )
    images = {
        name: localisation(
            values,
            np.stack([truth[exam][name].shares(image_px) for exam in names]),
            patient.astype(np.int64),
            weights,
        )
        for name, values in found.items()
    }
    write_examples(
        folder / "figures" / "heatmaps",
        _examples(chosen, found, truth, list(ensemble.settings.measurements)),
    )
    return {
        "measurement": networks.measurement,
        "number": networks.number,
        "region": JOINTS if isinstance(made[0], hand_folders.Job) else SYNOVIUM,
        "exams": len(chosen),
        "patients": len(patients),
        "networks": cost.networks,
        **settings.model_dump(include={"method", "steps", "noise_sigma", "cut"}),
        "copies": settings.copies,
        "seconds": round(seconds, 1),
        "images": {name: _block(result) for name, result in images.items()},
    }


def check(cohort: Cohort, settings: Settings) -> None:
    """Whether the heatmaps that a run asks for will find the truth of their exams, before anything is trained.

    Raises:
        ConfigurationError: if the run's method gives no heatmaps.
        DataError: as :func:`write`, also if a picture is no longer the one that the phantom gives.
    """
    asked = [spec for spec in networks(settings).values() if spec.scoring]
    networks_above_zero(asked, measurements=list(settings.measurements))
    exams = min(settings.evaluate.heatmaps, MOST_EXAMS)
    chosen = _chosen(predict.known(cohort, settings), settings, exams=exams)
    regions_of(jobs(cohort), set(zip(chosen["site"], chosen["exam_id"], strict=True)))


def jobs(cohort: Cohort) -> list[Job] | list[hand_folders.Job]:
    """What the patients of a phantom cohort were made from.

    Raises:
        DataError: if the cohort is none of phantoms, or another version made it.
    """
    made = cohorts.drawn(cohort.folder)
    if made is None:
        raise DataError(
            f"Expected a cohort of phantoms in {cohort.folder}, where the place of disease is known: heatmaps cannot "
            f"be compared with it elsewhere, set evaluate.heatmaps to 0"
        )
    settings, seed = made
    folders = {site.name: site.folder for site in cohort.sites}
    if isinstance(settings, HandSettings):
        return hands.jobs(settings, seed=seed, folders=folders)
    return cohorts.jobs(settings, seed=seed, folders=folders)


def regions_of(
    jobs: Sequence[Job] | Sequence[hand_folders.Job], wanted: Collection[SiteExam]
) -> dict[SiteExam, dict[str, Region]]:
    """What heatmaps of exams should show; raises as :func:`simulation.phantom.masks.regions`."""
    of_hands = [job for job in jobs if isinstance(job, hand_folders.Job)]
    others = [job for job in jobs if isinstance(job, Job)]
    return places.regions(of_hands, wanted) if of_hands else regions(others, wanted)


def _chosen(predictions: pd.DataFrame, settings: Settings, *, exams: int) -> pd.DataFrame:
    """Exams with synovium from the sites that trained, one of each patient before a second of any."""
    columns = [c for name in settings.measurements if (c := f"truth_{name}") in predictions]
    if not columns:
        raise DataError("Expected the truth of the exams, got none: heatmaps cannot be compared with it")
    synovium = (predictions[columns] > 0).any(axis=1)  # all flow is in synovium
    found = predictions[predictions["trained_site"].astype(bool) & synovium]
    if found.empty:
        raise DataError("Expected held-out exams with synovium, got none: make a larger cohort")
    shuffled = found.sample(frac=1.0, random_state=np.random.default_rng(settings.seed))
    turn = shuffled.groupby(["site", "patient_id"]).cumcount()
    return shuffled.assign(turn=turn).sort_values("turn", kind="stable").head(exams).reset_index(drop=True)


def _block(result: Localisation) -> dict[str, object]:
    """Plain values: an estimate as ``{"value", "ci95"}``, ``None`` for what is not finite."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    def plain(value: Estimate | int) -> object:
        if isinstance(value, int):
            return value
        return {"value": number(value.value), "ci95": [number(value.low), number(value.high)]}

    return {field.name: plain(getattr(result, field.name)) for field in fields(result)}


def _examples(
    chosen: pd.DataFrame,
    found: Mapping[str, Float32[np.ndarray, "n h w"]],
    truth: Mapping[SiteExam, Mapping[str, Region]],
    measurements: Sequence[str],
) -> Iterator[Example]:
    """Of each true grade the first exams that were chosen, whatever their heatmaps look like."""
    names = [name for name in measurements if f"decision_{name}" in chosen]
    grade = f"truth_{measurements[0]}"
    turn = chosen.groupby(grade).cumcount()
    first = chosen.assign(turn=turn).sort_values(["turn", grade], kind="stable").head(EXAMPLES)
    for index, row in first.iterrows():
        pictures = _pair(truth[row["site"], row["exam_id"]], {n: v[index] for n, v in found.items()})
        yield example(row, pictures, reference="truth", names=names)


def _pair(regions: Mapping[str, Region], found: Mapping[str, Float32[np.ndarray, "h w"]]) -> dict[str, Bytes]:
    """An exam's regions of interest as they are, then each under its heatmap."""
    plain = {name: region.shown for name, region in regions.items()}
    return plain | {f"{name}{HEATMAP}": _outlined(regions[name], values) for name, values in found.items()}


def _outlined(region: Region, heatmap: Float32[np.ndarray, "h w"]) -> Bytes:
    """A region under its heatmap, with a line around what it should show."""
    shown = under(region.shown, torch.from_numpy(heatmap))
    shown[binary_dilation(region.wanted) & ~region.wanted] = OUTLINE
    return shown
