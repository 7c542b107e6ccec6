"""The learning rate over a campaign."""

from __future__ import annotations

from common.sections.training import TrainingSettings

WARM_UP = 0.1
"""RATING's released code: 5 of 50 epochs."""

DECAYS = (0.4, 0.6, 0.8)
"""RATING's released code: at epochs 20, 30, 40 of 50."""

FACTOR = 0.3


def learning_rate(settings: TrainingSettings, *, step: int, total: int) -> float:
    """The learning rate of a step.

    Args:
        settings: base rate and schedule.
        step: 0 .. total - 1, counted over all rounds.
        total: steps of all rounds.
    """
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step + 1) / total
    warm = min(1.0, progress / WARM_UP)
    decays = sum(step / total >= boundary for boundary in DECAYS)
    return settings.learning_rate * warm * FACTOR**decays
