"""What a method is to the engine: stages of networks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from common.errors import ConfigurationError
from common.networks.spec import NetworkSpec
from common.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Networks that can train side by side.

    Attributes:
        name: unique in the method.
        networks: all networks of the stage.
    """

    name: str
    networks: tuple[NetworkSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResult:
    """What a network's training gave.

    Attributes:
        best_round: the round whose weights were selected.
        auc: validation AUC over all sites at that round; NaN where no histograms came.
        threshold: probability from which on the network's bit is 1.
    """

    best_round: int
    auc: float
    threshold: float


@runtime_checkable
class Method(Protocol):
    """A published system."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """The stages in order; ``results`` fills up with network name -> result as stages are done."""
        ...


BUILT_IN = {"rating": "common.methods.rating:Rating"}


def method(name: str) -> Method:
    """The method of a name in :data:`BUILT_IN`, or of ``package.module:Name``.

    Raises:
        ConfigurationError: if there is none.
    """
    module, separator, attribute = BUILT_IN.get(name, name).partition(":")
    if not separator:
        raise ConfigurationError(
            f"Expected method to be one of {sorted(BUILT_IN)} or package.module:Name, got {name!r}"
        )
    try:
        return cast(Method, getattr(importlib.import_module(module), attribute)())
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"The method {name!r} cannot be imported: {error}") from None


def networks(settings: Settings) -> dict[str, NetworkSpec]:
    """All networks that the settings' method can ask for, by name."""
    stages = method(settings.method).stages(settings, {})
    return {spec.name: spec for stage in stages for spec in stage.networks}
