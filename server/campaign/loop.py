"""The loop of a campaign: asks sites for their rounds, takes what arrives, closes what is complete.

Groups do not wait for each other. What may pass is waited for: a site that is unreachable, closed, paused or silent
is asked again with the same request until its deadline; it answers the same bytes however often it is asked.
Deadlines count a site's open hours only.
"""

from __future__ import annotations

import errno
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import SynofedError, UpdateError, VerificationError
from common.messages import MISHAPS, TRANSIENT, MissingWeights, Refusal
from common.sections.federation import FederationSettings
from server.campaign import hours, waiting
from server.campaign.events import CentreNews, Observer, SiteNews
from server.campaign.flower_errors import explained
from server.campaign.members import Members, Pace
from server.campaign.received_receipts import Asked, Receipts
from server.rounds import exchanges
from server.rounds.exchanges import Request, Rounds
from server.rounds.rounds import REFUSED

DEFAULT_DEADLINE_S = 3600.0
"""For a site that has not said how long a round takes it."""
LEAST_DEADLINE_S = 900.0
DEADLINE_ROUNDS = 5.0
"""A site may take as many times what it said, or what it took before."""
FLOWER_LEAST_TTL_S = 60.0


@dataclass(slots=True, kw_only=True)
class _Ask:
    """What one site is asked for in one round of one group.

    Attributes:
        since: POSIX time of the first ask.
        due: POSIX time at which the round goes on without it.
        next: POSIX time at which it is asked (again).
        asked: what the receipt of its reply has to say.
        kind: type of its messages.
        messages: ids of messages that may bring the reply.
    """

    group: Rounds
    site: str
    since: float
    due: float
    next: float
    asked: Asked | None = None
    kind: str = ""
    messages: set[str] = field(default_factory=set)
    tries: int = 0
    trouble: str = ""


