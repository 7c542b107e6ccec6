"""Gives a finished campaign's ensemble to the sites that trained it, signed with the centre's key.

A site says which arrays it lacks, and gets them, as many per message as ``federation.group_bytes`` allows, until it
has all. The networks are read from their files for each message: nothing of them stays in memory.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Message
from flwr.serverapp import Grid

from common import wire
from common.ensemble.statement import NetworkStatement, Statement, sign
from common.errors import ConfigurationError, DataError, SynofedError, UpdateError, VerificationError
from common.machine import network_files, pretrained
from common.machine.network_files import TrainedNetwork
from common.messages import EnsembleReply, EnsembleRequest, Refusal, Signed, Weights, WeightsRef
from common.networks.spec import NetworkSpec
from common.settings import NetworkSettings, Settings
from common.version import VERSION
from server.campaign.campaign import Outcome
from server.campaign.flower_errors import explained
from server.campaign.members import PACE, Pace
from server.campaign.received_receipts import Receipts
from server.federation.home import Home

DAY_S = 24 * 3600.0
MESSAGE_TTL_S = 3600.0
FINAL = frozenset({"policy", "update"})
"""Codes of refusals after which a site is not asked again: it has left the campaign, or the plan says otherwise."""
RECEIVED = "received"

Told = Callable[[str, str], None]
"""Gets a site and :data:`RECEIVED`, or why it has not got the ensemble yet."""
Keys = Callable[[], Mapping[str, str]]
"""The keys of the receipts of those sites that are registered now."""


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
    def of(cls, outcome: Outcome, settings: Settings, *, folder: Path, campaign: str, home: Home) -> Ensemble:
        """Sign a finished campaign's networks.

        Args:
            outcome: what the campaign ended with.
            settings: its configuration.
            folder: of the run.
            campaign: its name.
            home: where the centre's key lies.

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
        ).dump()
        return cls(
            campaign=campaign,
            plan_hash=settings.plan_hash(),
            text=text,
            signature=sign(text, _key(home)),
            certificate=home.server_certificate.read_text(encoding="ascii"),
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

    def request(self, request_id: str, hashes: Iterable[str]) -> EnsembleRequest:
        """The message that brings some arrays; the same id has to go with the same arrays."""
        return EnsembleRequest(
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


@dataclass(slots=True, kw_only=True)
class _Ask:
    """What one site still has to get.

    Attributes:
        hashes: that the message under way brings; its contents never change under one id.
        messages: Flower's ids of messages that may bring the answer.
        next: monotonic time at which it is asked (again).
        activated: when the site's node connected last.
    """

    site: str
    key: str
    hashes: tuple[str, ...]
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    messages: set[str] = field(default_factory=set)
    next: float = 0.0
    tries: int = 0
    activated: str = ""
    reason: str = "has not connected"


def hand_out(
    grid: Grid,
    ensemble: Ensemble,
    *,
    sites: Iterable[str],
    keys: Keys,
    receipts: Receipts,
    told: Told,
    patience_s: float = DAY_S,
    pace: Pace = PACE,
) -> dict[str, str]:
    """Send an ensemble until every site has acknowledged it, or patience ends.

    Args:
        grid: connects to the sites.
        ensemble: what they get.
        sites: who gets it, by registered names.
        keys: who is registered.
        receipts: where acknowledgements are kept.
        told: told of every change.
        patience_s: after which the others go without.
        pace: how often to look and ask.

    Returns:
        Site -> why it has not acknowledged; empty: all have.
    """
    deadline = time.monotonic() + patience_s
    found, refused = keys(), dict[str, str]()
    asks = {
        site: _Ask(site=site, key=found.get(site, ""), hashes=ensemble.chunk(ensemble.sizes))
        for site in sites
    }
    looked_at = -math.inf
    while asks and time.monotonic() < deadline:
        if time.monotonic() - looked_at >= pace.look:
            looked_at = time.monotonic()
            nodes = {info.name: (info.node_id, info.last_activated_at) for info in grid.get_nodes()}
            found = keys()
        for ask in list(asks.values()):
            reason = "is no longer registered" if found.get(ask.site) != ask.key else None
            reason = reason or _step(grid, ensemble, ask, nodes.get(ask.site), receipts, told, pace)
            if reason is not None:
                del asks[ask.site]
                told(ask.site, reason)
                if reason != RECEIVED:
                    refused[ask.site] = reason
        time.sleep(min(0.1, pace.look))
    return refused | {ask.site: ask.reason for ask in asks.values()}


def _step(
    grid: Grid,
    ensemble: Ensemble,
    ask: _Ask,
    node: tuple[int, str] | None,
    receipts: Receipts,
    told: Told,
    pace: Pace,
) -> str | None:
    """Take what a site has answered, ask it where it is time; its end, if this is one."""
    for message_id in list(ask.messages):
        for message in grid.pull_messages([message_id] if message_id in ask.messages else []):
            ask.messages.discard(message_id)
            end = _take(ensemble, ask, message, receipts, told, pace)
            if end is not None:
                return end
    if node is None:
        return None
    if node[1] != ask.activated:  # what a restarted site was doing is lost
        ask.activated, ask.next = node[1], 0.0
    if time.monotonic() >= ask.next:
        content = wire.encode(ensemble.request(ask.request_id, ask.hashes))
        message = Message(content, node[0], wire.ENSEMBLE, ttl=MESSAGE_TTL_S)
        ask.messages |= {message_id for message_id in grid.push_messages([message]) if message_id}
        ask.next = time.monotonic() + pace.silence * 2.0 ** min(ask.tries, 10)
        ask.tries += 1
        if ask.reason == "has not connected":
            _later(ask, "has not answered", told)
    return None


def _take(
    ensemble: Ensemble, ask: _Ask, message: Message, receipts: Receipts, told: Told, pace: Pace
) -> str | None:
    """Make of an answer what can be made of it; its end, if this is one."""
    ask.next = time.monotonic() + pace.again(ask.tries)
    try:
        if message.has_error():
            reason = explained(message.error)
        else:
            answer = wire.decode_reply(EnsembleReply, message.content)
            if not isinstance(answer, Refusal):
                return _acknowledged(ensemble, ask, answer, receipts)
            reason = f"refused: {answer.code}; its own log says why"
            if answer.code in FINAL:
                return reason
    except (UpdateError, VerificationError, ValueError, TypeError, KeyError) as error:
        reason = str(error) if isinstance(error, SynofedError) else type(error).__name__
    _later(ask, reason, told)
    return None


def _acknowledged(
    ensemble: Ensemble, ask: _Ask, answer: Signed[EnsembleReply], receipts: Receipts
) -> str | None:
    request = ensemble.request(ask.request_id, ())
    receipts.know(ask.site, ask.key)
    reply = receipts.check(receipts.asked(ask.site, request), answer)
    receipts.keep(answer)
    if not reply.missing:
        return RECEIVED
    if not set(reply.missing) <= set(ensemble.sizes):
        raise UpdateError("Expected hashes of the ensemble's arrays, got different ones")
    progress = not set(reply.missing) & set(ask.hashes)
    ask.hashes, ask.request_id = ensemble.chunk(reply.missing), secrets.token_hex(16)
    ask.messages.clear()
    if progress:
        ask.tries, ask.next = 0, 0.0
    return None


def _later(ask: _Ask, reason: str, told: Told) -> None:
    if reason != ask.reason:
        ask.reason = reason
        told(ask.site, reason)


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
