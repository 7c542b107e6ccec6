"""What a group makes of a sum once it is open: means for the algorithm, and validation scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from common.aggregation.algorithms import FederatedAlgorithm, ServerState
from common.aggregation.federated import UPDATE
from common.aggregation.sum_of_plan import planned_sum
from common.evaluation.histograms import ScoreHistograms
from common.messages import Weights
from common.methods.groups import Group
from common.privacy.mechanism.private_sum import PrivateSum
from common.secure_aggregation.terms import Terms
from common.settings import Settings

Outcome = tuple[Mapping[str, ServerState], Mapping[str, ScoreHistograms]]
"""The networks after a round, and the scores of those that were sent in it."""


class GroupSum:
    """How the updates of one group are summed, and what follows from a sum.

    Args:
        group: the networks.
        settings: of the campaign; with ``federation.secure``.
        algorithm: what becomes of a mean.

    Raises:
        ConfigurationError: if the plan's numbers do not fit.
    """

    def __init__(self, group: Group, *, settings: Settings, algorithm: FederatedAlgorithm) -> None:
        specs = {spec.name: spec for spec in group.networks}
        self._sizes = {name: group.layouts[name].size for name in specs}
        self._plan = planned_sum(settings, specs, self._sizes)
        self._settings = settings
        self._algorithm = algorithm

    @property
    def networks(self) -> tuple[str, ...]:
        """In the order of the vector."""
        return tuple(self._sizes)

    @property
    def private(self) -> bool:
        """Whether noised sums are all that leaves the sites, so that nothing is ever scored."""
        return isinstance(self._plan, PrivateSum)

    def terms(self) -> Terms:
        """What all sites of the sum agree on."""
        return self._plan.terms()

    def outcome(
        self,
        total: Int64[np.ndarray, " length"],
        states: Mapping[str, ServerState],
        *,
        survivors: int,
        participation: float,
        scores: bool,
    ) -> Outcome:
        """What a round's sum makes of the networks.

        Args:
            total: the sum.
            states: of the networks before it.
            survivors: how many vectors are in it.
            participation: their share of the campaign's sites.
            scores: whether the round only scores.
        """
        means, histograms = self._means(total, survivors=survivors)
        if scores:
            return states, histograms
        after = {
            name: self._algorithm.aggregate(state, {UPDATE: means[name]}, participation=participation)
            for name, state in states.items()
        }
        return after, histograms

    def _means(
        self, total: Int64[np.ndarray, " length"], *, survivors: int
    ) -> tuple[dict[str, Weights], dict[str, ScoreHistograms]]:
        plan = self._plan
        if isinstance(plan, PrivateSum):
            privacy = self._settings.privacy
            assert privacy is not None
            mean = plan.gradient(total, sample_rate=privacy.sample_rate, survivors=survivors)
            step = (mean * -self._settings.probe.learning_rate).astype(np.float32)
            parts = np.split(step, np.cumsum(list(self._sizes.values()))[:-1])
            return dict(zip(self._sizes, parts, strict=True)), {}
        sums = plan.decode(total)
        histograms = {
            name: ScoreHistograms(counts=one.histograms)
            for name, one in sums.items()
            if one.histograms is not None
        }
        return {name: one.mean for name, one in sums.items()}, histograms