class Loop:
    """Keeps a few groups in flight over one grid.

    Args:
        grid: connects to the sites.
        members: who is there.
        receipts: where the receipts of the replies are checked and kept.
        observer: told of every round and of every change of a site.
        federation: deadlines.
        pace: how often to ask.
        patient: whether to wait for what may pass; a simulation is told at once.
    """

    def __init__(
        self,
        grid: Grid,
        members: Members,
        receipts: Receipts,
        observer: Observer,
        federation: FederationSettings,
        *,
        pace: Pace,
        patient: bool,
    ) -> None:
        self._grid = grid
        self._members = members
        self._receipts = receipts
        self._observer = observer
        self._federation = federation
        self._pace = pace
        self._patient = patient
        self._asks: dict[tuple[str, str], _Ask] = {}
        self._longest_s: dict[tuple[str, str], float] = {}
        self._prompt_s: dict[tuple[str, str], float] = {}
        self._waiting_for_disk = False

    def run(self, rounds: Iterable[Rounds], *, in_flight: int) -> None:
        """Run groups to their end.

        Raises:
            CampaignError: if a round falls short of its quorum.
        """
        queue = deque(group for group in rounds if not group.done)
        active: list[Rounds] = []
        last_event = time.monotonic()
        while queue or active:
            while queue and len(active) < in_flight:
                active.append(queue.popleft())
            for group in active:
                if not group.waiting:
                    self._with_disk(self._begin, group)
            if self._patient:
                self._members.step()
                self._hasten(self._members.restarted())
            self._send()
            if self._pull() | self._give_up() | self._close(active):
                last_event = time.monotonic()
            else:
                waiting.for_reply(self._grid, since=last_event)
            active = [group for group in active if not group.done]

    def _begin(self, group: Rounds) -> None:
        """Begin a group's next round: ask the sites that are here, go on without the others."""
        now = time.time()
        present = self._members.present
        for request, sites in group.requests():
            here = [site for site in sites if site in present]
            for site in here:
                since = hours.opens(present[site].hours, now)
                self._asks[group.name, site] = _Ask(
                    group=group, site=site, since=since, next=since, due=self._due(group.name, site, now)
                )
            self._push(request, [self._asks[group.name, site] for site in here], now)
            for site in set(sites) - set(here):
                group.drop(site, self._members.why(site))

    def _due(self, group: str, site: str, now: float) -> float:
        allowance_s = self._federation.deadline_s
        if allowance_s is None:
            expected = self._expected_s(group, site)
            unknown = math.isnan(expected)
            allowance_s = DEFAULT_DEADLINE_S if unknown else max(LEAST_DEADLINE_S, DEADLINE_ROUNDS * expected)
        return hours.due(self._members.present[site].hours, now, allowance_s)

    def _expected_s(self, group: str, site: str) -> float:
        """What a round took the site, as it says or as was seen here; NaN: not known."""
        return float(
            np.fmax(self._members.present[site].round_seconds, self._longest_s.get((group, site), math.nan))
        )

    def _send(self) -> None:
        """Ask (again) whoever is due to be asked."""
        now = time.time()
        for ask in list(self._asks.values()):
            if ask.next <= now and ask.site in self._members.present:
                ask.next = max(now, hours.opens(self._members.present[ask.site].hours, now))
                self._push(ask.group.request_again(ask.site), [ask], now)

    def _push(self, request: Request, asks: Sequence[_Ask], now: float) -> None:
        ready = [ask for ask in asks if ask.next <= now]
        if not ready:
            return
        kind, content = exchanges.packed(request)  # encoded once, shared by all sites' messages
        messages = [
            Message(
                content,
                self._members.present[ask.site].node,
                kind,
                ttl=max(FLOWER_LEAST_TTL_S, ask.due - now),
                group_id=f"{request.group}/{request.server_round}",
            )
            for ask in ready
        ]
        for ask in ready:
            ask.asked, ask.kind = ask.asked or self._receipts.asked(ask.site, request), kind
        ids = self._grid.push_messages(messages)
        for ask, message_id in zip(ready, ids, strict=True):
            ask.tries += 1
            if message_id:
                ask.messages.add(message_id)
                ask.next = now + self._silence(ask) if self._patient else math.inf
            else:
                self._later(ask, "it could not be sent", now)

    def _silence(self, ask: _Ask) -> float:
        """How long a site may be silent before it is asked again."""
        prompt = self._prompt_s.get((ask.group.name, ask.site), math.nan)
        expected = float(np.fmax(self._members.present[ask.site].round_seconds, prompt))
        least = self._pace.silence if math.isnan(expected) else max(self._pace.silence, 2 * expected)
        return float(least * 2.0 ** min(ask.tries - 1, 20))

    def _later(self, ask: _Ask, trouble: str, now: float) -> None:
        """Ask a site again after a while."""
        ask.next = now + self._pace.again(ask.tries)
        if trouble != ask.trouble:
            ask.trouble = trouble
            self._observer(SiteNews(site=ask.site, state="waiting", reason=trouble))

    def _hasten(self, sites: Iterable[str]) -> None:
        """Ask sites that were restarted again at once."""
        for ask in self._asks.values():
            if ask.site in sites:
                ask.next = time.time()

    def _pull(self) -> bool:
        """Take what has arrived, one reply in memory at a time."""
        arrived = False
        for key, ask in list(self._asks.items()):
            for message_id in list(ask.messages):
                for message in self._grid.pull_messages([message_id]):
                    ask.messages.discard(message_id)
                    if self._take(ask, message):
                        self._asks.pop(key, None)
                    arrived = True
        return arrived

    def _take(self, ask: _Ask, message: Message) -> bool:
        """Make of one message what can be made of it; whether the site has answered for this round."""
        now = time.time()
        try:
            if not self._settle(ask, message, now):
                return False
        except VerificationError as error:
            ask.group.drop(ask.site, f"receipt: {error}")
        except (UpdateError, ValueError, KeyError, TypeError) as error:
            reason = str(error) if isinstance(error, SynofedError) else type(error).__name__
            ask.group.drop(ask.site, f"malformed reply: {reason}")
        except OSError as error:
            self._wait_for_disk(error)
            self._later(ask, "the centre's disk is full", now)
            return False
        key = (ask.group.name, ask.site)
        self._longest_s[key] = max(self._longest_s.get(key, 0.0), now - ask.since)
        if (
            ask.tries == 1
        ):  # what was asked again tells how long the centre waited, not how long the site took
            self._prompt_s[key] = max(self._prompt_s.get(key, 0.0), now - ask.since)
        if ask.trouble:
            self._observer(SiteNews(site=ask.site, state="present"))
        return True

    def _settle(self, ask: _Ask, message: Message, now: float) -> bool:
        """As :meth:`_take`, with an error for what cannot be used or kept."""
        if message.has_error():
            return self._failed(ask, explained(message.error), now)
        answer = exchanges.unpacked(message.content, kind=ask.kind)
        if isinstance(answer, MissingWeights):
            self._supply(ask, answer, now)
            return False
        if isinstance(answer, Refusal):
            if answer.code in TRANSIENT | MISHAPS:
                return self._failed(ask, answer.code, now)
            ask.group.drop(ask.site, REFUSED + answer.code)
            return True
        assert ask.asked is not None
        ask.group.accept(ask.site, self._receipts.check(ask.asked, answer))
        self._receipts.keep(answer)
        return True

    def _supply(self, ask: _Ask, missing: MissingWeights, now: float) -> None:
        """Ask once more, with the weights that the site's cache lacks."""
        ask.next = now
        if ask.site in self._members.present:
            self._push(ask.group.request_with(missing, site=ask.site), [ask], now)

    def _failed(self, ask: _Ask, trouble: str, now: float) -> bool:
        """What may pass is waited for, but not in a simulation; whether that was the site's answer."""
        if not self._patient:
            ask.group.drop(ask.site, f"refused: {trouble}")
            return True
        if not ask.messages:  # another message may still bring the reply
            self._later(ask, trouble, now)
        return False

    def _give_up(self) -> bool:
        """Go on without the sites whose deadline has passed."""
        now = time.time()
        late = [key for key, ask in self._asks.items() if now > ask.due]
        for key in late:
            ask = self._asks.pop(key)
            reason = f"no reply within {ask.due - ask.since:.0f} s"
            ask.group.drop(ask.site, f"{reason} ({ask.trouble})" if ask.trouble else reason)
            if self._patient and ask.site in self._members.present:
                self._members.lost(ask.site, reason)
        return bool(late)

    def _close(self, active: Iterable[Rounds]) -> bool:
        complete = [group for group in active if group.complete]
        for group in complete:
            self._with_disk(self._commit, group)
        return bool(complete)

    def _commit(self, group: Rounds) -> None:
        record = group.close()
        if record is not None:
            self._observer(record)

    def _with_disk(self, write: Callable[[Rounds], None], group: Rounds) -> None:
        """Do what a full disk may keep from being done; nothing of it is done then, and it is tried again later."""
        try:
            write(group)
            self._waiting_for_disk = False
        except OSError as error:
            self._wait_for_disk(error)
            time.sleep(self._pace.look)

    def _wait_for_disk(self, error: OSError) -> None:
        """A full disk is waited for where nobody sits in front of it; every other trouble of it ends the run."""
        if not self._patient or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        if not self._waiting_for_disk:
            self._waiting_for_disk = True
            self._observer(
                CentreNews(
                    reason=f"the disk is full: {error.strerror}; free some space, it continues by itself"
                )
            )
