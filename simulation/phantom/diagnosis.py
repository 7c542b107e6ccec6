"""What a diagnosis does to the pictures, and which patient has which.

Ultrasound tells rheumatoid from psoriatic arthritis weakly. Inflammation around the extensor tendon was seen in 66 %
of involved joints with PsA and in none with RA (Gutierrez et al. 2011, Ann Rheum Dis 70:1111), while a cohort of 1055
patients found no single feature that separates them (PMC10152075). So a diagnosis is carried by many small
differences: every joint has two latent numbers that know nothing of its grade nor of the machine.

* ``extracapsular`` ~ N(mu, 1): width and echo of the paratenon, and flow along it, outside the synovium. Between
  SpA/PsA and RA, mu differs by ``EXTRACAPSULAR_APART``: who knew the latent of one scan would tell them apart with an
  AUC of 0.75.
* ``erosive`` ~ N(mu, 1): depth of the erosions of the bone's contour. Between RA+ and RA-, mu differs by
  ``EROSIVE_APART``; SpA/PsA lies half-way. No anatomy is published for this pair: the size is ours.

Half of the variance of each is the patient's, half the joint's: an intraclass correlation of 0.5, ours too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from common.sections.cohort import DiagnosisSettings
from simulation.phantom.arrays import Floats
from simulation.phantom.random import stream

DIAGNOSES, DIAGNOSIS_SHARES = ("RA+", "RA-", "PsA", "SpA"), (0.43, 0.20, 0.345, 0.025)
"""Diagnoses and their shares, as among the 340 patients of Schlereth et al."""
RHEUMATOID: Final = ("RA+", "RA-")
EXTRACAPSULAR_APART: Final = 0.9539
"""Root of 2 times the normal quantile of 0.75: equal variances, AUC 0.75."""
EROSIVE_APART: Final = 0.6
PATIENT_SHARE: Final = 0.5
PARATENON_MM, PARATENON_DB = 0.14, -3.0
"""Of a joint with latent 0."""
DOUBLING, DARKENING_DB = 0.6, 4.0
"""By one standard deviation of the latent: doublings of the paratenon's width, and how much darker it gets."""
FLOW_FROM = 1.0
"""Latent from which on the paratenon shows flow."""
EROSION_MM = 0.16
"""Depth by one standard deviation of the latent."""
NO_EROSION = -1.0
"""Latent below which the bone's contour is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """Latent signs of ``n`` joints and where they are.

    Attributes:
        extracapsular: latent ``(n,)``, about -3 to 4.
        erosive: latent ``(n,)``, about -3 to 4.
        places: where the flow, the erosion of the proximal and that of the distal bone are, each in [0, 1),
            ``(n, 3)``.
    """

    extracapsular: Floats
    erosive: Floats
    places: Floats

    @classmethod
    def absent(cls, joints: int) -> Self:
        """Of joints that no diagnosis changes: all have the same paratenon, no flow along it, no erosion."""
        return cls(
            extracapsular=np.zeros(joints), erosive=np.full(joints, NO_EROSION), places=np.zeros((joints, 3))
        )

    @property
    def paratenon_mm(self) -> Floats:
        """Width of the paratenon over the tendon, ``(n,)``."""
        return PARATENON_MM * 2 ** (DOUBLING * np.clip(self.extracapsular, -2, 3))

    @property
    def paratenon_db(self) -> Floats:
        """Its echo level, ``(n,)``: the wider, the darker."""
        return PARATENON_DB - DARKENING_DB * np.clip(self.extracapsular, -2, 3)

    @property
    def peritendinous(self) -> Floats:
        """How much flow there is along the paratenon, ``(n,)``; 0 is none."""
        return np.clip(self.extracapsular - FLOW_FROM, 0, 3)

    @property
    def erosion_mm(self) -> Floats:
        """Depth of the erosions, ``(n,)``."""
        return EROSION_MM * np.clip(self.erosive - NO_EROSION, 0, 4)


def draw_signs(rng: np.random.Generator, diagnosis: str, *, joints: int, strength: float) -> Signs:
    """Signs of one patient's joints.

    Args:
        rng: of the patient's signs; no other part of the phantom draws from it.
        diagnosis: one of ``DIAGNOSES``.
        joints: how many.
        strength: multiplies the distances between diagnoses; 0: signs vary as much, and mean nothing.
    """
    patient, own = rng.standard_normal((2, 1)), rng.standard_normal((2, joints))
    latent = np.sqrt(PATIENT_SHARE) * patient + np.sqrt(1 - PATIENT_SHARE) * own
    outside = 0.0 if diagnosis in RHEUMATOID else EXTRACAPSULAR_APART
    erosive = {"RA+": 0.5, "RA-": -0.5}.get(diagnosis, 0.0) * EROSIVE_APART
    return Signs(
        extracapsular=latent[0] + strength * outside,
        erosive=latent[1] + strength * erosive,
        places=rng.random((joints, 3)),
    )


def deal(seed: int, settings: DiagnosisSettings, places: Sequence[float]) -> list[str]:
    """Diagnoses of all patients of a cohort, in exactly the shares that are asked for.

    Patients get SpA or PsA in the order of ``tied * place + sqrt(1 - tied^2) * chance``. With ``tied_to_machine`` 0
    that is chance alone; with 1 the machine says as much of the diagnosis as it can. Among patients with RA, and
    among those with SpA or PsA, chance decides.

    Args:
        seed: of the cohort.
        settings: shares and tie.
        places: of each patient's machine among the cohort's, from -1 to 1.
    """
    rng = stream(seed, "diagnoses")
    mix: Mapping[str, int] = {str(name): count for name, count in settings.mix.items()}
    counts = dict(zip(DIAGNOSES, _counts([mix.get(d, 0) for d in DIAGNOSES], len(places)), strict=True))
    place = np.asarray(places, dtype=np.float64)
    place = (place - place.mean()) / (place.std() or 1.0)
    tied = settings.tied_to_machine
    score = tied * place + np.sqrt(1 - tied**2) * rng.standard_normal(len(place))
    order = np.lexsort((rng.random(len(place)), score))
    rheumatoid = sum(counts[d] for d in RHEUMATOID)
    dealt = np.empty(len(place), dtype=object)
    for members, names in ((order[:rheumatoid], RHEUMATOID), (order[rheumatoid:], DIAGNOSES[2:])):
        deck = np.repeat(np.array(names, dtype=object), [counts[name] for name in names])
        dealt[members] = rng.permutation(deck)
    return [str(diagnosis) for diagnosis in dealt]


def _counts(mix: Sequence[int], total: int) -> list[int]:
    """Whole numbers in these proportions, by largest remainders."""
    exact = np.array(mix) / sum(mix) * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]
