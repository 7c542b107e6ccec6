"""Rules that make one update of the sites' updates: a setting of its own, beside the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32

from common.aggregation.mean import InMemory, Weighted, weighted_mean
from common.aggregation.robust import krum, median, trimmed_mean
from common.errors import CampaignError, ConfigurationError
from common.extensions import is_object_path, load_object
from common.sections.federation import FederationSettings

_BELONGS_TO = {"trimmed_share": "trimmed_mean", "byzantine": "krum", "selected": "krum"}


@runtime_checkable
class AggregationRule(Protocol):
    """Makes one update of many."""

    def __call__(self, updates: Sequence[Weighted], *, size: int) -> Float32[np.ndarray, " _"]:
        """The update that stands for all.

        Args:
            updates: in the order of the sites' names; those of no exams did not train.
            size: values of each.

        Returns:
            ``size`` finite values; zeros where no site trained.

        Raises:
            CampaignError: if too few updates came.
        """
        ...


def rule(settings: FederationSettings) -> AggregationRule:
    """The rule that the settings name.

    Raises:
        ConfigurationError: if it cannot be imported, or a setting is given that is another rule's.
    """
    for name, belongs_to in _BELONGS_TO.items():
        if getattr(settings, name) is not None and settings.rule != belongs_to:
            raise ConfigurationError(
                f"federation.{name} is for {belongs_to}, but federation.rule is {settings.rule!r}: remove the one, "
                f"or change the other"
            )
    if is_object_path(settings.rule):
        return partial(_checked, cast(AggregationRule, load_object(settings.rule, what="federation.rule")))
    share = 0.2 if settings.trimmed_share is None else settings.trimmed_share
    byzantine = 1 if settings.byzantine is None else settings.byzantine
    rules: dict[str, AggregationRule] = {
        "mean": weighted_mean,
        "median": median,
        "trimmed_mean": partial(trimmed_mean, share=share),
        "krum": partial(krum, byzantine=byzantine, selected=settings.selected or 1),
    }
    return rules[settings.rule]


def check_sites(settings: FederationSettings, *, sites: int) -> None:
    """Whether a rule works with this number of sites, checked before anything is trained.

    Raises:
        ConfigurationError: if it cannot.
    """
    nothing = Weighted(source=InMemory(np.zeros(1, dtype=np.float32)), num_examples=1)
    try:
        rule(settings)([nothing] * sites, size=1)
    except CampaignError as error:
        raise ConfigurationError(f"federation.rule cannot be used with {sites} sites: {error}") from None


def _checked(
    own_rule: AggregationRule, updates: Sequence[Weighted], *, size: int
) -> Float32[np.ndarray, " size"]:
    result = np.asarray(own_rule(updates, size=size), dtype=np.float32)
    if result.shape != (size,) or not np.isfinite(result).all():
        raise CampaignError(f"Expected {size} finite values from your federation.rule, got {result.shape}")
    return result
