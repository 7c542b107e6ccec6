"""Where a radiograph's damaged joints are: drawn again from the seed, since a cohort holds no masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from common.errors import DataError
from simulation.hand import carpus
from simulation.hand.anatomy import Hand, turned
from simulation.hand.folders import IMAGE, SIDES, Job
from simulation.hand.grid import Grid, Layout
from simulation.hand.long_bones import LongBone
from simulation.hand.radiographs import Radiograph
from simulation.hand.sites import DIGITS, EROSION_SITES, FINGERS, NARROWING_SITES
from simulation.hand.skeleton import Skeleton, lay_out
from simulation.phantom.arrays import Mask
from simulation.phantom.masks import Region, SiteExam

REACH_MM, WIDE_MM = 8.0, {"radius": 16.0}
"""Radius of the circle about a joint, for a usual man: bone ends and the space between them; of wider ones theirs."""
Point = tuple[float, float]


def sites(hand: Hand, skeleton: Skeleton) -> dict[str, Point]:
    """The middle of each scored site in the hand's frame, in mm."""
    scale = hand.build.scale
    carpal = {name: margins.middle for name, margins in carpus.MARGINS.items()} | carpus.FOCI_MM
    rays = skeleton.rays
    return {
        **{f"MCP{digit}": _head(rays[digit - 1][0]) for digit in DIGITS},
        **{f"PIP{digit}": _head(rays[digit - 1][1]) for digit in FINGERS},
        "IP1": _head(rays[0][1]),
        "MC1": rays[0][0].at(0.0),
        "radius": _head(skeleton.radius),
        "ulna": _head(skeleton.ulna),
        **{name: (x * scale, y * scale) for name, (x, y) in carpal.items()},
    }


def damaged(radiograph: Radiograph, layout: Layout) -> Mask:
    """Circles about all sites with a grade above 0, ``(height, width)`` of the picture."""
    scores = radiograph.scores
    halves = []
    for side, hand in enumerate(radiograph.hands):
        names = _damaged(scores.erosion[side], EROSION_SITES) | _damaged(
            scores.narrowing[side], NARROWING_SITES
        )
        halves.append(_circles(hand, names, layout))
    return np.concatenate([halves[0], halves[1][:, ::-1]], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A scored place of a picture.

    Attributes:
        side: of the patient.
        site: its name; one place may be a site of erosion, of narrowing, or of both.
        column: where its middle is, in pixels from the picture's left border.
        row: the same from the upper one.
        points: what it adds to the total, 0-9.
    """

    side: str
    site: str
    column: float
    row: float
    points: int


def scored(radiograph: Radiograph, layout: Layout) -> list[Scored]:
    """All scored places of both hands."""
    scores, found = radiograph.scores, []
    for number, (side, hand) in enumerate(zip(SIDES, radiograph.hands, strict=True)):
        points = dict.fromkeys((*EROSION_SITES, *NARROWING_SITES), 0)
        for names, grades in ((EROSION_SITES, scores.erosion), (NARROWING_SITES, scores.narrowing)):
            for name, grade in zip(names, grades[number], strict=True):
                points[name] += int(grade)
        (px, py), middles = hand.posture.place_mm, sites(hand, lay_out(hand))
        across, up = turned(hand.posture, *np.array(list(middles.values())).T)
        columns, rows = (px + across) / layout.px_mm, layout.height_px - (py + up) / layout.px_mm
        for name, column, row in zip(middles, columns, rows, strict=True):
            mirrored = layout.width_px - column if number else column
            found.append(
                Scored(side=side, site=name, column=float(mirrored), row=float(row), points=points[name])
            )
    return found


def _damaged(grades: np.ndarray, names: tuple[str, ...]) -> set[str]:
    return {name for name, grade in zip(names, grades, strict=True) if grade > 0}


def _circles(hand: Hand, names: Iterable[str], layout: Layout) -> Mask:
    """As a left hand."""
    grid = Grid(posture=hand.posture, px_mm=layout.px_mm, height=layout.height_px, width=layout.width_px // 2)
    found, places = np.zeros((grid.height, grid.width), np.bool_), sites(hand, lay_out(hand))
    for name in sorted(names):
        (x, y), reach = places[name], WIDE_MM.get(name, REACH_MM) * hand.build.scale
        patch = grid.patch([(x, y)], margin_mm=reach)
        if patch is not None:
            near = (patch.x - np.float32(x)) ** 2 + (patch.y - np.float32(y)) ** 2 <= reach**2
            found[patch.rows, patch.columns] |= near
    return found


def _head(bone: LongBone) -> Point:
    return bone.at(bone.length_mm)


def regions(jobs: Iterable[Job], wanted: Iterable[SiteExam]) -> dict[SiteExam, dict[str, Region]]:
    """The damaged joints of exams: exam -> ``hands``.

    Args:
        jobs: of the cohort's patients.
        wanted: exams, each of its site.

    Raises:
        DataError: if an exam is not the cohort's, or its stored picture is not the one that is drawn now.
    """
    asked = set(wanted)
    found = dict(_found(jobs, asked))
    strangers = asked - set(found)
    if strangers:
        names = ", ".join(f"{exam_id} of {site}" for site, exam_id in sorted(strangers)[:5])
        raise DataError(f"Expected exams of the cohort of radiographs, got {names}")
    return found


def _found(jobs: Iterable[Job], asked: set[SiteExam]) -> Iterator[tuple[SiteExam, dict[str, Region]]]:
    for job in jobs:
        if (job.site, job.exam_id) not in asked:
            continue
        drawn = job.radiograph()
        picture = drawn.picture(job.machine, job.layout)
        with Image.open(job.picture_path) as stored:
            if not np.array_equal(np.asarray(stored), picture):
                raise DataError(
                    f"Expected the picture of {job.exam_id} as this version draws it, its file differs: make the "
                    f"cohort anew"
                )
        yield (
            (job.site, job.exam_id),
            {IMAGE: Region(shown=picture, wanted=damaged(drawn, job.layout))},
        )
