"""Patients of a site: their joints, what is burned into the pictures, and the exams made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from common.sections.cohort import ClipSettings
from simulation.phantom.clips import Clips, make_clips
from simulation.phantom.devices import Device
from simulation.phantom.diagnosis import DIAGNOSES, DIAGNOSIS_SHARES, draw_signs
from simulation.phantom.flow import PULSATILITY
from simulation.phantom.random import stream
from simulation.phantom.readers import Reader, draw_readers, read
from simulation.phantom.screen import REFERENCE_PX, Layout, Texts
from simulation.phantom.section import Exams, make_exams
from simulation.phantom.severity import HYPERTROPHY_MIX, draw_patient

JOINTS = (
    *(
        (kind, side, digit)
        for side in ("left", "right")
        for kind, digit in (("MCP", "2"), ("MCP", "3"), ("PIP", "2"))
    ),
    ("wrist", "right", ""),
    ("wrist", "left", ""),
    *(("MCP", side, digit) for digit in ("4", "5", "1") for side in ("right", "left")),
    *(
        (kind, side, digit)
        for kind in ("PIP", "DIP")
        for digit in ("3", "4", "5")
        for side in ("right", "left")
    ),
    *(("DIP", side, "2") for side in ("right", "left")),
)
"""Joints in the order in which they are examined."""
ANNOTATED, CALIPERS = 0.35, 0.10
"""Shares of pictures with the joint's name and with calipers inside the scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Which joint an exam shows; ``digit`` is empty for a wrist."""

    kind: str
    side: str
    digit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A patient's exams at one visit.

    Attributes:
        index: within the site.
        visit: day of the visit.
        diagnosis: one of ``DIAGNOSES``.
        joints: one per exam.
        exams: the pictures and what is true of them.
        hypertrophy: grades of the readers, ``(readers, exams)``.
        vascularity: the same.
        clips: the moving pictures, if some were asked for.
    """

    index: int
    visit: date
    diagnosis: str
    joints: tuple[Joint, ...]
    exams: Exams
    hypertrophy: NDArray[np.int64]
    vascularity: NDArray[np.int64]
    clips: Clips | None = None


def site_readers(seed: int, site: str, *, bias: float = 0.0) -> tuple[Reader, ...]:
    """The readers of a site; the same for every patient."""
    return draw_readers(stream(seed, site, "readers"), prefix=f"{site}-r", bias=bias)


def make_patient(
    seed: int,
    site: str,
    index: int,
    device: Device,
    *,
    exams: int,
    roi_px: int = REFERENCE_PX,
    severity: float = 0.0,
    reader_bias: float = 0.0,
    clips: ClipSettings | None = None,
    mix: tuple[float, ...] = (),
    any_joints: bool = False,
    diagnosis: str = "",
    strength: float = 1.0,
) -> Patient:
    """One patient, the same in every process whatever else is made there.

    Args:
        seed: of the cohort.
        site: name of the site.
        index: of the patient within the site.
        device: the site's machine.
        exams: joints examined, up to 40 (after the last joint the first is examined again).
        roi_px: side of the region of interest.
        severity: the site's shift of severity, in standard deviations of the latent disease.
        reader_bias: what the site's readers see more than others, in grades.
        clips: of moving pictures beside the stills; ``None``: there are none. They change no still but by its
            pulsatility, and readers then grade what they saw move.
        mix: shares of hypertrophy 0-3; none: the phantom's own.
        any_joints: whether the joints are chosen at random, in place of the first.
        diagnosis: that shows in the pictures; none: the patient has one that shows in nothing.
        strength: how much it shows.
    """
    rng = stream(seed, site, "patient", index)
    order = stream(seed, site, "joints", index).permutation(len(JOINTS)) if any_joints else range(len(JOINTS))
    joints = tuple(
        Joint(kind=k, side=s, digit=d) for k, s, d in (JOINTS[order[i % len(JOINTS)]] for i in range(exams))
    )
    visit = date(2023, 1, 9) + timedelta(days=int(rng.integers(700)))
    texts = _texts(rng, joints, visit, Layout(roi=roi_px))
    made = make_exams(
        rng,
        draw_patient(rng, joints=exams, shift=severity, mix=mix or HYPERTROPHY_MIX),
        device,
        kinds=[joint.kind for joint in joints],
        texts=texts,
        roi_px=roi_px,
        pulsatility=PULSATILITY if clips is None else clips.pulsatility,
        signs=draw_signs(stream(seed, site, "signs", index), diagnosis, joints=exams, strength=strength)
        if diagnosis
        else None,
    )
    moving = None if clips is None else make_clips(stream(seed, site, "clips", index), made.scene, clips)
    if moving is not None:
        made = replace(made, shown_fraction=np.maximum(made.shown_fraction, moving.most_shown))
    hypertrophy, vascularity = read(rng, site_readers(seed, site, bias=reader_bias), made)
    return Patient(
        index=index,
        visit=visit,
        diagnosis=diagnosis
        or str(rng.choice(DIAGNOSES, p=np.array(DIAGNOSIS_SHARES) / sum(DIAGNOSIS_SHARES))),
        joints=joints,
        exams=made,
        hypertrophy=hypertrophy,
        vascularity=vascularity,
        clips=moving,
    )


def _texts(rng: np.random.Generator, joints: tuple[Joint, ...], visit: date, layout: Layout) -> list[Texts]:
    number = f"PH{rng.integers(10**6):06d}"
    texts = []
    for joint in joints:
        ends = rng.integers((70, 90, 70, 130), (230, 110, 230, 170)) * layout.zoom
        texts.append(
            Texts(
                patient=number,
                date=visit.isoformat(),
                joint=f"{joint.side[0].upper()}T {joint.kind.upper()}{joint.digit}",
                annotated=bool(rng.random() < ANNOTATED),
                calipers=(int(ends[0]), int(ends[1]), int(ends[0]), int(ends[3]))
                if rng.random() < CALIPERS
                else None,
            )
        )
    return texts
