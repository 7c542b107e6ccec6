"""The rounds of one group: what to ask the sites next, what to make of their replies."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from common.aggregation.algorithms import FederatedAlgorithm, ServerState
from common.aggregation.mean import Weighted, weighted_mean
from common.errors import CampaignError, UpdateError
from common.evaluation.histograms import BINS, ScoreHistograms
from common.messages import (
    MissingWeights,
    NetworkReply,
    Refusal,
    TrainReply,
    TrainRequest,
    Weights,
    WeightsRef,
)
from common.methods.stages import NetworkResult
from common.settings import Settings
from server.groups import Group
from server.journal import Best, Entry, Journal, RoundRecord
from server.network_files import TrainedNetwork
from server.spool import Spool, SpooledUpdate
from server.weights import StartWeights

NO_HISTOGRAMS_THRESHOLD = 0.5
"""The bit's threshold where no site permits histograms of scores; then the last round is the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accepted:
    """What stays in memory of an accepted reply: numbers, not weights."""

    updates: Mapping[str, SpooledUpdate]
    num_examples: Mapping[str, int]
    losses: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class _Round:
    """A round that is under way."""

    server_round: int
    request_id: str
    started: float
    waiting: set[str]
    accepted: dict[str, _Accepted] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    supplied: set[str] = field(default_factory=set)
    histograms: dict[str, ScoreHistograms] = field(default_factory=dict)


