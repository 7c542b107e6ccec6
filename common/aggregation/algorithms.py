"""The federated algorithms by name, and which settings go together."""

from __future__ import annotations

from common.aggregation import rules
from common.aggregation.adaptive import Adaptive
from common.aggregation.fedavgm import FedAvgM
from common.aggregation.fedbn import FedBN
from common.aggregation.federated import FedAvg, FederatedAlgorithm, ServerState, SiteState
from common.aggregation.fedprox import FedProx
from common.aggregation.scaffold import Scaffold
from common.aggregation.server_optimisers import AdaptiveOptimiser, adam, yogi
from common.errors import ConfigurationError
from common.extensions import is_object_path, make
from common.sections.federation import FederationSettings

__all__ = ["FedAvg", "FederatedAlgorithm", "ServerState", "SiteState", "algorithm", "keeps_state"]

_SECOND_MOMENTS = {"fedadam": adam, "fedyogi": yogi}
_FEDAVGM = {"server_learning_rate": "learning_rate", "beta1": "momentum"}
_ADAPTIVE = ("server_learning_rate", "beta1", "beta2", "tau")


def algorithm(settings: FederationSettings) -> FederatedAlgorithm:
    """The algorithm that the settings name; ``package.module:Name`` is called with the settings.

    Raises:
        ConfigurationError: if it cannot be imported, or settings do not go together.
    """
    _check(settings)
    name = settings.algorithm
    if is_object_path(name):
        return _own(settings)
    keeps = settings.optimiser_state == "kept"
    given = {key: value for key in _ADAPTIVE if (value := getattr(settings, key)) is not None}
    if name in _SECOND_MOMENTS:
        eta = given.pop("server_learning_rate", 0.01)
        optimiser = AdaptiveOptimiser(second_moment=_SECOND_MOMENTS[name], learning_rate=eta, **given)
        return Adaptive(optimiser=optimiser, keeps_optimiser=keeps)
    if name == "fedavgm":
        of_momentum = {_FEDAVGM[key]: value for key, value in given.items()}
        return FedAvgM(**of_momentum, keeps_optimiser=keeps)
    if name == "fedprox":
        return FedProx(mu=settings.proximal_mu, keeps_optimiser=keeps)
    plain = {"fedavg": FedAvg, "scaffold": Scaffold, "fedbn": FedBN}
    return plain[name](keeps_optimiser=keeps)


def keeps_state(federated: FederatedAlgorithm, settings: FederationSettings) -> bool:
    """Whether a site keeps something from round to round: its algorithm's, or what its updates lost on the wire."""
    return federated.keeps_state or settings.feeds_back


def _own(settings: FederationSettings) -> FederatedAlgorithm:
    found = make(
        settings.algorithm, settings, what="federation.algorithm", takes="the settings of [federation]"
    )
    if not isinstance(found, FederatedAlgorithm):
        raise ConfigurationError(
            f"Expected federation.algorithm = {settings.algorithm!r} to give an algorithm as "
            f"common.aggregation.federated.FederatedAlgorithm describes it, got {type(found).__name__}"
        )
    return found


def _check(settings: FederationSettings) -> None:
    rules.rule(settings)
    if is_object_path(settings.algorithm):
        return
    if (settings.algorithm == "fedprox") != (settings.proximal_mu > 0):
        raise ConfigurationError(
            f"Expected federation.proximal_mu > 0 with fedprox and 0 without it, got "
            f"{settings.algorithm} with {settings.proximal_mu}"
        )
    strays = [name for name in _ADAPTIVE if getattr(settings, name) is not None]
    if settings.algorithm == "fedavgm":
        strays = [name for name in strays if name not in _FEDAVGM]
    if strays and settings.algorithm not in _SECOND_MOMENTS:
        others = "fedavgm, " if strays[0] in _FEDAVGM else ""
        raise ConfigurationError(
            f"federation.{strays[0]} is for {others}fedadam and fedyogi, but federation.algorithm is "
            f"{settings.algorithm!r}: remove the one, or change the other"
        )
    if settings.algorithm == "scaffold" and settings.rule != "mean":
        raise ConfigurationError(
            f"SCAFFOLD's control variates are means by definition, but federation.rule is {settings.rule!r}: "
            f"take federation.rule = mean, or another algorithm"
        )
