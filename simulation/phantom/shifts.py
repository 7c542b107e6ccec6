"""How the sites of a cohort differ beyond chance: in machine, in patients, in readers, in size.

Sites are placed evenly from -1 (the first) to 1 (the last); a shift is its size times that place. The site that is
never trained on stands at 0, so that a shift between the others does not change what is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.sections.cohort import Drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShift:
    """What sets one site apart.

    Attributes:
        patients: of the site.
        severity: added to the latent disease of every joint, in its standard deviations.
        reader_bias: added to what every reader of the site sees, in grades, for both measurements.
    """

    patients: int
    severity: float = 0.0
    reader_bias: float = 0.0


def site_shifts(settings: Drawn) -> list[SiteShift]:
    """The shift of each site that trains, in order; the sum of their patients is ``sites * patients``."""
    shift, count = settings.shift, settings.sites
    places = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    return [
        SiteShift(
            patients=patients,
            severity=float(shift.severity * place),
            reader_bias=float(shift.reader_bias * place),
        )
        for patients, place in zip(_sizes(settings), places, strict=True)
    ]


def _sizes(settings: Drawn) -> list[int]:
    """A geometric series of which the last is ``largest`` times the first, rounded by largest remainders."""
    count, total = settings.sites, settings.sites * settings.patients
    weights = settings.shift.largest ** (np.arange(count) / max(count - 1, 1))
    exact = weights / weights.sum() * total
    sizes = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(sizes - exact, kind="stable")
    sizes[by_remainder[: total - int(sizes.sum())]] += 1
    return [max(1, int(size)) for size in sizes]