class GroupRounds:
    """One group from its journal's last round to its selected weights.

    ``request`` -> ``accept`` or ``drop`` once a site -> ``close``, until ``done``. Round ``rounds + 1`` trains
    nothing: it scores the final weights, so that the last round can be selected too.
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
        spool: Spool,
    ) -> None:
        self.group = group
        self._settings = settings
        self._campaign = campaign
        self._plan_hash = settings.plan_hash()
        self._sites = tuple(sites)
        self._algorithm = algorithm
        self._journal = journal
        self._spool = spool
        self._round: _Round | None = None
        self._rounds = group.networks[0].rounds or settings.federation.rounds
        self._start = start
        self._frozen: dict[str, dict[str, WeightsRef]] = {}
        self._entry = journal.last(plan_hash=self._plan_hash) or Entry(
            plan_hash=self._plan_hash, server_round=0
        )
        self._states: dict[str, ServerState] = {}  # in memory only while the group is in flight

    @property
    def done(self) -> bool:
        """Whether the final weights have been scored."""
        return self._entry.server_round > self._rounds

    @property
    def rounds(self) -> int:
        """All rounds, with the one that scores."""
        return self._rounds + 1

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """All committed rounds."""
        return self._entry.records

    @property
    def waiting(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None

    @property
    def complete(self) -> bool:
        """Whether every site of the round has answered or was dropped."""
        return self._round is not None and not self._round.waiting

    @property
    def overdue(self) -> bool:
        """Whether the round's deadline has passed."""
        deadline_s = self._settings.federation.deadline_s
        return self._round is not None and time.monotonic() - self._round.started > deadline_s

    def request(self) -> TrainRequest:
        """Begin the next round: the request that goes to every site."""
        self._load()
        server_round = self._entry.server_round + 1
        text = f"{self._campaign}/{self._plan_hash}/{self.group.name}/{server_round}"
        request_id = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._round = _Round(
            server_round=server_round,
            request_id=request_id,
            started=time.monotonic(),
            waiting=set(self._sites),
        )
        self._spool.clear()
        return self._request({})

    def request_with(self, missing: MissingWeights, *, site: str) -> TrainRequest:
        """The same request once more, for a site whose cache lacks weights, with these attached.

        Raises:
            UpdateError: if the request does not refer to them, or the site was sent weights in this round before.
        """
        current = self._current()
        places = {ref.hash: (n, part) for n, parts in self._frozen.items() for part, ref in parts.items()}
        strays = sorted(set(missing.hashes) - set(places))
        if missing.request_id != current.request_id or strays or site in current.supplied:
            raise UpdateError(f"Expected {site} to ask once for weights of its request")
        current.supplied.add(site)
        asked: dict[str, set[str]] = {}
        for name, part in (places[digest] for digest in missing.hashes):
            asked.setdefault(name, set()).add(part)
        return self._request(
            {
                WeightsRef.of(weights).hash: weights
                for name, parts in asked.items()
                for part, weights in self._start.frozen(self.group.spec(name)).items()
                if part in parts
            }
        )

    def _request(self, attached: Mapping[str, Weights]) -> TrainRequest:
        current = self._current()
        return TrainRequest(
            campaign=self._campaign,
            plan_hash=self._plan_hash,
            request_id=current.request_id,
            group=self.group.name,
            server_round=current.server_round,
            encoding=self._settings.federation.encoding,
            weights={name: self._algorithm.broadcast(state) for name, state in self._states.items()},
            layouts={name: layout.hash for name, layout in self.group.layouts.items()},
            frozen=self._frozen,
            attached=attached,
        )

    def accept(self, site: str, reply: TrainReply | Refusal) -> None:
        """Take one site's answer; a malformed, non-finite, late or second one is dropped with its reason."""
        current = self._current()
        if site not in current.waiting:
            return  # a second reply to one request changes nothing
        if isinstance(reply, Refusal):
            self.drop(site, f"refused: {reply.code}")
            return
        try:
            self._check(reply, site=site)
        except UpdateError as error:
            self.drop(site, str(error))
            return
        current.waiting.discard(site)
        networks = reply.networks
        current.accepted[site] = _Accepted(
            updates=self._spool.write(
                self._sites.index(site),
                {name: r.update for name, r in networks.items() if r.update is not None},
            ),
            num_examples={name: r.num_examples for name, r in networks.items()},
            losses={name: r.loss for name, r in networks.items()},
        )
        for name, network in networks.items():
            if network.histograms is not None:
                new = ScoreHistograms(counts=network.histograms)
                seen = current.histograms.get(name)
                current.histograms[name] = new if seen is None else seen + new

    def drop(self, site: str, reason: str) -> None:
        """Go on without a site in this round."""
        current = self._current()
        if site in current.waiting:
            current.waiting.discard(site)
            current.dropped[site] = reason

    def close(self) -> RoundRecord:
        """Aggregate in the order of the sites and commit the round to the journal.

        Raises:
            CampaignError: if fewer sites than the quorum answered.
        """
        current = self._current()
        for site in sorted(current.waiting):
            self.drop(site, f"no reply within {self._settings.federation.deadline_s:g} s")
        self._check_quorum(current)
        if current.server_round <= self._rounds:
            self._states = {name: self._aggregate(name, current) for name in self._states}
        best = {name: self._select(name, current) for name in self._states}
        record = self._record(current)
        self._entry = self._entry.with_round(record, best)
        weights = {name: state.weights for name, state in self._states.items()}
        self._journal.write(self._entry, weights)
        self._spool.clear()
        self._round = None
        if self.done:
            self._states = {}
        return record

    def results(self) -> Iterator[TrainedNetwork]:
        """Each network with its selected weights, once :attr:`done`."""
        kept = {
            server_round: self._journal.weights(server_round)
            for server_round in {best.server_round for best in self._entry.best.values()}
        }
        for name, best in self._entry.best.items():
            yield TrainedNetwork(
                spec=self.group.spec(name),
                result=NetworkResult(best_round=best.server_round, auc=best.auc, threshold=best.threshold),
                weights=kept[best.server_round][name],
            )

    def _load(self) -> None:
        if self._states:
            return
        if self._entry.server_round == 0:
            start = {spec.name: self._start.start(spec) for spec in self.group.networks}
            self._journal.write(self._entry, start)
        self._frozen = {
            spec.name: {part: WeightsRef.of(w) for part, w in self._start.frozen(spec).items()}
            for spec in self.group.networks
            if spec.frozen
        }
        weights = self._journal.weights(self._entry.server_round)
        self._states = {name: self._algorithm.init(values) for name, values in weights.items()}

    def _current(self) -> _Round:
        if self._round is None:
            raise CampaignError(f"Group {self.group.name} has no round under way")
        return self._round

    def _check(self, reply: TrainReply, *, site: str) -> None:
        current = self._current()
        if reply.request_id != current.request_id or reply.site != site:
            raise UpdateError(f"Expected the reply of {site} to request {current.request_id}, got another's")
        if set(reply.networks) != set(self.group.layouts):
            raise UpdateError(
                f"Expected updates of {sorted(self.group.layouts)}, got {sorted(reply.networks)}"
            )
        for name, network in reply.networks.items():
            size, classes = self.group.layouts[name].size, self.group.spec(name).target.classes
            _check_network(name, network, size=size, classes=classes)

    def _check_quorum(self, current: _Round) -> None:
        quorum = self._settings.federation.quorum
        needed = len(self._sites) if quorum == "all" else min(quorum, len(self._sites))
        if len(current.accepted) < needed:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(current.dropped.items()))
            raise CampaignError(
                f"Round {current.server_round} of {self.group.name}: expected replies of {needed} of "
                f"{len(self._sites)} sites, got {len(current.accepted)} ({reasons}). Resume when the sites are "
                f"back, or lower federation.quorum"
            )

    def _aggregate(self, name: str, current: _Round) -> ServerState:
        updates = [
            Weighted(source=reply.updates[name], num_examples=reply.num_examples[name])
            for site in self._sites
            if (reply := current.accepted.get(site)) is not None and name in reply.updates
        ]
        mean = weighted_mean(updates, size=self.group.layouts[name].size)
        return self._algorithm.aggregate(self._states[name], mean)

    def _select(self, name: str, current: _Round) -> Best:
        """The better of the best so far and the weights that were sent in this round."""
        scored_round = current.server_round - 1
        so_far = self._entry.best.get(name)
        histograms = current.histograms.get(name)
        auc = histograms.auc() if histograms is not None else math.nan
        if histograms is None or math.isnan(auc):
            last = Best(server_round=scored_round, auc=math.nan, threshold=NO_HISTOGRAMS_THRESHOLD)
            return last if so_far is None or math.isnan(so_far.auc) else so_far
        if so_far is not None and so_far.auc >= auc:
            return so_far
        return Best(server_round=scored_round, auc=auc, threshold=histograms.youden_threshold())

    def _record(self, current: _Round) -> RoundRecord:
        aucs = [histograms.auc() for histograms in current.histograms.values()]
        counted = [
            (reply.num_examples[name], loss)
            for reply in current.accepted.values()
            for name, loss in reply.losses.items()
            if not math.isnan(loss)
        ]
        total = sum(count for count, _ in counted)
        return RoundRecord(
            stage=self.group.stage,
            group=self.group.name,
            round=current.server_round,
            loss=sum(count * loss for count, loss in counted) / total if total else math.nan,
            auc=float(np.nanmean(aucs)) if aucs and not np.isnan(aucs).all() else math.nan,
            participants=tuple(site for site in self._sites if site in current.accepted),
            dropped=dict(current.dropped),
            seconds=time.monotonic() - current.started,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )


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
