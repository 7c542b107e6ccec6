"""The rounds of one group under secure aggregation: five exchanges per round, of which the centre learns one sum.

The same face towards the loop as :class:`server.rounds.rounds.GroupRounds`: an exchange is asked, answered and
closed like a round there, but only the last one commits a round.

============================================  =====================================================================
case                                          answer
============================================  =====================================================================
a site does not answer a phase                the attempt goes on without it
too few are left                              the attempt is over and the campaign stops, as short of its quorum
the centre is killed                          it asks the same attempt again; sites send the bytes that they kept
an attempt failed, its sum unasked for        another one at the same round; its noise is new, and charged
an attempt failed while its sum was opened    the round is lost: recorded without participants, weights stay; sites
                                              never help to open a round twice
============================================  =====================================================================
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from common import wire
from common.aggregation.algorithms import FederatedAlgorithm
from common.errors import BudgetError, CampaignError, UpdateError, VerificationError
from common.machine.network_files import TrainedNetwork
from common.messages import MissingWeights, Refusal, SumReply, SumRequest, TrainRequest, sum_request_id
from common.methods.groups import Group
from common.secure_aggregation.centre import Attempt
from common.secure_aggregation.messages import PHASES, Phase, Request
from common.secure_aggregation.terms import Context
from common.settings import Settings
from server.rounds.group_state import GroupState
from server.rounds.journal import Journal, RoundRecord
from server.rounds.opened_sum import GroupSum, Outcome
from server.rounds.rounds import REFUSED
from server.rounds.sum_progress import Progress, ProgressFile
from server.rounds.weights import StartWeights

INTERRUPTED = "had not answered when the centre was interrupted"
NO_PART = "takes no part in it, as was declared when the campaign was approved there"
LOST = "the sum was being opened when the attempt ended; it is never opened twice"


@dataclass(slots=True, kw_only=True)
class _Round:
    """A round that is under way.

    Attributes:
        context: of its attempt.
        sites: that take part in the group, in the order of aggregation.
        attempt: ``None`` where the round is lost.
        progress: as it is on disk, or will be.
        before: who answered which phase before an interruption.
        advanced: whether the open exchange was closed, but its progress may not be on disk.
        outcome: states and histograms, once the sum is known.
    """

    context: Context
    sites: tuple[str, ...]
    attempt: Attempt | None
    progress: Progress
    before: Mapping[Phase, tuple[str, ...]]
    started: float
    answered: set[str] = field(default_factory=set)
    dropped: dict[str, str] = field(default_factory=dict)
    supplied: set[str] = field(default_factory=set)
    advanced: bool = False
    outcome: Outcome | None = None


class SumRounds:
    """One group from its journal's last round to its selected weights, by secure sums.

    Args:
        group: the networks.
        settings: of the campaign; with ``federation.secure``.
        campaign: its name.
        sites: in the order of aggregation.
        start: where the networks start.
        algorithm: what becomes of a mean.
        journal: of the group.
        progress: of its attempts.
        keys: gives the receipt keys of the sites that have agreed so far.
        run: names the run.
        apart: gives the sites that are known to take no part in the group.
    """

    def __init__(
        self,
        group: Group,
        *,
        settings: Settings,
        campaign: str,
        sites: Sequence[str],
        start: StartWeights,
        algorithm: FederatedAlgorithm,
        journal: Journal,
        progress: ProgressFile,
        keys: Callable[[], Mapping[str, str]],
        run: str,
        apart: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self.group = group
        self._state = GroupState(group, settings=settings, start=start, algorithm=algorithm, journal=journal)
        self._settings = settings
        self._campaign = campaign
        self._sites = tuple(sites)
        self._progress = progress
        self._keys = keys
        self._run = run
        self._apart = apart
        self._sum = GroupSum(group, settings=settings, algorithm=algorithm)
        self._round: _Round | None = None
        self._asking = False

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name

    @property
    def done(self) -> bool:
        """Whether the last round is committed."""
        return self._state.entry.server_round >= self.rounds

    @property
    def rounds(self) -> int:
        """All rounds; the last one scores, unless nothing but noised sums leaves the sites."""
        return self._state.rounds + (0 if self._sum.private else 1)

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """All committed rounds."""
        return self._state.records

    @property
    def waiting(self) -> bool:
        """Whether an exchange is under way."""
        return self._asking

    @property
    def complete(self) -> bool:
        """Whether every site of the exchange has answered or was dropped."""
        if not self._asking or self._round is None:
            return False
        return self._round.attempt is None or not self._round.attempt.waiting

    def requests(self) -> list[tuple[SumRequest, tuple[str, ...]]]:
        """Begin the next exchange: what to ask which sites.

        Raises:
            CampaignError: if fewer sites have agreed than have to survive.
            OSError: if the attempt cannot be written down; it can be begun again.
        """
        self._state.load()
        if self._round is None:
            self._round = self._begin()
        current, self._asking = self._round, True
        current.answered.clear()
        if current.attempt is None:
            return []
        asked = current.attempt.requests()
        phase = self._phase(current)
        if phase in current.before:
            for site in set(asked) - set(current.before[phase]):
                self.drop(site, INTERRUPTED)
        if phase == "masked":
            return [(self._request(asked[site]), (site,)) for site in current.attempt.waiting]
        return [(self._request(next(iter(asked.values()))), current.attempt.waiting)]

    def request_again(self, site: str) -> SumRequest:
        """The request that a site got in this exchange, for a site that has not answered it."""
        current = self._current()
        current.supplied.discard(site)
        return self._request(self._attempt(current).requests()[site])

    def request_with(self, missing: MissingWeights, *, site: str) -> SumRequest:
        """The same request once more, for a site whose cache lacks weights, with these attached.

        Raises:
            UpdateError: if the request does not refer to them, or the site was sent weights in this round before.
        """
        current = self._current()
        request = self._request(self._attempt(current).requests()[site])
        if missing.request_id != request.request_id or request.train is None or site in current.supplied:
            raise UpdateError(f"Expected {site} to ask once for weights of its request")
        attached = self._state.attached(missing.hashes, site=site)
        current.supplied.add(site)
        return replace(request, train=replace(request.train, attached=attached))

    def accept(self, site: str, reply: SumReply | Refusal) -> None:
        """Take one site's answer; one that does not fit is dropped with its reason, a second one changes nothing."""
        current = self._current()
        attempt = self._attempt(current)
        if site not in attempt.waiting:
            return
        if isinstance(reply, Refusal):
            self.drop(site, REFUSED + reply.code)
            return
        request_id = sum_request_id(current.context, self._phase(current))
        try:
            if reply.request_id != request_id or reply.site != site:
                raise UpdateError(
                    f"Expected the reply of {site} to request {request_id}, got a reply to a different one"
                )
            attempt.accept(site, reply.says)
        except (UpdateError, VerificationError) as error:
            self.drop(site, str(error))
            return
        current.answered.add(site)

    def drop(self, site: str, reason: str) -> None:
        """Go on without a site in this attempt."""
        current = self._current()
        attempt = self._attempt(current)
        if site in attempt.waiting:
            current.dropped[site] = f"{reason} (phase {attempt.phase})"
            attempt.drop(site)

    def close(self) -> RoundRecord | None:
        """Close the exchange; after the last one, commit the round.

        Nothing has happened where it cannot be written: it can be closed again.

        Returns:
            The round, or none where another exchange follows.

        Raises:
            CampaignError: if too few sites are left: the attempt is over.
            BudgetError: if that is because of their patients' privacy budget alone.
            OSError: if journal or progress cannot be written.
        """
        current = self._current()
        attempt = current.attempt
        if attempt is not None:
            if not current.advanced:
                self._advance(current)
                current.advanced = True
            self._progress.write(current.progress)
            if attempt.phase is not None:
                current.advanced = self._asking = False
                return None
        record = self._commit(current)
        self._round, self._asking = None, False
        if self.done:
            self._state.states = {}
        return record

    def results(self) -> Iterator[TrainedNetwork]:
        """Each network with its selected weights, once :attr:`done`."""
        return self._state.results()

    def _begin(self) -> _Round:
        """The next round's attempt: the one that was interrupted, a new one, or none where the round is lost."""
        server_round = self._state.entry.server_round + 1
        apart = self._apart()
        sites = tuple(site for site in self._sites if site not in apart)
        keys = {site: key for site, key in self._keys().items() if site in sites}
        known = self._progress.read()
        progress = known if known is not None and known.server_round == server_round else None
        if progress is not None and not set(progress.answered.get("keys", ())) <= set(keys):
            progress = replace(progress, failed=True)
        if progress is None or (progress.failed and not progress.opened):
            progress = Progress(server_round=server_round, attempt=secrets.token_hex(16))
        context = Context(
            plan_hash=self._state.entry.plan_hash,
            run=self._run,
            group=self.group.name,
            server_round=server_round,
            attempt=progress.attempt,
            content=wire.content_hash(self._train("", server_round)),
        )
        attempt = None
        if not progress.failed:
            attempt = Attempt(context=context, terms=self._sum.terms(), registered=keys)
        self._progress.write(progress)
        absent = {site: "has not agreed to the plan" for site in sites if site not in keys}
        dropped = absent if attempt is not None else dict.fromkeys(sites, LOST)
        return _Round(
            context=context,
            sites=sites,
            attempt=attempt,
            progress=progress,
            before=progress.answered,
            started=time.monotonic(),
            dropped={**dropped, **dict.fromkeys(sorted(set(self._sites) & apart), NO_PART)},
        )

    def _request(self, asks: Request) -> SumRequest:
        current = self._current()
        request_id = sum_request_id(current.context, asks.phase)
        train = None
        if asks.phase == "masked":
            train = self._train(request_id, current.context.server_round)
        return SumRequest(
            campaign=self._campaign,
            request_id=request_id,
            networks=self._sum.networks,
            asks=asks,
            train=train,
        )

    def _train(self, request_id: str, server_round: int) -> TrainRequest:
        return self._state.request(
            campaign=self._campaign, request_id=request_id, server_round=server_round, run=self._run
        )

    def _advance(self, current: _Round) -> None:
        """Go on to the next phase, or to the sum.

        Raises:
            CampaignError: if that cannot be; then the attempt is over.
        """
        attempt = self._attempt(current)
        phase = self._phase(current)
        progress = replace(
            current.progress,
            answered={**current.progress.answered, phase: tuple(sorted(current.answered))},
        )
        try:
            if PHASES.index(phase) <= PHASES.index("masked"):
                self._check_quorum(current)
            attempt.next()
            if attempt.phase is None:
                current.outcome = self._sum.outcome(
                    attempt.sum(),
                    self._state.states,
                    survivors=len(attempt.survivors),
                    participation=len(attempt.survivors) / len(current.sites),
                    scores=current.context.server_round > self._state.rounds,
                )
        except (CampaignError, VerificationError) as error:
            self._progress.write(replace(current.progress, failed=True))
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(current.dropped.items()))
            spent = set(current.dropped.values()) - {NO_PART} == {
                f"{REFUSED}{BudgetError.code} (phase {phase})"
            }
            raise (BudgetError if spent else CampaignError)(
                f"Round {current.context.server_round} of {self.group.name}: {error} ({reasons or 'nobody left'}). "
                f"Resume when the sites are back, or lower federation.quorum and federation.secure.survivors"
            ) from None
        current.progress = progress

    def _check_quorum(self, current: _Round) -> None:
        needed = self._settings.federation.needed(len(current.sites))
        if len(current.answered) < needed:
            raise CampaignError(
                f"expected replies of {needed} of {len(current.sites)} sites, got {len(current.answered)}"
            )

    def _commit(self, current: _Round) -> RoundRecord:
        server_round = current.context.server_round
        states, histograms = current.outcome or (self._state.states, {})
        scored = server_round if self._sum.private else server_round - 1
        best = {name: self._state.best(name, scored, histograms.get(name)) for name in states}
        aucs = [of_network.auc() for of_network in histograms.values()]
        participants = current.attempt.survivors if current.attempt is not None else ()
        record = RoundRecord(
            stage=self.group.stage,
            group=self.group.name,
            round=server_round,
            loss=math.nan,
            auc=float(np.nanmean(aucs)) if aucs and not np.isnan(aucs).all() else math.nan,
            participants=tuple(site for site in self._sites if site in participants),
            dropped={site: why for site, why in current.dropped.items() if site not in participants},
            seconds=time.monotonic() - current.started,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._state.commit(record, best, states)
        return record

    def _current(self) -> _Round:
        if self._round is None:
            raise CampaignError(f"Group {self.group.name} has no round under way")
        return self._round

    def _attempt(self, current: _Round) -> Attempt:
        if current.attempt is None:
            raise CampaignError(f"Round {current.context.server_round} of {self.group.name} has no attempt")
        return current.attempt

    def _phase(self, current: _Round) -> Phase:
        phase = self._attempt(current).phase
        if phase is None:
            raise CampaignError(f"The attempt of {self.group.name} is over")
        return phase
