"""X-ray machines: beam, detector, and the tone curve by which a thickness becomes a grey level.

The curves are invented: soft tissue of a hand comes to grey levels of about 70-130, bone to 200-250, as in published
pictures of the kind. No real product is meant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from simulation.phantom.arrays import Bytes, Singles

TONE_AT: Final = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.25, 1.5, 1.9)
"""Attenuations, as natural logarithms, at which a tone curve is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Tube, detector and processing.

    Attributes:
        name: as written in the table.
        bone_per_mm: attenuation of compact bone beyond that of the soft tissue whose place it takes.
        spongy_per_mm: the same of spongy bone.
        soft_per_mm: attenuation of soft tissue.
        scatter: scattered relative to primary radiation behind nothing.
        scatter_mm: spread of the scatter's blur.
        photons: per square mm, behind nothing.
        blur_mm: spread of the detector's blur.
        sharpen: how much of the finest detail the processing adds.
        heel: fall of the intensity along the field, relative.
        tone: grey levels 0-255 at ``TONE_AT``, not decreasing.
        dark: grey level outside the collimation.
        text: grey level of burned-in text.
        maker: burned in at the edge.
    """

    name: str
    bone_per_mm: float
    spongy_per_mm: float
    soft_per_mm: float
    scatter: float
    scatter_mm: float
    photons: float
    blur_mm: float
    sharpen: float
    heel: float
    tone: tuple[float, ...]
    dark: float
    text: int
    maker: str

    def grey(self, attenuation: Singles) -> Bytes:
        """Grey levels of attenuations of any shape."""
        levels = np.interp(attenuation, TONE_AT, self.tone)
        return np.asarray(np.clip(levels + 0.5, 0, 255).astype(np.uint8))


_DIRECT: Final = Machine(
    name="direct-a",
    bone_per_mm=0.125,
    spongy_per_mm=0.026,
    soft_per_mm=0.029,
    scatter=0.12,
    scatter_mm=14.0,
    photons=36000.0,
    blur_mm=0.10,
    sharpen=0.6,
    heel=0.05,
    tone=(6, 30, 62, 92, 120, 148, 174, 196, 218, 236, 250),
    dark=0.0,
    text=235,
    maker="DIRECT A",
)

MACHINES: Final = (
    _DIRECT,
    replace(
        _DIRECT, name="direct-b", photons=50000.0, sharpen=1.0, soft_per_mm=0.026, scatter=0.10,
        tone=(2, 14, 40, 74, 108, 142, 172, 200, 224, 243, 255), dark=4.0, text=255, maker="DIRECT B",
    ),
    replace(
        _DIRECT, name="plate-a", photons=14000.0, blur_mm=0.20, sharpen=0.3, scatter=0.20, bone_per_mm=0.115,
        tone=(28, 58, 88, 112, 134, 155, 176, 196, 216, 234, 248), dark=0.0, text=220, maker="PLATE A",
    ),
    replace(
        _DIRECT, name="plate-b", photons=9000.0, blur_mm=0.22, sharpen=0.8, scatter=0.16, bone_per_mm=0.13,
        tone=(60, 78, 98, 118, 140, 160, 180, 200, 220, 236, 246), dark=8.0, text=245, maker="PLATE B",
    ),
    replace(
        _DIRECT, name="film", photons=18000.0, blur_mm=0.16, sharpen=0.0, scatter=0.24, heel=0.12,
        tone=(14, 26, 46, 74, 106, 140, 170, 192, 208, 220, 230), dark=2.0, text=200, maker="FILM DIGITIZER",
    ),
)  # fmt: skip
"""Machines whose sites train."""


def random_machine(rng: np.random.Generator, *, name: str = "unseen") -> Machine:
    """A machine that is none of ``MACHINES``: between two of them in its tones, and of its own in the rest."""
    one, other = (MACHINES[i] for i in rng.choice(len(MACHINES), 2, replace=False))
    part, gamma = rng.uniform(0.3, 0.7), rng.uniform(0.85, 1.2)
    mixed = part * np.array(one.tone) + (1 - part) * np.array(other.tone)
    return replace(
        one,
        name=name,
        photons=float(np.exp(rng.uniform(np.log(9000), np.log(45000)))),
        blur_mm=float(rng.uniform(0.08, 0.24)),
        sharpen=float(rng.uniform(0, 1)),
        scatter=float(rng.uniform(0.08, 0.26)),
        heel=float(rng.uniform(0.02, 0.12)),
        bone_per_mm=float(rng.uniform(0.11, 0.135)),
        soft_per_mm=float(rng.uniform(0.025, 0.031)),
        tone=tuple(float(255 * (level / 255) ** gamma) for level in mixed),
        dark=float(rng.uniform(0, 12)),
        text=int(rng.integers(190, 256)),
        maker=name.upper(),
    )
