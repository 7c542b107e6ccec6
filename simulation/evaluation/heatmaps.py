"""Heatmaps of exams: what they cost, the pictures under them, and the panel of the reading software."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from client.data.pictures.decoder import decode
from client.data.site_store import site_store
from client.ensemble import scoring
from client.site.site import Site
from common.ensemble.committee import Committee, Scores
from common.ensemble.explained import Explained, explained, under
from common.ensemble.heatmaps import (
    HeatmapSettings,
    attributions,
    heatmaps,
)
from common.errors import DataError, refusal
from common.exam import ImageRef
from common.text.notices import RESEARCH_ONLY
from server.report.tables import title
from simulation.cohorts.cohort import Cohort
from simulation.engine.places import Place
from simulation.engine.progress import Display
from simulation.evaluation import ensembles, panel
from simulation.evaluation.ensembles import Opens

MEASURED_S = 0.5
"""Passes that are shorter are measured with more steps at once."""
PANEL = "reading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What heatmaps cost.

    Attributes:
        exams: how many.
        networks: that are explained.
        images: that each reads.
        steps: of the integral.
        copies: with noise.
        seconds: for all exams, from a pass measured on this machine.
        device: where.
    """

    exams: int
    networks: int
    images: int
    steps: int
    copies: int
    seconds: float
    device: str

    @property
    def passes(self) -> int:
        """Forward and backward passes of a network for an exam."""
        return self.networks * self.steps * self.copies

    def __str__(self) -> str:
        exams = "1 exam takes" if self.exams == 1 else f"{self.exams} exams take"
        pictures = "1 picture" if self.images == 1 else f"{self.images} pictures"
        return (
            f"Heatmaps: {self.networks} networks x {self.steps} steps x {self.copies} copies = {self.passes:,} "
            f"passes of {pictures} per exam; {exams} about {_duration(self.seconds)} on {self.device} (measured now)"
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def cost(
    networks: Explained,
    pictures: Sequence[Float[Tensor, "n 3 h w"]],
    settings: HeatmapSettings,
    *,
    exams: int,
) -> Cost:
    """Measure passes of one network on one exam's pictures, ever more at once until it takes ``MEASURED_S``.

    Args:
        networks: that are to be explained.
        pictures: as they read them, of one exam or more.
        settings: steps and copies.
        exams: how many are planned.
    """
    one = [values[:1] for values in pictures]

    def step_s(steps: int) -> float:
        fewer, start = settings.model_copy(update={"steps": steps}), time.perf_counter()
        attributions(networks.modules[:1], one, settings=fewer, generator=networks.generator())
        return (time.perf_counter() - start) / steps

    steps, measured = 1, [step_s(1), step_s(1)]  # the first warms up
    while measured[-1] * steps < MEASURED_S and steps < settings.points:
        steps = min(4 * steps, settings.points)
        measured.append(step_s(steps))
    return Cost(
        exams=exams,
        networks=len(networks.modules),
        images=len(networks.images),
        steps=settings.points,
        copies=settings.copies,
        seconds=min(measured)
        * settings.points
        * len(networks.modules)
        * exams,  # others may use the machine too
        device=str(networks.device),
    )


def cost_of(
    place: Place,
    ensemble: Opens,
    exam: pd.DataFrame,
    cohort: Cohort,
    settings: HeatmapSettings,
    *,
    exams: int,
) -> tuple[Cost, Explained]:
    """A piece of work: what heatmaps cost, measured on an exam, and which networks they explain, without these."""
    committee = ensembles.opened(place, ensemble)
    networks, pictures = explained(committee), stored(committee, exam, cohort)
    found = cost(networks, [pictures[name] for name in networks.images], settings, exams=exams)
    return found, replace(networks, modules=())


def of_exam(
    place: Place, ensemble: Opens, exam: pd.DataFrame, cohort: Cohort, settings: HeatmapSettings
) -> dict[str, Float32[np.ndarray, "1 h w"]]:
    """A piece of work: the heatmaps of one exam, by image."""
    committee = ensembles.opened(place, ensemble)
    networks, pictures = explained(committee), stored(committee, exam, cohort)
    read = [pictures[name] for name in networks.images]
    found = heatmaps(networks.modules, read, settings=settings, generator=networks.generator())
    return {name: values.numpy() for name, values in zip(networks.images, found, strict=True)}


def stored(
    committee: Committee, chosen: pd.DataFrame, cohort: Cohort
) -> dict[str, Float[Tensor, "n 3 px px"]]:
    """Exams' pictures as the networks read them, by image.

    Args:
        committee: the ensemble.
        chosen: rows with ``site`` and ``exam_id``.
        cohort: the sites.
    """
    folders = {site.name: site.folder for site in cohort.sites}
    found: dict[str, list[UInt8[Tensor, "_ side side"]]] = {name: [] for name in committee.settings.images}
    for site, exam_id in chosen[["site", "exam_id"]].itertuples(index=False):
        store = site_store(Site.open(folders[site]), committee.settings)
        row = store.exams.index[store.exams["exam_id"] == exam_id][0]
        for name, pictures in found.items():
            pictures.append(store.tensors.images[name][row])
    stacked = {name: torch.stack(pictures) for name, pictures in found.items()}
    return committee.pictures(stacked, torch.arange(len(chosen)))


def compute(
    networks: Explained,
    pictures: Mapping[str, Float[Tensor, "n 3 h w"]],
    settings: HeatmapSettings,
    display: Display,
) -> dict[str, Float[Tensor, "n h w"]]:
    """Heatmaps of some exams: first what they cost is said, then a bar shows how far they are.

    Args:
        networks: that are explained.
        pictures: image name -> pictures, as :meth:`Committee.pictures` makes them.
        settings: steps, copies, cut.
        display: shows cost and progress.

    Returns:
        Image name -> heatmaps.
    """
    read = [pictures[name] for name in networks.images]
    display.line(str(cost(networks, read, settings, exams=len(read[0]))))
    with display.step("heatmaps") as bar:
        found = heatmaps(
            networks.modules, read, settings=settings, generator=networks.generator(), progress=bar
        )
    return dict(zip(networks.images, found, strict=True))


def write(
    committee: Committee,
    pictures: Mapping[str, ImageRef],
    scores: Scores,
    *,
    folder: Path,
    settings: HeatmapSettings,
    display: Display,
) -> list[Path]:
    """Write an exam's heatmaps: ``<image>.png``, the region of interest under its heatmap, and ``reading.png``.

    Args:
        committee: the ensemble.
        pictures: image name -> where it lies; without ROI the whole picture is taken.
        scores: of the exam, from :func:`client.ensemble.scoring.score_exam`.
        folder: made if it is not there.
        settings: steps, copies, cut.
        display: shows cost and progress.

    Returns:
        The files.

    Raises:
        ConfigurationError: if the run's method gives no heatmaps.
        DataError: if a picture cannot be read or the folder not be written.
    """
    networks = explained(committee)
    read = dict(zip(networks.images, scoring.as_read(committee, pictures, networks.images), strict=True))
    found = compute(networks, read, settings, display)
    whole = {name: _picture(ref.path) for name, ref in pictures.items()}
    columns = []
    for name, ref in pictures.items():
        region = _region(whole[name], ref)
        layered = Image.fromarray(under(np.asarray(region), found[name][0])) if name in found else None
        columns.append(panel.Column(title=title(name), picture=whole[name], roi=ref.roi, heatmap=layered))
    reading = panel.draw(
        columns, scores=_answer(scores), explained=networks.question, notes=_notes(scores, settings)
    )
    files = {name: column.heatmap for name, column in zip(pictures, columns, strict=True) if column.heatmap}
    return [_save(image, folder / f"{name}.png") for name, image in {**files, PANEL: reading}.items()]


def _answer(scores: Scores) -> dict[str, int]:
    answer = {title(name): int(scores.decision[0, i]) for i, name in enumerate(scores.names)}
    return answer if scores.combined is None else answer | {"Combined": int(scores.combined[0])}


def _notes(scores: Scores, settings: HeatmapSettings) -> list[str]:
    doubts = {
        "Contested: a human should look": scores.contested[0],
        "Tie: a human should look": scores.tie[0],
    }
    notes = [doubt for doubt, applies in doubts.items() if applies]
    return [*notes, settings.described, RESEARCH_ONLY]


def _picture(path: str) -> Image.Image:
    """A picture in RGB, upright and scaled as in what the networks read."""
    return decode(Path(path).read_bytes(), mode="RGB").image


def _region(picture: Image.Image, ref: ImageRef) -> Image.Image:
    roi = ref.roi
    return picture if roi is None else picture.crop((roi.x, roi.y, roi.x + roi.width, roi.y + roi.height))


def _save(image: Image.Image, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)
    except OSError as error:
        raise DataError(f"The heatmap cannot be written to {path}: {refusal(error)}") from None
    return path
