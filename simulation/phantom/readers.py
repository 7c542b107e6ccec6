"""Readers: three people at each site who grade what the pictures show, with bias and noise.

A reader sees a joint's severity on a continuous scale, not its grade: mistakes happen at borders of grades.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.phantom.arrays import Floats
from simulation.phantom.section import Exams

READERS = 3
HYPERTROPHY_NOISE, VASCULARITY_NOISE = 0.20, 0.44
"""Spread of one reading; calibrated to weighted kappas of about 0.87 and 0.79 between readers."""
SITE_BIAS, READER_BIAS = 0.06, 0.06
"""Spreads of what a site's readers have in common, and of each reader's own habit."""
FLOW_INFLATION = 0.12
"""Areas of flow are read higher than the strict rule says: grades 2 and 3 at lower colour fractions."""
MIMICRY = 0.4
"""How far an effusion that looks like synovium raises the hypertrophy that readers see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One reader's habits, in grades.

    Attributes:
        name: as written in the table of grades.
        hypertrophy_bias: added to every hypertrophy he sees.
        vascularity_bias: added to every vascularity he sees.
    """

    name: str
    hypertrophy_bias: float
    vascularity_bias: float


def draw_readers(rng: np.random.Generator, *, prefix: str = "r") -> tuple[Reader, ...]:
    """The readers of a site."""
    site = rng.normal(0, SITE_BIAS, 2)
    own = rng.normal(0, READER_BIAS, (READERS, 2))
    return tuple(
        Reader(
            name=f"{prefix}{i + 1}",
            hypertrophy_bias=float(site[0] + own[i, 0]),
            vascularity_bias=float(site[1] + own[i, 1]),
        )
        for i in range(READERS)
    )


def read(
    rng: np.random.Generator, readers: tuple[Reader, ...], exams: Exams
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hypertrophy and vascularity that each reader gives to each exam, ``(readers, exams)``; valid pairs all.

    Args:
        rng: of the patient.
        readers: the site's.
        exams: what they look at.
    """
    hypertrophy, vascularity = _seen(exams)
    shape = (len(readers), len(hypertrophy))
    bias = np.array([[reader.hypertrophy_bias, reader.vascularity_bias] for reader in readers])
    see_h = hypertrophy + bias[:, :1] + rng.normal(0, HYPERTROPHY_NOISE, shape)
    see_v = vascularity + bias[:, 1:] + rng.normal(0, VASCULARITY_NOISE, shape)
    grades_h, grades_v = _grade(see_h), _grade(see_v)
    # A reader who has seen no synovium takes faint colour for noise; who is sure of the colour, looks again.
    grades_v = np.where((grades_h == 0) & (see_v < 1.6), 0, grades_v)
    return np.where(grades_v > 0, np.maximum(grades_h, 1), grades_h), grades_v


def _seen(exams: Exams) -> tuple[Floats, Floats]:
    """Severity as the pictures show it to everybody: effusions mislead, weak flow is missed."""
    severity = exams.severity
    hypertrophy = severity.hypertrophy + MIMICRY * exams.mimicry * (severity.hypertrophy < 2)
    visible = np.sqrt(np.clip(exams.shown_fraction, 0, 1))
    strength = 0.35 + (severity.vascularity - 0.35) * visible
    inflated = strength + FLOW_INFLATION * (severity.vascularity >= 2)
    # Without flow there is nothing to be in two minds about: keep such joints well inside grade 0.
    return hypertrophy, np.where(severity.vascularity < 1, 0.35, inflated)


def _grade(seen: Floats) -> NDArray[np.int64]:
    return np.clip(np.floor(seen), 0, 3).astype(np.int64)
