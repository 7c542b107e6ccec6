"""How ill a joint is: the grade of each measurement and where it lies within the grade.

A joint's severity is a number in [0, 4): its whole part is the grade (hypertrophy as OMERACT defines it,
vascularity by spots and share of the synovial area), the rest says how far it is on the way to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from simulation.phantom.arrays import Floats

HYPERTROPHY_MIX = (0.45, 0.22, 0.18, 0.15)
"""Share of joints with hypertrophy 0-3: about 45-55 % have none."""
VASCULARITY_MIX = (0.45, 0.20, 0.19, 0.16)
"""Share of vascularity 0-3 among joints with hypertrophy: about half have none."""
PATIENT_SHARE = 0.35
"""Share of the variance of severity that a patient's joints have in common."""
COUPLING = 0.62
"""Correlation of a joint's latent disease and flow: about 0.4 is left of it between the grades of joints with
hypertrophy."""
WITHIN = 0.70
"""Severities lie within this share of a grade: what is exactly on a border has no true grade."""
EFFUSION_SHARE = 0.24
NOTCH_SHARE = 1 / 3
"""A notch of the metacarpal head is seen in a third of people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Severity:
    """Severity of ``n`` joints.

    Attributes:
        hypertrophy: in [0, 4), shape ``(n,)``.
        vascularity: in [0, 4), shape ``(n,)``; below 1 wherever hypertrophy is below 1.
    """

    hypertrophy: Floats
    vascularity: Floats

    def __len__(self) -> int:
        return len(self.hypertrophy)

    @property
    def grades(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hypertrophy and vascularity 0-3, by the strict rule."""
        return self.hypertrophy.astype(np.int64), self.vascularity.astype(np.int64)


def draw_patient(
    rng: np.random.Generator, *, joints: int, shift: float = 0.0, mix: tuple[float, ...] = HYPERTROPHY_MIX
) -> Severity:
    """Severities of one patient's joints; over many patients, grades have the mix of the constants above.

    Args:
        rng: of the patient.
        joints: how many.
        shift: of the latent disease, in its standard deviations: > 0 for patients who are more ill than that.
        mix: shares of hypertrophy 0-3.
    """
    patient, own = rng.standard_normal(), rng.standard_normal((2, joints))
    disease = np.sqrt(PATIENT_SHARE) * patient + np.sqrt(1 - PATIENT_SHARE) * own[0] + shift
    flow = COUPLING * disease + np.sqrt(1 - COUPLING**2) * own[1]
    hypertrophy = _position(ndtr(disease), mix)
    threshold = 1 - sum(mix[1:])
    rank = _flow_rank(flow, threshold)
    vascularity = np.where(hypertrophy >= 1, _position(rank, VASCULARITY_MIX), 0.5)
    tight = (hypertrophy >= 1) & (hypertrophy < 2) & (vascularity >= 2)
    # Areas of flow need room: a joint with a sliver of synovium shows spots at most.
    hypertrophy = np.where(tight, np.maximum(hypertrophy, 1.5), hypertrophy)
    return Severity(hypertrophy=hypertrophy, vascularity=vascularity)


def exact(hypertrophy: float, vascularity: float, *, joints: int) -> Severity:
    """The same severity for every joint, for pictures of one kind."""
    return Severity(hypertrophy=np.full(joints, hypertrophy), vascularity=np.full(joints, vascularity))


def _position(rank: Floats, mix: tuple[float, ...]) -> Floats:
    edges = np.concatenate([[0.0], np.cumsum(mix)])
    position = np.minimum(np.interp(rank, edges, np.arange(5)), 3.999)
    return np.floor(position) + 0.5 + (position % 1.0 - 0.5) * WITHIN


def _flow_rank(flow: Floats, threshold: float) -> Floats:
    """Rank in (0, 1) of ``flow`` among the joints that have hypertrophy."""
    grid, cdf = _flow_table(threshold)
    return np.interp(flow, grid, cdf)


@cache
def _flow_table(threshold: float) -> tuple[Floats, Floats]:
    """Distribution of the latent flow where the latent disease is above its ``threshold`` quantile."""
    grid, disease = np.linspace(-5, 5, 401), np.linspace(-5, 5, 801)
    weight = np.exp(-(disease**2) / 2) * (ndtr(disease) > threshold)
    cdf = ndtr((grid[:, None] - COUPLING * disease) / np.sqrt(1 - COUPLING**2)) @ weight / weight.sum()
    return grid, np.asarray(cdf)
