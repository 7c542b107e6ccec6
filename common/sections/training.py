"""The ``[training]`` section: a network's steps at a site."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from common.sections.section import Fraction, GrowingSection, Positive, Rate, Section

Scale = Annotated[float, Field(ge=0.1, le=10)]


class AugmentationSettings(Section):
    """Ranges of the random changes made to a training image (RATING, supplemental methods)."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 5.0
    brightness: Fraction = 0.25
    contrast: Fraction = 0.25
    grey_shift: Annotated[float, Field(ge=0, le=0.10)] = 0.10
    """Largest shift of a grey-scale ROI, as a fraction of its side."""
    grey_scale: tuple[Scale, Scale] = (0.8, 1.1)
    doppler_scale: tuple[Scale, Scale] = (0.9, 1.1)


class TrainingSettings(GrowingSection):
    """Local training of one network in one round."""

    later: ClassVar[tuple[str, ...]] = ("momentum",)

    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of ``sgd``; AdamW's moments have their usual 0.9 and 0.999."""
    learning_rate: Rate = 3e-4
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 1e-5
    batch_size: Positive = 64
    """``batch_size`` >= the number of training exams, with ``sampling = "all"``, gives full batches."""
    local_steps: Positive = 10
    sampling: Literal["balanced", "shuffled", "all"] = "balanced"
    """``balanced`` resamples classes to equal numbers at each epoch, as RATING does."""
    schedule: Literal["rating", "constant"] = "rating"
    """``rating``: warm-up over the first tenth, then x0.3 at 40, 60 and 80 % of all steps."""
    augmentation: AugmentationSettings | None = AugmentationSettings()

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> TrainingSettings:
        if self.momentum and self.optimiser != "sgd":
            raise ValueError(f'training.momentum is for optimiser "sgd", but optimiser is "{self.optimiser}"')
        return self
