"""The ``[federation.secure]`` section of a run's configuration: all of it public, and part of the plan."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.errors import ConfigurationError
from common.sections.section import Count, Positive, Rate, Section
from common.secure_aggregation.terms import Terms

ALGORITHMS = ("fedavg", "fedavgm", "fedadam", "fedyogi")
"""Algorithms that need nothing of the sites' updates but their mean."""


class SecureSettings(Section):
    """Secure aggregation: the centre opens the sum over sites, and nothing else."""

    sites: Annotated[int, Field(ge=2, le=1000)]
    """How many sites take part at most (S)."""
    survivors: Annotated[int, Field(ge=2, le=1000)]
    """The fewest sites whose sum is opened (U); with [privacy] their noise is enough."""
    colluders: Count = 0
    """How many sites may collude with the centre and still learn nothing about the others (t). With [privacy] at
    least 1: a site that takes part knows its own share of the noise."""
    largest_update: Rate = 1.0
    """Without [privacy]: each number of an update is clipped to this range."""
    most_examples: Positive = 100_000
    """Without [privacy]: the most exams of a site."""

    @model_validator(mode="after")
    def _protects(self) -> SecureSettings:
        try:
            self.terms(length=1, bits=64)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return self

    def terms(self, *, length: int, bits: int) -> Terms:
        """What the sites of a sum agree on."""
        return Terms(
            sites=self.sites, survivors=self.survivors, colluders=self.colluders, length=length, bits=bits
        )


def overstated(secure: SecureSettings) -> str | None:
    """Why sums with noise would protect less than their epsilon says; ``None``: they do not."""
    if secure.colluders > 0:
        return None
    return (
        "[federation.secure] with [privacy] needs colluders of at least 1, got 0: a site that takes part knows its "
        "own share of the noise, so that against it an epsilon of 2.997 is 4.46 with two survivors and 3.78 with "
        "three. Set colluders = 1 and survivors to 3 or more: that takes three sites, and four for one to drop out"
    )


def objection(
    *, algorithm: str, rule: str, outliers: str, method: str, noise: Literal["gaussian", "none"] | None
) -> str | None:
    """Why sums alone are not enough for a plan; ``None``: they are.

    Args:
        algorithm: of the federation.
        rule: by which updates become one.
        outliers: what is done about them.
        method: that is trained.
        noise: the mechanism of ``[privacy]``; ``None``: there is none.
    """
    if algorithm not in ALGORITHMS or rule != "mean" or outliers != "off":
        return (
            f"[federation.secure] needs federation.algorithm among {list(ALGORITHMS)}, rule mean and outliers off, "
            f"since single updates are never seen; got {algorithm}, {rule} and {outliers}"
        )
    if noise == "gaussian" and method != "probe":
        return (
            f'[federation.secure] with [privacy] needs method "probe", one clipped sum per round; got {method!r}: '
            f"remove one of the two sections"
        )
    return None
