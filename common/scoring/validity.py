"""The rule of validity between measurements that the settings name."""

from __future__ import annotations

from collections.abc import Callable

from common.networks.spec import COMBINED
from common.scoring import eoss
from common.settings import Settings


def predicate(settings: Settings) -> Callable[[tuple[int, ...]], bool]:
    """Whether a combination of grades, in the order of ``settings.measurements``, can be."""
    if settings.validity == "any":
        return lambda combination: True
    names = list(settings.measurements)
    hypertrophy, vascularity = names.index("hypertrophy"), names.index("vascularity")

    def is_valid(combination: tuple[int, ...]) -> bool:
        return eoss.is_valid_pair((combination[hypertrophy], combination[vascularity]))

    return is_valid


def grades(settings: Settings) -> dict[str, int]:
    """Score -> number of grades: of every measurement, and of the combined score."""
    return {COMBINED: eoss.GRADES} | {name: m.grades for name, m in settings.measurements.items()}
