"""Sends a finished campaign's ensemble to the sites, signed with the centre's key: to keep, or to be judged there.

A site says which arrays it lacks, and gets them, as many per message as ``federation.group_bytes`` allows, until it
has all. The networks are read from their files for each message: nothing of them stays in memory.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from common import wire
from common.errors import SynofedError, UpdateError, VerificationError
from common.messages import (
    EnsembleReply,
    EnsembleRequest,
    Pieces,
    PiecesReply,
    Refusal,
    Signed,
)
from server.campaign import waiting
from server.campaign.ensemble import Ensemble
from server.campaign.flower_errors import explained
from server.campaign.members import PACE, Pace
from server.campaign.received_receipts import Receipts

DAY_S = 24 * 3600.0
MESSAGE_TTL_S = 3600.0
FINAL = frozenset({"policy", "update"})
"""Codes of refusals after which a site is not asked again: it has left the campaign, or the plan says otherwise."""
RECEIVED = "received"

Told = Callable[[str, str], None]
"""Gets a site and :data:`RECEIVED`, or why it has not got the ensemble yet."""
Keys = Callable[[], Mapping[str, str]]
"""The keys of the receipts of those sites that are registered now."""
Nodes = Callable[[], Mapping[str, tuple[int, str]]]
"""Site -> its node, and when that connected last, of those that are connected now."""
Answer = TypeVar("Answer", bound=PiecesReply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand(Generic[Answer]):
    """What a site gets an ensemble for.

    Attributes:
        route: of the site's app.
        request: the message that brings some arrays.
        reply: what it answers.
        begins: whether the first message brings arrays already; else the site is asked first what it lacks.
        done: takes the answer of a site that lacks nothing any more; an ``UpdateError``: it cannot be one.
    """

    route: str
    request: type[Pieces]
    reply: type[Answer]
    begins: bool
    done: Callable[[Answer], None]


KEEP = Errand(
    route=wire.ENSEMBLE,
    request=EnsembleRequest,
    reply=EnsembleReply,
    begins=True,
    done=lambda reply: None,
)
"""It is the site's from then on."""


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
    errand: Errand[Answer],
    *,
    sites: Iterable[str],
    keys: Keys,
    receipts: Receipts,
    told: Told,
    nodes: Nodes | None = None,
    patience_s: float = DAY_S,
    pace: Pace = PACE,
) -> dict[str, str]:
    """Send an ensemble until every site has acknowledged it, or patience ends.

    Args:
        grid: connects to the sites.
        ensemble: what they get.
        errand: what for.
        sites: who gets it, by name.
        keys: who is registered.
        receipts: where acknowledgements are kept.
        told: told of every change.
        nodes: where a simulation's sites are, which say once what they think; ``None``: hospitals, as the grid names
            them.
        patience_s: after which the others go without.
        pace: how often to look and ask.

    Returns:
        Site -> why it has not acknowledged; empty: all have.
    """
    work = _HandOut(grid, ensemble, errand, receipts, told, pace, patient=nodes is None)
    look = nodes or (lambda: {i.name: (i.node_id, i.last_activated_at) for i in grid.get_nodes()})
    began = time.monotonic()
    found, refused = keys(), dict[str, str]()
    first = tuple(ensemble.sizes) if errand.begins else ()
    asks = {site: _Ask(site=site, key=found.get(site, ""), hashes=ensemble.chunk(first)) for site in sites}
    looked_at = -math.inf
    while asks and time.monotonic() < began + patience_s:
        if time.monotonic() - looked_at >= pace.look:
            looked_at = time.monotonic()
            there, found = look(), keys()
        for ask in list(asks.values()):
            reason = "is no longer registered" if found.get(ask.site) != ask.key else None
            reason = reason or work.step(ask, there.get(ask.site))
            if reason is not None:
                del asks[ask.site]
                told(ask.site, reason)
                if reason != RECEIVED:
                    refused[ask.site] = reason
        if nodes is None:
            time.sleep(min(0.1, pace.look))
        else:
            waiting.for_reply(grid, since=began)
    return refused | {ask.site: ask.reason for ask in asks.values()}


class _HandOut(Generic[Answer]):
    """One ensemble on its way to some sites."""

    def __init__(
        self,
        grid: Grid,
        ensemble: Ensemble,
        errand: Errand[Answer],
        receipts: Receipts,
        told: Told,
        pace: Pace,
        *,
        patient: bool,
    ) -> None:
        self._grid = grid
        self._ensemble = ensemble
        self._errand = errand
        self._receipts = receipts
        self._told = told
        self._pace = pace
        self._patient = patient

    def step(self, ask: _Ask, node: tuple[int, str] | None) -> str | None:
        """Take what a site has answered, ask it where it is time; its end, if this is one."""
        for message_id in list(ask.messages):
            for message in self._grid.pull_messages([message_id] if message_id in ask.messages else []):
                ask.messages.discard(message_id)
                end = self._take(ask, message)
                if end is not None:
                    return end
        if node is None:
            return None
        if node[1] != ask.activated:  # what a restarted site was doing is lost
            ask.activated, ask.next = node[1], 0.0
        if time.monotonic() >= ask.next:
            content = wire.encode(self._request(ask, ask.hashes))
            message = Message(content, node[0], self._errand.route, ttl=MESSAGE_TTL_S)
            ask.messages |= {message_id for message_id in self._grid.push_messages([message]) if message_id}
            ask.next = time.monotonic() + self._pace.silence * 2.0 ** min(ask.tries, 10)
            ask.tries += 1
            if ask.reason == "has not connected":
                self._later(ask, "has not answered")
        return None

    def _take(self, ask: _Ask, message: Message) -> str | None:
        """Make of an answer what can be made of it; its end, if this is one."""
        ask.next = time.monotonic() + self._pace.again(ask.tries)
        try:
            if message.has_error():
                reason = explained(message.error)
            else:
                answer = wire.decode_reply(self._errand.reply, message.content)
                if not isinstance(answer, Refusal):
                    return self._acknowledged(ask, answer)
                reason = f"refused: {answer.code}; its own log says why"
                if answer.code in FINAL:
                    return reason
        except (UpdateError, VerificationError, ValueError, TypeError, KeyError) as error:
            reason = str(error) if isinstance(error, SynofedError) else type(error).__name__
        if not self._patient:
            return reason
        self._later(ask, reason)
        return None

    def _acknowledged(self, ask: _Ask, answer: Signed[Answer]) -> str | None:
        self._receipts.know(ask.site, ask.key)
        reply = self._receipts.check(self._receipts.asked(ask.site, self._request(ask, ())), answer)
        if not reply.missing:
            self._errand.done(reply)
        self._receipts.keep(answer)
        if not reply.missing:
            return RECEIVED
        if not set(reply.missing) <= set(self._ensemble.sizes):
            raise UpdateError("Expected hashes of the ensemble's arrays, got different ones")
        progress = not set(reply.missing) & set(ask.hashes)
        ask.hashes, ask.request_id = self._ensemble.chunk(reply.missing), secrets.token_hex(16)
        ask.messages.clear()
        ask.next = 0.0 if progress else ask.next
        ask.tries = 0 if progress else ask.tries
        return None

    def _request(self, ask: _Ask, hashes: Iterable[str]) -> Pieces:
        return self._ensemble.request(self._errand.request, ask.request_id, hashes)

    def _later(self, ask: _Ask, reason: str) -> None:
        if reason != ask.reason:
            ask.reason = reason
            self._told(ask.site, reason)
