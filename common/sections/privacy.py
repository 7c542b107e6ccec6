"""The ``[privacy]`` section of a run's configuration: all of it public, and part of the plan."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.sections.section import Name, Positive, Rate, Section, Share

LEAST_NOISE, MOST_NOISE = 0.05, 1e6
"""Of a noise multiplier: with less there is no privacy to account for, with more nothing is learnt."""


class PrivacySettings(Section):
    """Differential privacy, with the patient as its unit; the sites hold it against their own caps."""

    mechanism: Literal["gaussian", "none"] = "gaussian"
    """``none``: the same computation without clipping, sampling and noise, to compare with: **no privacy**."""
    noise_multiplier: Annotated[float, Field(ge=LEAST_NOISE, le=MOST_NOISE)] | None = None
    """Standard deviation of the noise over ``max_grad_norm`` (sigma); `synofed privacy plan` finds it."""
    max_grad_norm: Rate = 1.0
    """What a patient's gradient is clipped to (C)."""
    sample_rate: Annotated[float, Field(ge=1e-6, le=1)] = 1.0
    """Probability with which a patient takes part in a step (q); 1: everybody does."""
    patients: Positive
    """A public number near that of a site's training patients (N); the noised sum is divided by it."""
    images: Positive = 8
    """The most of a patient's exams that enter (k)."""
    class_weights: dict[Name, tuple[Rate, ...]] = Field(default_factory=dict)
    """Measurement -> weight of each grade in a patient's loss: public constants, never computed from private data."""
    delta: Share = 1e-5
    """At which the centre states epsilon; a site's own cap has a delta of its own."""

    @model_validator(mode="after")
    def _has_noise(self) -> PrivacySettings:
        if self.mechanism == "gaussian" and self.noise_multiplier is None:
            raise ValueError(
                "privacy.noise_multiplier is missing: `synofed privacy plan` finds it for an epsilon"
            )
        return self
