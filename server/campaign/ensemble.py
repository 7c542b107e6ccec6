"""A finished campaign's ensemble, signed with the centre's key and ready to be sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.ensemble.statement import NetworkStatement, Statement, sign
from common.errors import ConfigurationError, DataError
from common.machine import network_files, pretrained
from common.machine.network_files import TrainedNetwork
from common.messages import Pieces, Weights, WeightsRef
from common.networks.spec import NetworkSpec
from common.sections.networks import NetworkSettings
from common.settings import Settings
from common.version import VERSION
from server.campaign.campaign import Outcome
from server.federation.home import Home

Sent = TypeVar("Sent", bound=Pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """A campaign's ensemble, ready to be sent.

    Attributes:
        campaign: the campaign's name.
        plan_hash: of its plan.
        text: the statement, as it was signed.
        signature: over it.
        certificate: the centre's, PEM.
        sizes: hash of an array -> its bytes; in the order in which they are sent.
        place: hash -> where it is read from: a network's name, and a frozen part of it or an empty text.
        folder: of the networks' files.
        settings: of the campaign.
    """

    campaign: str
    plan_hash: str
    text: str
    signature: str
    certificate: str
    sizes: Mapping[str, int]
    place: Mapping[str, tuple[str, str]]
    folder: Path
    settings: Settings

    @classmethod
    def of(
        cls, outcome: Outcome, settings: Settings, *, folder: Path, campaign: str, home: Home | None
    ) -> Ensemble:
        """Sign a finished campaign's networks.

        Args:
            outcome: what the campaign ended with.
            settings: its configuration.
            folder: of the run.
            campaign: its name.
            home: where the centre's key lies; ``None``: a simulation, in which nobody signs.

        Raises:
            ConfigurationError: if the key cannot be used.
            DataError: if a network is missing.
        """
        networks = folder / "networks"
        stated: dict[str, NetworkStatement] = {}
        sizes: dict[str, int] = {}
        place: dict[str, tuple[str, str]] = {}
        for name in _needed(networks, outcome.results):
            network = network_files.load(network_files.path(networks, name))
            stated[name] = _stated(network, settings.network)
            for digest, part in zip(stated[name].hashes, ("", *stated[name].frozen), strict=True):
                place.setdefault(digest, (name, part))
                sizes.setdefault(digest, _array(network, part, settings.network).nbytes)
        text = Statement(
            campaign=campaign,
            plan_hash=settings.plan_hash(),
            version=VERSION,
            status=outcome.status.value,
            missing=dict(outcome.missing),
            networks=stated,
            stacks=outcome.stacks,
        ).dump()
        return cls(
            campaign=campaign,
            plan_hash=settings.plan_hash(),
            text=text,
            signature=sign(text, _key(home)) if home is not None else "",
            certificate=home.server_certificate.read_text(encoding="ascii") if home is not None else "",
            sizes=sizes,
            place=place,
            folder=networks,
            settings=settings,
        )

    def chunk(self, hashes: Iterable[str]) -> tuple[str, ...]:
        """The first of some arrays that fit into one message; at least one."""
        chosen: list[str] = []
        size = 0
        for digest in hashes:
            size += self.sizes[digest]
            if chosen and size > self.settings.federation.group_bytes:
                break
            chosen.append(digest)
        return tuple(chosen)

    def request(self, kind: type[Sent], request_id: str, hashes: Iterable[str]) -> Sent:
        """The message that brings some arrays; the same id has to go with the same arrays."""
        return kind(
            campaign=self.campaign,
            plan_hash=self.plan_hash,
            request_id=request_id,
            statement=self.text,
            signature=self.signature,
            certificate=self.certificate,
            weights={digest: self._read(digest) for digest in hashes},
        )

    def _read(self, digest: str) -> Weights:
        name, part = self.place[digest]
        return _array(network_files.load(network_files.path(self.folder, name)), part, self.settings.network)


def _needed(folder: Path, results: Iterable[str]) -> list[str]:
    """Networks that score, and those that they are built on, in a fixed order."""
    specs: dict[str, NetworkSpec] = {}
    for name in sorted(results):
        specs[name] = network_files.load(network_files.path(folder, name)).spec
    needed = {name for name, spec in specs.items() if spec.scoring}
    waiting = list(needed)
    while waiting:
        sources = {piece.network for piece in specs[waiting.pop()].frozen if piece.network is not None}
        missing = sources - set(specs)
        if missing:
            raise DataError(f"Expected the network {min(missing)} among the campaign's, it is missing")
        waiting += sources - needed
        needed |= sources
    return sorted(needed)


def _stated(network: TrainedNetwork, settings: NetworkSettings) -> NetworkStatement:
    result = network.result
    parts = [piece.part for piece in network.spec.frozen if piece.network is None]
    return NetworkStatement(
        weights=WeightsRef.of(network.weights).hash,
        frozen={part: WeightsRef.of(_array(network, part, settings)).hash for part in parts},
        best_round=result.best_round,
        auc=result.auc if math.isfinite(result.auc) else None,
        threshold=result.threshold,
    )


def _array(network: TrainedNetwork, part: str, settings: NetworkSettings) -> Weights:
    """A network's flat weights, or those of a frozen part that it has from nobody."""
    return pretrained.part(network.spec, settings, part).numpy() if part else network.weights


def _key(home: Home) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(home.server_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"Expected the centre's key at {home.server_key}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"Expected an elliptic curve's key in {home.server_key}, got another kind")
    return key
