"""What the systems before RATING have in common: one score, read from the Doppler image alone."""

from __future__ import annotations

from common.networks.spec import COMBINED
from common.scoring import eoss
from common.settings import Settings

FOLD = 0
"""The patients of this fold validate every network."""


def score(settings: Settings) -> tuple[str, int]:
    """Name and number of grades of what is scored: the combined score, or else the only measurement's."""
    if settings.validity == "eoss":
        return COMBINED, eoss.GRADES
    name, graded = next(iter(settings.measurements.items()))
    return name, graded.grades


def images(settings: Settings) -> tuple[str, ...]:
    """The Doppler image, or where there is none the first one."""
    doppler = [name for name, image in settings.images.items() if image.kind == "doppler"]
    return ((doppler or list(settings.images))[0],)
