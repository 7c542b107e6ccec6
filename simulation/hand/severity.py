"""How much a patient's joints are damaged: from one latent severity to the grade of every site.

A site's latent damage is the logarithm of the patient's severity, which is exponentially distributed, and what the
site has in common on both sides, and its own part. It passes one threshold after another; wrist, second and third
metacarpophalangeal joints and the ulna pass theirs first. Most patients have little, some have a lot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.hand.sites import (
    EROSION_SITES,
    NARROWING_SITES,
    WORST_EROSION,
    WORST_NARROWING,
    Scores,
)
from simulation.phantom.arrays import Floats

SIDES_CORRELATION = 0.8
"""Of a site's latent damage on the left with that on the right."""
PATIENT_VARIANCE = np.pi**2 / 6
"""Of the logarithm of an exponential variable."""
SITE_VARIANCE = 0.5
"""Of what a site has in common on both sides, beyond the patient's severity."""
OWN_VARIANCE = (PATIENT_VARIANCE + SITE_VARIANCE) * (1 / SIDES_CORRELATION - 1)
EROSION_STARTS, EROSION_STEP = 0.8, 0.55
NARROWING_STARTS, NARROWING_STEP = 0.6, 0.55
"""Latent damage of a usual site's grade 1, and of each further one; tuned so that all ten classes occur."""
EARLY = {
    "MCP2": -0.6, "MCP3": -0.5, "ulna": -0.7, "scaphoid": -0.3, "lunate": -0.3, "radioscaphoid": -0.7,
    "scaphocapitate": -0.5, "scaphotrapezial": -0.2, "CMC3": -0.1, "CMC4": 0.0, "CMC5": 0.0, "MC1": 0.2,
    "IP1": 0.3, "MCP1": 0.3, "MCP4": 0.2, "PIP4": 0.3, "PIP5": 0.5,
}  # fmt: skip
"""How much sooner (< 0) or later (> 0) than others a site is damaged."""


def draw_latent(rng: np.random.Generator, *, shift: float = 0.0) -> Floats:
    """Latent damage of one patient's sites, ``(2, 31)``: erosions, then narrowing; left hand, then right.

    Args:
        rng: of the patient.
        shift: added to all: > 0 for patients who are more ill.
    """
    sites = len(EROSION_SITES) + len(NARROWING_SITES)
    patient = np.log(rng.exponential())
    both = rng.normal(0, np.sqrt(SITE_VARIANCE), sites)
    own = rng.normal(0, np.sqrt(OWN_VARIANCE), (2, sites))
    return np.asarray(patient + both + own + shift)


def grade(latent: Floats) -> Scores:
    """Grades of latent damages ``(2, 31)``."""
    erosion, narrowing = np.split(latent, [len(EROSION_SITES)], axis=1)
    return Scores(
        erosion=_passed(erosion, EROSION_SITES, EROSION_STARTS, EROSION_STEP, WORST_EROSION),
        narrowing=_passed(narrowing, NARROWING_SITES, NARROWING_STARTS, NARROWING_STEP, WORST_NARROWING),
    )


def _passed(
    latent: Floats, sites: tuple[str, ...], starts: float, step: float, worst: int
) -> NDArray[np.int64]:
    first = np.array([starts + EARLY.get(site, 0.0) for site in sites])
    return np.asarray(np.clip(np.floor((latent - first) / step) + 1, 0, worst), np.int64)
