"""A site's rounds of several networks: at once where the algorithm lets them, else one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.aggregation.federated import WEIGHTS, FedAvg, FederatedAlgorithm, LocalRound, SiteState
from common.training.local import LocalUpdate
from common.training.together import Task, train_networks


def local_updates(
    federated: FederatedAlgorithm, rounds: Sequence[LocalRound]
) -> list[tuple[LocalUpdate, SiteState]]:
    """See :meth:`FederatedAlgorithm.local_update`.

    Args:
        federated: an algorithm that does more at a site than training the received weights (a term of the gradient,
            norms of its own) trains one network after another.
        rounds: of networks that :func:`common.training.together.stacks` put together.
    """
    if len(rounds) > 1 and _trains_only(federated):
        keeps = federated.keeps_state  # of such an algorithm the optimiser's state is all that is kept
        mine = [replace(one, keeps_optimiser=keeps) for one in rounds]
        done = train_networks([_task(one) for one in mine])
        return [(update, one.kept(after)) for one, (update, after) in zip(mine, done, strict=True)]
    return [
        federated.local_update(
            one.received, one.site_state, one.data, one.settings, one.server_round, one.seed
        )
        for one in rounds
    ]


def _trains_only(federated: FederatedAlgorithm) -> bool:
    """Whether all that an algorithm does at a site is to train the weights that came."""
    if not isinstance(federated, FedAvg):
        return False
    kind = type(federated)
    return kind.trained is FedAvg.trained and kind.local_update is FedAvg.local_update


def _task(one: LocalRound) -> Task:
    return Task(
        weights=one.received[WEIGHTS],
        optimiser=one.optimiser,
        data=one.data,
        settings=one.settings,
        server_round=one.server_round,
        seed=one.seed,
    )
