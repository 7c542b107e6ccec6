"""The weights that a site may use instead of the common ones: norms of its own, layers trained further, a mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.ensemble.trained import TrainedNetwork
from common.ensemble.validation import Answers, brier, exams_of_fold
from common.errors import UpdateError
from common.networks import build
from common.networks.layout import norm_positions
from common.networks.spec import NetworkSpec, Piece
from common.sections.evaluation import PersonalSettings
from common.sections.networks import NetworkSettings
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local import score, train_network
from common.training.local_settings import CPU, LocalSettings, local_settings
from common.training.seeds import derive_seed

Flat = Float32[Tensor, " _"]
T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Each(Protocol):
    """``map``, or that of a pool of threads."""

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """Results in the order of the items."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Weights of all networks of one measurement, and what they say of validation patients.

    Attributes:
        weights: network -> its flat weights.
        answers: network -> probabilities for the exams of its fold.
    """

    weights: Mapping[str, Flat]
    answers: Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a site's candidates are made.

    Attributes:
        data: the site's exams.
        settings: of the campaign.
        personal: how layers are trained further.
        site: its name, for seeds.
        norms: network -> the norms that the site kept of it.
        device: where to compute.
        each: runs the work on single networks.
        progress: told when one network was trained to its next check.
    """

    data: ExamTensors
    settings: Settings
    personal: PersonalSettings
    site: str
    norms: Mapping[str, Flat] = field(default_factory=dict)
    device: torch.device = CPU
    each: Each = map
    progress: Callable[[], None] = lambda: None

    def common(self, networks: Sequence[TrainedNetwork]) -> Candidate:
        """The networks as they are."""
        return self._candidate(networks, {n.spec.name: torch.from_numpy(n.weights) for n in networks})

    def candidates(
        self, networks: Sequence[TrainedNetwork], common: Candidate
    ) -> Iterator[tuple[str, Candidate]]:
        """Each candidate of the settings that there is for these networks, in the settings' order.

        Args:
            networks: of one measurement.
            common: of these.
        """
        network: Candidate | None = None
        for name in self.personal.candidates:
            if name == "norms" and any(n.spec.name in self.norms for n in networks):
                own = {n.spec.name: self._with_norms(n.spec, common.weights[n.spec.name]) for n in networks}
                yield name, self._candidate(networks, own)
            elif name in ("head", "network"):
                trained = self._further(networks, common, head_only if name == "head" else _as_it_is)
                network = trained if name == "network" else network
                yield name, trained
            elif name == "mean" and network is not None:
                mean = {key: (common.weights[key] + network.weights[key]) / 2 for key in common.weights}
                yield name, self._candidate(networks, mean)

    def _candidate(self, networks: Sequence[TrainedNetwork], weights: Mapping[str, Flat]) -> Candidate:
        def answered(network: TrainedNetwork) -> Float32[np.ndarray, "_ classes"]:
            local = local_settings(network.spec, self.settings, device=self.device)
            return self.asked(weights[network.spec.name], local)

        names = [network.spec.name for network in networks]
        return Candidate(
            weights=weights, answers=dict(zip(names, self.each(answered, networks), strict=True))
        )

    def asked(self, weights: Flat, local: LocalSettings) -> Float32[np.ndarray, "_ classes"]:
        """What a network says of the exams of its fold."""
        return score(weights, self.data, exams_of_fold(self.data, local.spec), local).numpy()

    def _with_norms(self, spec: NetworkSpec, weights: Flat) -> Flat:
        if spec.name not in self.norms:
            return weights
        module = build.described(spec, self.settings.network)
        places = norm_positions(module, build.layout(spec, self.settings.network))
        if self.norms[spec.name].shape != places.shape:
            raise UpdateError(
                f"Expected {len(places)} values of norms of {spec.name}, got {tuple(self.norms[spec.name].shape)}"
            )
        return weights.index_copy(0, places, self.norms[spec.name])

    def _further(
        self,
        networks: Sequence[TrainedNetwork],
        common: Candidate,
        trained_part: Callable[[NetworkSpec, NetworkSettings], NetworkSpec],
    ) -> Candidate:
        """Trained further on the folds that each was trained on; stopped where all together are best."""
        specs = [network.spec for network in networks]
        runs = [
            _Run.begun(trained_part(spec, self.settings.network), common.weights[spec.name], self)
            for spec in specs
        ]
        best, least = common, np.inf
        for check in range(1, self.personal.checks + 1):
            runs = list(self.each(partial(_Run.on, bench=self, check=check), runs))
            answers = {run.local.spec.name: run.answers for run in runs}
            loss = float(brier(specs, answers, self.data)[0].sum())
            if loss < least:
                whole = {run.local.spec.name: run.whole(self.settings.network) for run in runs}
                best, least = Candidate(weights=whole, answers=answers), loss
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One network on its way."""

    local: LocalSettings
    weights: Flat
    state: Mapping[str, Tensor]
    answers: Float32[np.ndarray, "_ classes"]

    @classmethod
    def begun(cls, spec: NetworkSpec, whole: Flat, bench: Bench) -> _Run:
        personal = bench.personal
        weights, frozen = build.split(spec, bench.settings.network, whole)
        local = local_settings(spec, bench.settings, device=bench.device, frozen=frozen)
        slower = {
            "learning_rate": personal.learning_rate_share * bench.settings.training.learning_rate,
            "local_steps": -(-personal.steps // personal.checks),
        }
        training = local.training.model_copy(update=slower)
        local = replace(local, training=training, rounds=personal.checks)
        nothing = np.empty((0, spec.target.answers), dtype=np.float32)
        return cls(local=local, weights=weights, state={}, answers=nothing)

    def on(self, bench: Bench, check: int) -> _Run:
        """Trained to the next check, and asked there."""
        seed = derive_seed(bench.settings.seed, bench.site, "personal", self.local.spec.identity, check)
        answer, state = train_network(self.weights, self.state, bench.data, self.local, check, seed)
        weights = self.weights + answer.update
        asked = bench.asked(weights, self.local)
        bench.progress()
        return replace(self, weights=weights, state=state, answers=asked)

    def whole(self, settings: NetworkSettings) -> Flat:
        """Trained and frozen parts, each in its place."""
        return build.joined(self.local.spec, settings, self.weights, self.local.frozen)


def head_only(spec: NetworkSpec, settings: NetworkSettings) -> NetworkSpec:
    """The same network, of which the last layers alone train."""
    children = build.described(spec, settings).named_children()
    frozen = [name for name, child in children if name != "head" and any(True for _ in child.parameters())]
    pieces = tuple(Piece(part=name, network=None, frozen=True) for name in frozen)
    return spec.model_copy(update={"pieces": pieces})


def _as_it_is(spec: NetworkSpec, settings: NetworkSettings) -> NetworkSpec:
    del settings
    return spec
