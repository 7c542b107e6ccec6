"""The sites of a campaign as they are now: who agreed to the plan, who is away, who declines.

In a simulation every site has to agree at once. Registered sites are hospitals: the plan waits there until somebody
approves it, a machine may be off, a link may be cut. They are asked again until they agree, and the campaign goes on
with those that do, if its quorum allows.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message
from flwr.serverapp import Grid

from common import wire
from common.errors import BudgetError, CampaignError, PolicyError, UpdateError, VerificationError
from common.evaluation.inside import site_statistics
from common.messages import TRANSIENT, PlanReply, PlanRequest, Refusal, Signed
from common.settings import Settings
from common.version import VERSION
from server.campaign import flower_errors, waiting
from server.campaign.events import Observer, SiteNews
from server.campaign.received_receipts import Receipts
from server.campaign.roster import Roster
from server.rounds.quorum import lacking

CONNECT_S = 600.0
"""How long a simulation waits for its sites."""
PLAN_TTL_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the centre looks and asks, in seconds.

    Attributes:
        look: between two looks at who is connected.
        ask_first: before a site is asked again for the first time; doubled each time.
        ask_last: the longest time between two asks.
        silence: after which a site that should have answered is asked again; doubled each time.
    """

    look: float = 2.0
    ask_first: float = 10.0
    ask_last: float = 300.0
    silence: float = 120.0

    def again(self, tries: int) -> float:
        """The time before ask ``tries + 1``."""
        return float(min(self.ask_last, self.ask_first * 2.0 ** min(tries, 20)))


PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site that agreed to the plan.

    Attributes:
        node: Flower's number of it.
        hours: when it trains.
        round_seconds: what a round took it lately; NaN: unknown.
        usable: measurement -> its training exams, 0 where it would train nothing; empty where it does not tell.
        statistics: what it tells of its patients, as it came; empty: nothing.
    """

    node: int
    hours: tuple[tuple[int, int], ...]
    round_seconds: float
    usable: Mapping[str, int]
    statistics: str = ""


@dataclass(slots=True, kw_only=True)
class _Node:
    """A connected node.

    Attributes:
        name: the registered name; in a simulation, what the site calls itself, once it has answered.
        activated: when it connected last: another value says that it was restarted.
        asked: the request that it has not answered yet, by message id.
        state: what is known of it.
    """

    node: int
    name: str = ""
    activated: str = ""
    asked: tuple[str, PlanRequest] | None = None
    ask_at: float = 0.0
    tries: int = 0
    state: Literal["unknown", "present", "waiting", "away", "declined"] = "unknown"
    reason: str = ""


class Members:
    """Keeps asking the sites for their consent to one plan.

    Args:
        grid: connects to the sites.
        settings: the configuration whose plan they are to agree to.
        campaign: its name.
        receipts: where their consents are kept.
        roster: who may take part.
        observer: told whenever a site's state changes.
        pace: how often to look and ask.
        run: names the run.
        admitted: the roster as it is now, which may have grown; ``None``: it does not.
        joined: sites that trained in this run before it was interrupted: those that were admitted later are
            waited for like all others.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        campaign: str,
        receipts: Receipts,
        roster: Roster,
        observer: Observer,
        pace: Pace,
        *,
        run: str = "",
        admitted: Callable[[], Roster] | None = None,
        joined: Iterable[str] = (),
    ) -> None:
        self._run = run
        self._admitted = admitted
        self._grid = grid
        self._settings = settings
        self._campaign = campaign
        self._receipts = receipts
        self._roster = roster
        self._observer = observer
        self._pace = pace
        self._nodes: dict[int, _Node] = {}
        self._members: dict[str, Member] = {}
        self._joined = frozenset(joined)
        self._agreed = set(self._joined)
        self._without: dict[str, frozenset[str]] = {}
        self._restarted: set[str] = set()
        self._looked_at = -math.inf
        self._plan, self._plan_hash = settings.plan_json(), settings.plan_hash()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that train, in the order of aggregation, whether they are here or not.

        One that was admitted later is among them once it has agreed.
        """
        if self._roster.registered:
            joined = self._roster.late & self._agreed
            return tuple(sorted({*self._roster.expected, *self._roster.gone, *joined}))
        return tuple(sorted(node.name for node in self._nodes.values() if node.name))

    @property
    def present(self) -> Mapping[str, Member]:
        """The sites that agreed and are asked to train."""
        return self._members

    @property
    def usable(self) -> Mapping[str, Mapping[str, int]]:
        """What the sites that tell it would train: site -> measurement -> exams."""
        return {name: self._members[name].usable for name in self._here() if self._members[name].usable}

    def apart(self, tasks: frozenset[str]) -> frozenset[str]:
        """Sites whose people approved the campaign without one of some tasks, as far as they have answered."""
        return frozenset(site for site, without in self._without.items() if without & tasks)

    def gather(self) -> None:
        """Wait until every site has agreed or declined, as long as the campaign's ``approval_s`` allows.

        Raises:
            PolicyError: if sites decline and the quorum cannot do without them.
            BudgetError: if all that decline do so because of their patients' privacy budget.
            CampaignError: if too few sites agree in time, or two call themselves the same.
        """
        patience_s = self._settings.federation.approval_s if self._roster.registered else CONNECT_S
        began = time.monotonic()
        self.step()
        while not self._settled() and time.monotonic() < began + patience_s:
            if self._roster.registered or not self._nodes:
                time.sleep(min(0.1, self._pace.look))
            else:
                waiting.for_reply(self._grid, since=began)
            self.step()
        self._check_quorum(patience_s)

    def step(self) -> None:
        """Look who is connected, ask those that have not agreed, take what has arrived; returns at once."""
        now = time.monotonic()
        look = self._pace.look if self._roster.registered else 0.0 if self._all_connected() else 0.1
        if now - self._looked_at >= look and (self._roster.registered or not self._all_connected()):
            self._looked_at = now
            self._look()
        for node in self._nodes.values():
            if node.asked is not None:
                self._take(node)
            elif node.state != "present" and self._again(node) and now >= node.ask_at:
                self._ask(node)

    def restarted(self) -> frozenset[str]:
        """Sites that have connected anew since this was last asked: what they were doing is lost."""
        found, self._restarted = frozenset(self._restarted), set()
        return found

    def lost(self, site: str, reason: str) -> None:
        """A site missed its deadline: rounds go on without it until it agrees to the plan again."""
        node = self._nodes[self._members.pop(site).node]
        self._become(node, "away", reason)
        node.tries, node.ask_at = 0, 0.0

    def why(self, site: str) -> str:
        """Why a site is not present."""
        if site in self._roster.gone:
            return "is no longer registered"
        found = [node for node in self._nodes.values() if node.name == site]
        return f"{found[0].state}: {found[0].reason}" if found else "has not connected"

    def _here(self) -> list[str]:
        """The sites that train and are present."""
        return [name for name in self.sites if name in self._members]

    def _expected(self) -> list[_Node]:
        """The connected ones of the sites that the campaign begins, or goes on, with."""
        if not self._roster.registered:
            return list(self._nodes.values())
        return [node for node in self._nodes.values() if node.name in self._awaited()]

    def _awaited(self) -> frozenset[str]:
        return self._roster.expected | (self._roster.late & self._joined)

    def _all_connected(self) -> bool:
        if not self._roster.registered:
            return len(self._nodes) >= self._roster.count
        return len(self._expected()) >= len(self._awaited())

    def _again(self, node: _Node) -> bool:
        """Whether a node may be asked once more: a simulation's sites say once what they think."""
        return self._roster.registered or node.state == "unknown"

    def _settled(self) -> bool:
        states = [node.state for node in self._expected()]
        return self._all_connected() and all(state in ("present", "declined") for state in states)

    def _look(self) -> None:
        if self._admitted is not None:
            self._roster = self._admitted()
        for info in self._grid.get_nodes():
            if self._roster.registered and info.name not in self._roster.keys:
                continue
            node = self._nodes.get(info.node_id)
            if node is None:
                self._nodes[info.node_id] = node = _Node(node=info.node_id, name=info.name)
            elif node.activated != info.last_activated_at:
                self._restarted.add(node.name)
                node.asked, node.tries, node.ask_at = None, 0, 0.0
            node.activated = info.last_activated_at

    def _ask(self, node: _Node) -> None:
        request = PlanRequest(
            campaign=self._campaign,
            request_id=secrets.token_hex(16),
            version=VERSION,
            plan=self._plan,
            plan_hash=self._plan_hash,
            run=self._run,
            known=self._receipts.known(node.name),
        )
        message = Message(wire.encode(request), node.node, wire.PLAN, ttl=PLAN_TTL_S)
        (message_id,) = self._grid.push_messages([message])
        node.tries += 1
        if message_id:
            node.asked = (message_id, request)
            node.ask_at = time.monotonic() + self._pace.silence * 2.0 ** min(node.tries - 1, 10)
        else:
            node.ask_at = time.monotonic() + self._pace.again(node.tries)

    def _take(self, node: _Node) -> None:
        assert node.asked is not None
        message_id, request = node.asked
        for message in self._grid.pull_messages([message_id]):
            node.asked = None
            node.ask_at = time.monotonic() + self._pace.again(node.tries)
            if message.has_error():
                other_package = flower_errors.other_package(message.error)
                if other_package:
                    self._decline(node, other_package)
                else:
                    self._become(node, "waiting", flower_errors.explained(message.error))
                return
            try:
                answer = wire.decode_reply(PlanReply, message.content)
            except (UpdateError, VerificationError, ValueError, TypeError) as error:
                self._decline(node, f"answers what cannot be read: {type(error).__name__}")
                return
            if isinstance(answer, Refusal):
                self._refused(node, answer)
            else:
                self._consented(node, request, answer)
            return
        if time.monotonic() >= node.ask_at and self._roster.registered:
            node.asked = None  # no answer for long: the message or its reply is lost

    def _refused(self, node: _Node, refusal: Refusal) -> None:
        self._name(node, refusal.site)
        if refusal.code in TRANSIENT and self._roster.registered:
            self._become(node, "waiting", refusal.code)
        elif refusal.version != VERSION:
            self._decline(
                node, f"runs synofed {refusal.version}, the centre {VERSION}: bring both to one version"
            )
        else:
            self._decline(node, _refuses(refusal.code))

    def _consented(self, node: _Node, request: PlanRequest, answer: Signed[PlanReply]) -> None:
        consent = answer.reply
        self._name(node, consent.site)
        if (consent.version, consent.plan_hash) != (VERSION, self._plan_hash):
            self._decline(
                node,
                f"runs synofed {consent.version} with plan {consent.plan_hash[:12]}, the centre {VERSION} with plan "
                f"{self._plan_hash[:12]}: bring both to one version",
            )
            return
        if self._roster.registered and (node.name, self._roster.keys[node.name]) != (
            consent.site,
            consent.public_key,
        ):
            self._decline(
                node,
                f"answers as {consent.site!r:.80} with key {consent.public_key:.16}, registered is key "
                f"{self._roster.keys[node.name]:.16}",
            )
            return
        try:
            if consent.statistics and site_statistics.parse(consent.statistics).site != consent.site:
                raise UpdateError("Expected a site's own statistics, got those of another")
        except UpdateError as error:
            self._decline(node, str(error))
            return
        try:
            self._receipts.meet(request, answer)
        except VerificationError as error:
            if not self._roster.registered:
                raise
            self._decline(node, str(error))
            return
        self._without[consent.site] = frozenset(consent.without)
        self._members[consent.site] = Member(
            node=node.node,
            hours=consent.hours,
            round_seconds=consent.round_seconds,
            usable=consent.usable,
            statistics=consent.statistics,
        )
        self._agreed.add(consent.site)
        node.tries = 0
        self._become(node, "present", lacking(consent.usable))

    def _name(self, node: _Node, claimed: str) -> None:
        """A simulation's site names itself."""
        if self._roster.registered:
            return
        if any(other.name == claimed for other in self._nodes.values() if other is not node):
            raise CampaignError(f"Two sites call themselves {claimed!r}: names must differ")
        node.name = claimed

    def _decline(self, node: _Node, reason: str) -> None:
        node.ask_at = time.monotonic() + self._pace.ask_last
        self._become(node, "declined", reason)

    def _become(
        self, node: _Node, state: Literal["present", "waiting", "away", "declined"], reason: str
    ) -> None:
        if (node.state, node.reason) != (state, reason):
            node.state, node.reason = state, reason
            self._observer(SiteNews(site=node.name or f"node {node.node}", state=state, reason=reason))

    def _check_quorum(self, patience_s: float) -> None:
        needed = self._settings.federation.needed(self._roster.count)
        if len(self._here()) >= needed:
            return
        declined = [f"{n.name} {n.reason}" for n in self._expected() if n.state == "declined"]
        declined += [f"{site} is no longer registered" for site in self._roster.gone]
        if declined:
            spent = _refuses(BudgetError.code)
            only_budgets = all(node.reason == spent for node in self._expected() if node.state == "declined")
            error = BudgetError if only_budgets and not self._roster.gone else PolicyError
            raise error(f"The campaign cannot do without: {'; '.join(sorted(declined))}")
        missing = {site: self.why(site) for site in self.sites if site not in self._members}
        named = "; ".join(f"{site} {why}" for site, why in sorted(missing.items()))
        raise CampaignError(
            f"Expected {needed} of {self._roster.count} sites to agree within {patience_s:g} s, "
            f"{len(self._here())} did{f' ({named})' if named else ''}; connected are {len(self._expected())}"
        )


def _refuses(code: str) -> str:
    return f"refuses ({code}); its own log says why"
