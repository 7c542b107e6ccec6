"""Where the synovium truly is in a cohort's pictures: drawn again from the seed, since a cohort holds no masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from common.errors import DataError
from simulation.phantom.arrays import Bytes, Mask, Singles
from simulation.phantom.folders import Job, exam_ids, make, picture_path
from simulation.phantom.patients import Patient
from simulation.phantom.screen import Box

SiteExam: TypeAlias = tuple[str, str]
"""Site and ``exam_id``: an exam's id is its site's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The region of interest of one picture.

    Attributes:
        shown: the picture, ``(height, width)`` or ``(height, width, 3)``.
        wanted: mask of what a heatmap should show, ``(height, width)``: the true synovium, or damaged joints.
    """

    shown: Bytes
    wanted: Mask

    def shares(self, image_px: int) -> Singles:
        """Share of each pixel that is wanted, ``(image_px, image_px)``: resized as the networks' input is."""
        mask = Image.fromarray(self.wanted.astype(np.uint8) * np.uint8(255))
        resized = mask.resize((image_px, image_px), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.float32) / np.float32(255)


def regions(jobs: Iterable[Job], wanted: Iterable[SiteExam]) -> dict[SiteExam, dict[str, Region]]:
    """The regions of exams: exam -> ``gs`` and ``doppler``.

    Args:
        jobs: of the cohort's patients.
        wanted: exams, each of its site.

    Raises:
        DataError: if an exam is not the cohort's, or its stored pictures are not those that are drawn now.
    """
    found: dict[SiteExam, dict[str, Region]] = {}
    asked = set(wanted)
    for job in jobs:
        chosen = [(i, exam_id) for i, exam_id in enumerate(exam_ids(job)) if (job.site, exam_id) in asked]
        if chosen:
            patient = make(job)
            found |= {(job.site, exam_id): _regions(job, patient, exam_id, i) for i, exam_id in chosen}
    strangers = asked - set(found)
    if strangers:
        names = ", ".join(f"{exam_id} of {site}" for site, exam_id in sorted(strangers)[:5])
        raise DataError(f"Expected exams of the phantom cohort, got {names}")
    return found


def _regions(job: Job, patient: Patient, exam_id: str, i: int) -> dict[str, Region]:
    exams = patient.exams
    drawn = {
        "gs": (exams.grey[i], exams.grey_sections[i], exams.grey_roi[i]),
        "doppler": (exams.doppler[i], exams.doppler_sections[i], exams.doppler_roi[i]),
    }
    found = {}
    for kind, (picture, section, roi) in drawn.items():
        with Image.open(picture_path(job, exam_id, kind)) as stored:
            if not np.array_equal(np.asarray(stored), picture):
                raise DataError(
                    f"Expected the {kind} picture of {exam_id} as this version draws it, its file differs: make the "
                    f"cohort anew"
                )
        found[kind] = Region(shown=_cut(picture, roi), wanted=_cut(section.synovium, roi))
    return found


def _cut(values: np.ndarray, roi: Box) -> np.ndarray:
    x, y, width, height = roi
    return values[y : y + height, x : x + width].copy()  # lets go of the whole picture
