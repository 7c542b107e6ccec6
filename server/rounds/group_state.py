"""Where one group stands: its last committed round, its weights and how they were selected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from common.aggregation.algorithms import FederatedAlgorithm, ServerState
from common.aggregation.federated import WEIGHTS
from common.encodings import sent_weights
from common.errors import UpdateError
from common.evaluation.histograms import ScoreHistograms
from common.machine.network_files import TrainedNetwork
from common.messages import TrainRequest, Weights, WeightsRef
from common.methods.groups import Group
from common.methods.rounds import stage_rounds
from common.methods.stages import NetworkResult
from common.settings import Settings
from server.rounds.journal import Best, Entry, Journal, RoundRecord, SitesSums
from server.rounds.weights import StartWeights

NO_HISTOGRAMS_THRESHOLD = 0.5
"""The bit's threshold where no site permits histograms of scores; then the last round is the best."""


class GroupState:
    """A group between rounds, as its journal has it.

    Args:
        group: the networks.
        settings: of the campaign.
        start: where they start.
        algorithm: what is kept of them beside the weights.
        journal: of the group.

    Attributes:
        group: the networks.
        rounds: of training.
        entry: the last committed round.
        states: of the networks; in memory only while the group is in flight.
        frozen: network -> part -> its weights.
    """

    def __init__(
        self,
        group: Group,
        *,
        settings: Settings,
        start: StartWeights,
        algorithm: FederatedAlgorithm,
        journal: Journal,
    ) -> None:
        self.group = group
        self.rounds = stage_rounds(group.networks, settings)
        self._settings = settings
        self._algorithm = algorithm
        self._journal = journal
        self._start = start
        plan_hash = settings.plan_hash()
        self.entry = journal.last(plan_hash=plan_hash) or Entry(plan_hash=plan_hash, server_round=0)
        self.states: dict[str, ServerState] = {}
        self.frozen: dict[str, dict[str, WeightsRef]] = {}

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """All committed rounds."""
        return self.entry.records

    def load(self) -> None:
        """Take the weights into memory, if they are not there."""
        if self.states:
            return
        if self.entry.server_round == 0:
            self.states = {
                spec.name: self._algorithm.init(self._start.start(spec), self.group.layouts[spec.name])
                for spec in self.group.networks
            }
            self._write(self.entry, self.states)
        else:
            self.states = self._read()
        self.frozen = {
            spec.name: {part: WeightsRef.of(w) for part, w in self._start.frozen(spec).items()}
            for spec in self.group.networks
            if spec.frozen
        }

    def commit(
        self,
        record: RoundRecord,
        best: Mapping[str, Best],
        states: Mapping[str, ServerState],
        stacking: Mapping[str, SitesSums] | None = None,
    ) -> None:
        """Commit a round to the journal.

        Raises:
            OSError: if it cannot be written; nothing has happened then.
        """
        entry = self.entry.with_round(record, best, stacking or {})
        self._write(entry, states)
        self.entry, self.states = entry, {} if entry.server_round > self.rounds else dict(states)

    def best(self, name: str, scored_round: int, histograms: ScoreHistograms | None) -> Best:
        """The better of a network's best round so far and one of which scores have come."""
        so_far = self.entry.best.get(name)
        auc = histograms.auc() if histograms is not None else math.nan
        if histograms is None or math.isnan(auc):
            last = Best(server_round=scored_round, auc=math.nan, threshold=NO_HISTOGRAMS_THRESHOLD)
            return last if so_far is None or math.isnan(so_far.auc) else so_far
        if so_far is not None and so_far.auc >= auc:
            return so_far
        threshold = histograms.threshold(self._settings.federation.threshold)
        counts = tuple(map(tuple, histograms.counts.tolist()))
        return Best(server_round=scored_round, auc=auc, threshold=threshold, histograms=counts)

    def results(self) -> Iterator[TrainedNetwork]:
        """Each network with the weights that sites were sent in its selected round, once all rounds are over."""
        kept = {
            server_round: self._journal.weights(server_round)
            for server_round in {best.server_round for best in self.entry.best.values()}
        }
        for name, best in self.entry.best.items():
            yield TrainedNetwork(
                spec=self.group.spec(name),
                result=NetworkResult(
                    best_round=best.server_round,
                    auc=best.auc,
                    threshold=best.threshold,
                    accuracy=best.accuracy,
                ),
                weights=self._as_sent(name, kept[best.server_round][name]),
            )

    def request(
        self,
        *,
        campaign: str,
        request_id: str,
        server_round: int,
        run: str = "",
        attached: Mapping[str, Weights] | None = None,
    ) -> TrainRequest:
        """What a site is asked to train in a round."""
        sent = {name: dict(self._algorithm.broadcast(state)) for name, state in self.states.items()}
        weights = {name: self._as_sent(name, arrays.pop(WEIGHTS)) for name, arrays in sent.items()}
        return TrainRequest(
            campaign=campaign,
            plan_hash=self.entry.plan_hash,
            request_id=request_id,
            group=self.group.name,
            server_round=server_round,
            encoding=self._settings.federation.encoding,
            weights=weights,
            extra=sent,
            run=run,
            layouts={name: layout.hash for name, layout in self.group.layouts.items()},
            frozen=self.frozen,
            attached=attached or {},
        )

    def attached(self, hashes: Iterable[str], *, site: str) -> dict[str, Weights]:
        """Frozen weights that a site asks for, by hash.

        Raises:
            UpdateError: if a request does not refer to them.
        """
        places = {ref.hash: (n, part) for n, parts in self.frozen.items() for part, ref in parts.items()}
        hashes = tuple(hashes)
        if not set(hashes) <= set(places):
            raise UpdateError(f"Expected {site} to ask for weights of its request")
        asked: dict[str, set[str]] = {}
        for name, part in (places[digest] for digest in hashes):
            asked.setdefault(name, set()).add(part)
        return {
            WeightsRef.of(weights).hash: weights
            for name, parts in asked.items()
            for part, weights in self._start.frozen(self.group.spec(name)).items()
            if part in parts
        }

    def _as_sent(self, name: str, weights: Weights) -> Weights:
        """Weights as sites get and score them, whose scores select the round."""
        trained = self.group.layouts[name].trained_size
        return sent_weights(weights, self._settings.federation.encoding, trained=trained)

    def _write(self, entry: Entry, states: Mapping[str, ServerState]) -> None:
        """Commit a round; what the algorithm keeps beside the weights too, unless no round is left to train."""
        kept = self._algorithm.kept if entry.server_round <= self.rounds else ()
        self._journal.write(
            entry,
            {name: state.weights for name, state in states.items()},
            {name: {key: state.arrays[key] for key in kept} for name, state in states.items() if kept},
        )

    def _read(self) -> dict[str, ServerState]:
        last = self.entry.server_round
        extra = self._journal.extra(last) if self._algorithm.kept else {}
        return {
            name: ServerState(arrays={WEIGHTS: weights, **extra.get(name, {})})
            for name, weights in self._journal.weights(last).items()
        }
