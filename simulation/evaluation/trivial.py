"""The trivial answers to a run's held-out exams, learnt from the training exams of the sites that train.

They stand beside the networks in every table: a system that is no better than these has learnt nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int, Int64, UInt8
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import Store, graded
from client.site.site import Site
from common.evaluation import trivial
from common.exam import MISSING
from common.imaging.augment import central_cut
from common.networks.spec import COMBINED
from common.scoring import eoss
from common.sections.validity import Validity
from common.settings import Settings
from simulation.cohorts.cohort import Cohort

FLOW = "flow_"
"""Prefix of the columns that hold an exam's area of flow: ``flow_<image>``."""
SUMMARIES: Mapping[str, Callable[[Float64[np.ndarray, "n frames"]], Float64[np.ndarray, " n"]]] = {
    "largest": lambda areas: np.asarray(areas.max(axis=1)),
    "mean": lambda areas: np.asarray(areas.mean(axis=1)),
    "third": lambda areas: np.asarray(np.sort(areas, axis=1)[:, -min(3, areas.shape[1])]),
    "pulsatility": lambda areas: np.ptp(areas, axis=1) / np.maximum(areas.mean(axis=1), 1e-9),
}
"""What the areas of flow of a clip's frames are summed up to. The third largest is what no flash of two frames
reaches."""
_AT_ONCE = 512
Grades = Mapping[str, Int[np.ndarray, " exams"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trivial:
    """What the training exams of all sites together gave.

    Attributes:
        commonest: the commonest grade of each measurement, and of the combined score where there is one.
        cuts: of the area of flow, for each measurement that is read from one Doppler image.
    """

    commonest: Mapping[str, int]
    cuts: Mapping[str, tuple[float, ...]]

    def answers(self, frame: pd.DataFrame, settings: Settings) -> dict[str, object]:
        """Columns ``commonest_<score>`` and ``colour_<measurement>`` for a table of predictions.

        Args:
            frame: of held-out exams, with a column ``flow_<image>`` for each Doppler image.
            settings: the configuration.
        """
        columns: dict[str, object] = {f"commonest_{name}": grade for name, grade in self.commonest.items()}
        for name, image in _read_from_flow(settings).items():
            if name in self.cuts:
                columns[f"colour_{name}"] = trivial.graded(
                    frame[FLOW + image].to_numpy(), np.array(self.cuts[name])
                )
        return columns


def learnt(cohort: Cohort, settings: Settings) -> Trivial:
    """Learn from the consensus labels of the training exams of the sites that train, all pooled."""
    opened = [site_store(Site.open(site.folder), settings) for site in cohort.sites if site.trains]
    stores = list(map(graded, opened))
    training = [torch.nonzero(store.tensors.fold >= 0).flatten() for store in stores]
    pairs = list(zip(stores, training, strict=True))
    labels = _with_combined(
        {
            name: np.concatenate([store.tensors.grades[name].numpy()[exams] for store, exams in pairs])
            for name in settings.measurements
        },
        settings.validity,
    )
    cuts = {}
    for name, image in _read_from_flow(settings).items():
        areas = np.concatenate(
            [flow_area(store, image, exams, image_px=settings.network.image_px) for store, exams in pairs]
        )
        known = labels[name] != MISSING
        if known.any():
            grades = settings.measurements[name].grades
            cuts[name] = tuple(trivial.tuned_cuts(areas[known], labels[name][known], grades=grades).tolist())
    commonest = {
        name: trivial.commonest(known, grades=int(known.max()) + 1)
        for name, values in labels.items()
        if (known := values[values != MISSING]).size
    }
    return Trivial(commonest=commonest, cuts=cuts)


def flow_area(
    store: Store, image: str, exams: Int64[Tensor, " n"], *, image_px: int
) -> Float64[np.ndarray, " n"]:
    """As :func:`flow_by_frame`, of a clip the frame that shows most."""
    return np.asarray(flow_by_frame(store, image, exams, image_px=image_px).max(axis=1))


def flow_by_frame(
    store: Store, image: str, exams: Int64[Tensor, " n"], *, image_px: int
) -> Float64[np.ndarray, "n frames"]:
    """How much of a Doppler image's region of interest is flow, in pixels of what the networks see.

    Args:
        store: of the exams.
        image: its name.
        exams: places in the store.
        image_px: the side of the picture.
    """
    stored = store.tensors.images[image]
    frames = 1 if stored.ndim == 4 else stored.shape[1]

    def count(pictures: UInt8[Tensor, "n *frames channels side side"]) -> Tensor:
        mask = central_cut(pictures.flatten(0, -4), image_px=image_px)[:, 1]
        return mask.flatten(1).sum(dim=1, dtype=torch.float64).view(len(pictures), frames) / 255

    nothing = torch.empty(0, frames, dtype=torch.float64)
    return torch.cat([nothing, *(count(stored[part]) for part in exams.split(_AT_ONCE))]).numpy()


def flow_columns(
    store: Store, exams: Int64[Tensor, " n"], settings: Settings
) -> dict[str, Float64[np.ndarray, " n"]]:
    """``flow_<image>`` of Doppler images from which alone something is read; ``flow_<clip>:<summary>``."""
    px = settings.network.image_px
    images = sorted(set(_read_from_flow(settings).values()))
    columns = {FLOW + image: flow_area(store, image, exams, image_px=px) for image in images}
    for clip, kind in settings.images.items():
        if kind.kind == "doppler" and kind.frames:
            areas = flow_by_frame(store, clip, exams, image_px=px)
            columns |= {f"{FLOW}{clip}:{name}": of(areas) for name, of in SUMMARIES.items()}
    return columns


def _read_from_flow(settings: Settings) -> dict[str, str]:
    """Measurement -> the one Doppler image that its networks read."""
    return {
        name: graded.images[0]
        for name, graded in settings.measurements.items()
        if len(graded.images) == 1 and settings.images[graded.images[0]].kind == "doppler"
    }


def _with_combined(labels: Grades, validity: Validity) -> Grades:
    """With the combined score where there is one, of the exams that have both grades in a pair that can be."""
    if validity != "eoss":
        return labels
    h, v = labels["hypertrophy"].astype(np.int64), labels["vascularity"].astype(np.int64)
    combined = np.where(eoss.is_valid(h, v), np.maximum(h, v), MISSING)
    return {**labels, COMBINED: combined}
