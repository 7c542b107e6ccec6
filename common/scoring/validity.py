"""The rule of validity between measurements that the settings name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool

from common.networks.spec import COMBINED
from common.scoring import eoss
from common.sections.validity import ValidityTable
from common.settings import Settings

Objection = Callable[[Mapping[str, int | None]], str | None]
"""From grades, of which some may not be known, to why they cannot be together."""


def predicate(settings: Settings) -> Callable[[tuple[int, ...]], bool]:
    """Whether a combination of grades, in the order of ``settings.measurements``, can be."""
    names, object_to = list(settings.measurements), objection(settings)
    return lambda combination: object_to(dict(zip(names, combination, strict=True))) is None


def objection(settings: Settings) -> Objection:
    """Says why grades cannot be together, naming the rule that forbids them; ``None`` where they can."""
    if isinstance(settings.validity, ValidityTable):
        return settings.validity.objection
    return _eoss if settings.validity == "eoss" else lambda grades: None


def possible(settings: Settings) -> Bool[np.ndarray, "*grades"]:
    """Whether each combination can be: an axis of grades for each measurement."""
    counts = [measurement.grades for measurement in settings.measurements.values()]
    can_be = predicate(settings)
    return np.array([can_be(one) for one in itertools.product(*map(range, counts))]).reshape(counts)


def grades(settings: Settings) -> dict[str, int]:
    """Score -> number of grades: of every measurement, and of the combined score."""
    return {COMBINED: eoss.GRADES} | {name: m.grades for name, m in settings.measurements.items()}


def _eoss(grades: Mapping[str, int | None]) -> str | None:
    hypertrophy, vascularity = grades.get("hypertrophy"), grades.get("vascularity")
    if hypertrophy is None or vascularity is None or eoss.is_valid_pair((hypertrophy, vascularity)):
        return None
    return 'validity "eoss" has no vascularity without hypertrophy'
