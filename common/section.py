"""What every section of a settings file is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many there are of something; more than a million is a slip of the pen."""
Rate = Annotated[float, Field(gt=1e-12, le=1e6)]
"""A positive factor, far from where doubles overflow or vanish."""
Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 24 * 3600.0)]
Bytes = Annotated[int, Field(ge=1, le=2**50)]
Share = Annotated[float, Field(ge=1e-30, lt=1)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Backbone = Annotated[str, Field(pattern=r"^(small|resnet18|vgg16|inception_v3|[\w.]+:\w+)$")]


class Section(BaseModel):
    """A frozen section of the configuration; an unknown key is an error, and so are NaN and infinity.

    Every number has a least and a largest value, so that a slip is told before anything is done with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
