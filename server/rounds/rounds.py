"""The rounds of one group: what to ask the sites next, what to make of their replies."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from common.aggregation import rules
from common.aggregation.algorithms import FederatedAlgorithm, ServerState, keeps_state
from common.aggregation.federated import UPDATE, check_sent
from common.aggregation.mean import Weighted
from common.aggregation.outliers import outlying, update_norm
from common.ensemble.stacked_regression import NormalSums
from common.errors import BudgetError, CampaignError, UpdateError
from common.evaluation.histograms import BINS, ScoreHistograms
from common.machine.network_files import TrainedNetwork
from common.messages import (
    MissingWeights,
    NetworkReply,
    Refusal,
    RoundReply,
    TrainReply,
    TrainRequest,
    Weights,
)
from common.methods.groups import Group
from common.settings import Settings
from common.training.trainable import hopeless
from server.rounds import stacking
from server.rounds.group_state import GroupState
from server.rounds.journal import Journal, RoundRecord
from server.rounds.quorum import NOTHING, nothing_trained
from server.rounds.spool import Spool, SpooledUpdate
from server.rounds.weights import StartWeights

REFUSED = "refused: "


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accepted:
    """What stays in memory of an accepted reply: numbers, not weights.

    Attributes:
        arrays: ``update`` and what else the algorithm sends -> network -> where it lies.
    """

    arrays: Mapping[str, Mapping[str, SpooledUpdate]]
    num_examples: Mapping[str, int]
    losses: Mapping[str, float]
    histograms: Mapping[str, ScoreHistograms]
    stacking: Mapping[str, NormalSums]


@dataclass(slots=True, kw_only=True)
class _Round:
    """A round that is under way."""

    server_round: int
    request_id: str
    started: float
    waiting: set[str]
    accepted: dict[str, _Accepted] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    outlying: dict[str, str] = field(default_factory=dict)
    supplied: set[str] = field(default_factory=set)
    screened: bool = False


class GroupRounds:
    """One group from its journal's last round to its selected weights.

    ``request`` -> ``accept`` or ``drop`` once per site -> ``close``, until ``done``. Round ``rounds + 1`` trains
    nothing: it scores the final weights, so that the last round can be selected too.

    Args:
        sites: who takes part, in the order of aggregation; asked when a round of training begins.
    """

    def __init__(
        self,
        group: Group,
        *,
        settings: Settings,
        campaign: str,
        sites: Callable[[], Sequence[str]],
        start: StartWeights,
        algorithm: FederatedAlgorithm,
        journal: Journal,
        spool: Spool,
        run: str = "",
    ) -> None:
        self.group = group
        self._state = GroupState(group, settings=settings, start=start, algorithm=algorithm, journal=journal)
        self._run = run
        self._rule = rules.rule(settings.federation)
        self._settings = settings
        self._campaign = campaign
        self._plan_hash = settings.plan_hash()
        self._now = sites
        self._sites = tuple(sites())
        self._algorithm = algorithm
        self._spool = spool
        self._round: _Round | None = None
        self._rounds = self._state.rounds

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name

    @property
    def done(self) -> bool:
        """Whether the final weights have been scored."""
        return self._state.entry.server_round > self._rounds

    @property
    def rounds(self) -> int:
        """All rounds, with the one that scores."""
        return self._rounds + 1

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """All committed rounds."""
        return self._state.records

    @property
    def waiting(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None

    @property
    def complete(self) -> bool:
        """Whether every site of the round has answered or was dropped."""
        return self._round is not None and not self._round.waiting

    def request(self) -> TrainRequest:
        """Begin the next round: the request that goes to every site; see :meth:`requests`."""
        self._state.load()
        server_round = self._state.entry.server_round + 1
        text = f"{self._run}/{self._campaign}/{self._plan_hash}/{self.group.name}/{server_round}"
        request_id = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._spool.clear()
        if server_round <= self._rounds:  # whoever trained scores
            self._sites = tuple(self._now())
        self._round = _Round(
            server_round=server_round,
            request_id=request_id,
            started=time.monotonic(),
            waiting=set(self._sites),
        )
        return self._request({})

    def requests(self) -> list[tuple[TrainRequest, tuple[str, ...]]]:
        """Begin the next round: what to ask which sites.

        One request goes to all, unless sites keep state and some have missed a round.
        """
        request = self.request()
        sites_at: dict[int, list[str]] = {}
        for site in self._sites:
            sites_at.setdefault(self._state_of(site), []).append(site)
        return [(replace(request, state_round=at), tuple(sites)) for at, sites in sorted(sites_at.items())]

    def _state_of(self, site: str) -> int:
        """The last round of training in which a site's reply was used, if it keeps anything from there; else 0."""
        if not keeps_state(self._algorithm, self._settings.federation):
            return 0
        counted = (
            r.round for r in reversed(self.records) if r.round <= self._rounds and site in r.participants
        )
        return next(counted, 0)

    def request_again(self, site: str) -> TrainRequest:
        """The request that a site got in this round, for a site that has not answered it."""
        self._current().supplied.discard(site)
        return replace(self._request({}), state_round=self._state_of(site))

    def request_with(self, missing: MissingWeights, *, site: str) -> TrainRequest:
        """The same request once more, for a site whose cache lacks weights, with these attached.

        Raises:
            UpdateError: if the request does not refer to them, or the site was sent weights in this round before.
        """
        current = self._current()
        if missing.request_id != current.request_id or site in current.supplied:
            raise UpdateError(f"Expected {site} to ask once for weights of its request")
        attached = self._state.attached(missing.hashes, site=site)
        current.supplied.add(site)
        return replace(self._request(attached), state_round=self._state_of(site))

    def _request(self, attached: Mapping[str, Weights]) -> TrainRequest:
        current = self._current()
        return self._state.request(
            campaign=self._campaign,
            request_id=current.request_id,
            server_round=current.server_round,
            run=self._run,
            attached=attached,
        )

    def accept(self, site: str, reply: RoundReply | Refusal) -> None:
        """Take one site's answer; a malformed, non-finite, late or second one is dropped with its reason."""
        current = self._current()
        if site not in current.waiting:
            return  # a second reply to one request changes nothing
        if isinstance(reply, Refusal):
            self.drop(site, REFUSED + reply.code)
            return
        try:
            if not isinstance(reply, TrainReply):
                raise UpdateError(f"Expected what {site} trained, got a phase of a secure sum")
            self._check(reply, site=site)
            scores = current.server_round > self._rounds
            sums = stacking.read(reply, self.group, self._settings, scores=scores)
        except UpdateError as error:
            self.drop(site, str(error))
            return
        current.waiting.discard(site)
        networks = reply.networks
        current.accepted[site] = _Accepted(
            arrays=self._spool.write(self._sites.index(site), _arrays(networks)),
            num_examples={name: r.num_examples for name, r in networks.items()},
            losses={name: r.loss for name, r in networks.items()},
            histograms={
                name: ScoreHistograms(counts=r.histograms)
                for name, r in networks.items()
                if r.histograms is not None
            },
            stacking=sums,
        )

    def drop(self, site: str, reason: str) -> None:
        """Go on without a site in this round."""
        current = self._current()
        if site in current.waiting:
            current.waiting.discard(site)
            current.dropped[site] = reason

    def close(self) -> RoundRecord:
        """Aggregate in the order of the sites and commit the round to the journal.

        Nothing has happened where it fails: it can be closed again.

        Raises:
            CampaignError: if fewer sites than the quorum trained, or no site can train one of the networks.
            BudgetError: if that is because of their patients' privacy budget alone.
            OSError: if the journal cannot be written.
        """
        current = self._current()
        self._look_for_outliers(current)
        self._check_trained(current)
        self._check_quorum(current)
        states: Mapping[str, ServerState] = self._state.states
        if current.server_round <= self._rounds:
            states = {name: self._aggregate(name, current) for name in states}
        histograms = _added_up(current.accepted.values())
        best = {
            name: self._state.best(name, current.server_round - 1, histograms.get(name)) for name in states
        }
        record = self._record(current, histograms)
        sums = [(site, current.accepted[site].stacking) for site in self._sites if site in current.accepted]
        self._state.commit(record, best, states, stacking.added(sums))
        self._round = None
        self._spool.clear()
        return record

    def results(self) -> Iterator[TrainedNetwork]:
        """Each network with its selected weights, once :attr:`done`."""
        return self._state.results()

    def _current(self) -> _Round:
        if self._round is None:
            raise CampaignError(f"Group {self.group.name} has no round under way")
        return self._round

    def _check(self, reply: TrainReply, *, site: str) -> None:
        current = self._current()
        if reply.request_id != current.request_id or reply.site != site:
            raise UpdateError(
                f"Expected the reply of {site} to request {current.request_id}, got a reply to a different one"
            )
        if set(reply.networks) != set(self.group.layouts):
            raise UpdateError(
                f"Expected updates of {sorted(self.group.layouts)}, got {sorted(reply.networks)}"
            )
        for name, network in reply.networks.items():
            layout, classes = self.group.layouts[name], self.group.spec(name).target.classes
            _check_network(name, network, size=layout.size, classes=classes)
            if network.update is not None:
                check_sent(network.extra, self._algorithm, trained=layout.trained_size)

    def _look_for_outliers(self, current: _Round) -> None:
        federation = self._settings.federation
        if federation.outliers == "off" or current.screened:
            return
        current.screened = True
        for name, layout in self.group.layouts.items():
            norms = {
                site: update_norm(update, size=layout.trained_size)
                for site, reply in current.accepted.items()
                if reply.num_examples[name] > 0 and (update := reply.arrays[UPDATE].get(name)) is not None
            }
            found = outlying(norms, tolerance=federation.outlier_tolerance)
            current.outlying |= {site: f"{name}: {reason}" for site, reason in found.items()}
        if federation.outliers == "refuse":
            for site, reason in current.outlying.items():
                del current.accepted[site]
                current.dropped[site] = reason
            current.outlying.clear()

    def _idle(self, current: _Round) -> list[str]:
        """Sites that answered but had nothing to train; of the round that scores, those of the round before."""
        if current.server_round > self._rounds:
            before = {site for site, reason in self.records[-1].dropped.items() if reason == NOTHING}
            return [site for site in self._sites if site in current.accepted and site in before]
        accepted = current.accepted
        return [
            site for site in self._sites if site in accepted and not any(accepted[site].num_examples.values())
        ]

    def _untrained(self, current: _Round) -> tuple[str, ...]:
        """Networks that no site had a training example for in this round."""
        if current.server_round > self._rounds:
            return ()
        accepted = current.accepted.values()
        return tuple(n for n in self.group.layouts if not any(reply.num_examples[n] for reply in accepted))

    def _check_trained(self, current: _Round) -> None:
        """What nobody can train ends the campaign: once every site has answered, or after the last round."""
        never = set(self._untrained(current)).intersection(*(record.untrained for record in self.records))
        everybody = len(current.accepted) == len(self._sites)
        if never and current.accepted and (everybody or current.server_round == self._rounds):
            untrained = hopeless(self.group.networks, set(self.group.layouts) - never)
            if untrained:
                raise nothing_trained(untrained, where=f"Round {current.server_round} of {self.group.name}")

    def _check_quorum(self, current: _Round) -> None:
        """With ``"all"`` every site must answer; with a number, that many sites must train."""
        federation = self._settings.federation
        needed = federation.needed(len(self._sites))
        idle = [] if federation.quorum == "all" else self._idle(current)
        if len(current.accepted) - len(idle) < needed:
            dropped = current.dropped | dict.fromkeys(idle, NOTHING)
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(dropped.items()))
            spent = set(current.dropped.values()) == {REFUSED + BudgetError.code}
            raise (BudgetError if spent else CampaignError)(
                f"Round {current.server_round} of {self.group.name}: expected replies of {needed} of "
                f"{len(self._sites)} sites, got {len(current.accepted) - len(idle)} ({reasons}). "
                f"{self._advice(current)}"
            )

    def _advice(self, current: _Round) -> str:
        refused = sorted(site for site, reason in current.dropped.items() if reason.startswith(REFUSED))
        if refused:
            named = ", ".join(refused)
            return f"The log of {named} says why (log.txt in the site's folder): mend it there, then resume"
        if self._idle(current):
            return "Begin anew without the sites that cannot train, or with a lower federation.quorum"
        return "Resume when the sites are back, or begin anew with a lower federation.quorum"

    def _aggregate(self, name: str, current: _Round) -> ServerState:
        layout, state = self.group.layouts[name], self._state.states[name]
        sizes = {UPDATE: layout.size} | dict.fromkeys(self._algorithm.sent, layout.trained_size)
        return self._algorithm.aggregate(
            state,
            {kind: self._rule(self._sent(kind, name, current), size=size) for kind, size in sizes.items()},
            participation=sum(reply.num_examples[name] > 0 for reply in current.accepted.values())
            / len(self._sites),
        )

    def _sent(self, kind: str, name: str, current: _Round) -> list[Weighted]:
        """One array of one network from every site that sent it, in the order of the sites."""
        return [
            Weighted(source=reply.arrays[kind][name], num_examples=reply.num_examples[name])
            for site in self._sites
            if (reply := current.accepted.get(site)) is not None and name in reply.arrays.get(kind, {})
        ]

    def _record(self, current: _Round, histograms: Mapping[str, ScoreHistograms]) -> RoundRecord:
        aucs = [of_network.auc() for of_network in histograms.values()]
        counted = [
            (reply.num_examples[name], loss)
            for reply in current.accepted.values()
            for name, loss in reply.losses.items()
            if not math.isnan(loss)
        ]
        total = sum(count for count, _ in counted)
        idle = self._idle(current)
        return RoundRecord(
            stage=self.group.stage,
            group=self.group.name,
            round=current.server_round,
            loss=sum(count * loss for count, loss in counted) / total if total else math.nan,
            auc=float(np.nanmean(aucs)) if aucs and not np.isnan(aucs).all() else math.nan,
            participants=tuple(site for site in self._sites if site in current.accepted and site not in idle),
            dropped=current.dropped | dict.fromkeys(idle, NOTHING),
            seconds=time.monotonic() - current.started,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            outlying=dict(current.outlying),
            untrained=self._untrained(current),
        )


def _arrays(networks: Mapping[str, NetworkReply]) -> dict[str, dict[str, Weights]]:
    """Kind -> network -> values of all that is to be aggregated."""
    arrays: dict[str, dict[str, Weights]] = {UPDATE: {}}
    for name, reply in networks.items():
        if reply.update is not None:
            arrays[UPDATE][name] = reply.update
            for kind, values in reply.extra.items():
                arrays.setdefault(kind, {})[name] = values
    return arrays


def _added_up(replies: Iterable[_Accepted]) -> dict[str, ScoreHistograms]:
    """Each network's histograms over all sites."""
    total: dict[str, ScoreHistograms] = {}
    for reply in replies:
        for name, new in reply.histograms.items():
            total[name] = total[name] + new if name in total else new
    return total


def _check_network(name: str, network: NetworkReply, *, size: int, classes: int) -> None:
    if network.num_examples < 0:
        raise UpdateError(f"Expected num_examples >= 0 for {name}, got {network.num_examples}")
    histograms = network.histograms
    if histograms is not None and (histograms.shape != (classes, BINS) or (histograms < 0).any()):
        raise UpdateError(f"Expected counts >= 0 of shape ({classes}, {BINS}) in the histograms of {name}")
    if network.update is None:
        return
    if network.update.shape != (size,):
        raise UpdateError(f"Expected an update of {size} parameters for {name}, got {network.update.shape}")
    if not np.isfinite(network.update).all():
        raise UpdateError(f"Expected finite numbers in the update of {name}, got NaN or infinity")
