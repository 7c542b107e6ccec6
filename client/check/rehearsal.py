"""A dry round: the site's own training on a few exams, with nothing sent, logged or kept.

Every architecture of the plan's first stage is trained once, by the very function that answers the centre, from
random weights, in a folder that is removed. The plan's times and bytes follow from that.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from client.check.dry_round import Rehearsal, Rehearsed, Sent
from client.data.store import Store
from client.rounds import memory, node
from client.site.site import Site
from common import wire
from common.aggregation.algorithms import algorithm, keeps_state
from common.encodings import sent_weights, update_bytes
from common.errors import DataError
from common.exam import MISSING
from common.messages import MissingWeights, TrainReply, TrainRequest, WeightsRef
from common.methods.rounds import network_rounds, stage_rounds
from common.methods.stages import Stage, stages_of
from common.networks import build
from common.networks.build import initial_weights
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec
from common.sections.methods import StageSettings
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.inputs import training_exams, validation_exams

EXAMS = 16
STEPS = 3
"""Of the longer of two runs; the shorter has one."""
REPEATS = 2
"""Of each run, of which the faster counts: what else runs on the machine only ever slows."""
SLOW_S = 10.0
"""A network whose first step takes longer is not asked for another: that step's time counts, a little too long."""
SCORING_SHARE = 1 / 3
"""Of a training step's time that the same exams take to be scored: no backward pass."""
RUN = "0" * 32
PREFIX = ".rehearsal-"
LEFT_S = 3600.0
"""A folder so old is of a dry round that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rehearsing:
    """The site in another folder and with few exams; what may leave is still up to its policy."""

    site: Site
    few: ExamTensors

    @classmethod
    def of(cls, site: Site, folder: Path, few: ExamTensors) -> _Rehearsing:
        """Its minimum cohort is held against all of the site's patients elsewhere, not against the few."""
        policy = site.policy.model_copy(update={"minimum_cohort": 1})
        elsewhere = Site(folder=folder, file=site.file.model_copy(update={"policy": policy}))
        return cls(site=elsewhere, few=few)


def rehearse(
    site: Site, settings: Settings, store: Store, *, device: torch.device, stage: Stage | None = None
) -> Rehearsal:
    """Train one network of each architecture of a stage for a few steps.

    Args:
        site: whose policy says what may leave.
        settings: the plan.
        store: of all its exams.
        device: where to train.
        stage: of the plan; ``None``: its first.

    Raises:
        DataError: if no exam is for training.
        MemoryLimitError: if the device has too little memory.
        ConfigurationError: if the plan names a method that is not installed.
    """
    stage = stage or first_stage(settings)
    few = replace(store.tensors, fold=_few(store))
    alike: dict[object, list[NetworkSpec]] = {}
    for spec in stage.networks:
        alike.setdefault((spec.shape, spec.images, spec.training), []).append(spec)
    _clear(site.folder)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=site.folder) as folder:
        rehearsing = _Rehearsing.of(site, Path(folder), few)
        shapes = tuple(
            _rehearsed(rehearsing, site, settings, store, members, device=device)
            for members in alike.values()
        )
    return Rehearsal(
        stage=stage.name,
        rounds=stage_rounds(stage.networks, settings),
        exams=int((few.fold != MISSING).sum()),
        device=str(device),
        shapes=shapes,
    )


def first_stage(settings: Settings) -> Stage:
    """What a campaign begins with.

    Raises:
        ConfigurationError: if there is no such method.
    """
    return next(iter(stages_of(settings)))


def _clear(folder: Path) -> None:
    """Remove what killed dry rounds left behind."""
    for left in folder.glob(f"{PREFIX}*"):
        if time.time() - left.stat().st_mtime > LEFT_S:
            shutil.rmtree(left, ignore_errors=True)


def _few(store: Store) -> torch.Tensor:
    """The folds with all but a few exams held out: of each combination of grades in turn, other patients first.

    Exams that nobody graded, which only puzzles learn from, stand in where there are no others.
    """
    data = store.tensors
    grades = [values.tolist() for values in data.grades.values()]
    training = data.fold != MISSING
    graded = training & data.graded
    queues: dict[tuple[int, ...], list[int]] = {}
    for exam in torch.nonzero(graded if graded.any() else training).flatten().tolist():
        queues.setdefault(tuple(column[exam] for column in grades), []).append(exam)
    if not queues:
        raise DataError(
            "Expected exams for training, all are held out for tests: look at the manifest's split"
        )
    chosen: list[int] = []
    while len(chosen) < EXAMS and any(queues.values()):
        chosen += [queue.pop(0) for _, queue in sorted(queues.items()) if queue]
    kept = torch.full_like(data.fold, MISSING)
    kept[chosen[:EXAMS]] = data.fold[chosen[:EXAMS]]
    return kept


def _rehearsed(
    rehearsing: _Rehearsing,
    site: Site,
    settings: Settings,
    store: Store,
    members: Sequence[NetworkSpec],
    *,
    device: torch.device,
) -> Rehearsed:
    spec = members[0]
    request = _request(spec, settings)
    step_s, other_s, reply = _timed(rehearsing, request, settings, device)
    learnt = reply.networks[spec.name].num_examples > 0
    packed = wire.encode(_withheld(reply, spec, site, store), encoding=request.encoding)
    return Rehearsed(
        network=spec.name,
        networks=len(members),
        seconds=other_s + _steps(spec, settings, site, store) * step_s if learnt else math.nan,
        up_bytes=wire.contents(packed).size_bytes,
        down_bytes=wire.contents(wire.encode(replace(request, attached={}))).size_bytes,
        sent=tuple(_sent(packed)),
        tensors=build.layout(spec, settings.network).entries,
    )


def _steps(spec: NetworkSpec, settings: Settings, site: Site, store: Store) -> float:
    """How many of the measured steps a round takes, scoring included."""
    training = spec.training or settings.training
    scored = len(validation_exams(store.tensors, spec)) if site.policy.permits("score_histograms") else 0
    if training.sampling != "all":
        return training.local_steps + SCORING_SHARE * scored / training.batch_size
    exams = len(training_exams(store.tensors, spec))  # the measured steps had the few
    return (training.local_steps * exams + SCORING_SHARE * scored) / min(EXAMS, exams)


def _withheld(reply: TrainReply, spec: NetworkSpec, site: Site, store: Store) -> TrainReply:
    """The reply without the histograms that too few patients of the whole site stand behind."""
    patients = store.tensors.patient[validation_exams(store.tensors, spec)].unique()
    if len(patients) >= site.policy.minimum_cohort:
        return reply
    networks = {name: replace(one, histograms=None) for name, one in reply.networks.items()}
    return replace(reply, networks=networks)


def campaign_up_bytes(settings: Settings) -> int:
    """About what a site sends in a whole campaign, histograms left out; nothing is allocated for it."""
    further = 4 * len(algorithm(settings.federation).sent)
    total = 0
    for stage in stages_of(settings):
        for spec in stage.networks:
            layout = build.layout(spec, settings.network)
            a_round = update_bytes(
                settings.federation.encoding, size=layout.size, trained=layout.trained_size
            )
            a_round += further * layout.trained_size
            total += a_round * network_rounds(spec, settings)
    return total


def _timed(
    rehearsing: _Rehearsing, request: TrainRequest, settings: Settings, device: torch.device
) -> tuple[float, float, TrainReply]:
    """Seconds of a step, seconds of all else in a round, and the reply."""
    short, long = _with_steps(settings, 1), _with_steps(settings, STEPS)
    first_s, reply = _trained(
        rehearsing, request, short, device
    )  # builds the network and touches the pictures
    if first_s > SLOW_S:
        return first_s, 0.0, reply
    one_s, _ = _fastest(rehearsing, request, short, device)
    more_s, reply = _fastest(rehearsing, request, long, device)
    step_s = max(0.0, (more_s - one_s) / (STEPS - 1))
    return step_s, max(0.0, one_s - step_s), reply


def _fastest(
    rehearsing: _Rehearsing, request: TrainRequest, settings: Settings, device: torch.device
) -> tuple[float, TrainReply]:
    runs = [_trained(rehearsing, request, settings, device) for _ in range(REPEATS)]
    return min(runs, key=lambda run: run[0])


def _trained(
    rehearsing: _Rehearsing, request: TrainRequest, settings: Settings, device: torch.device
) -> tuple[float, TrainReply]:
    def work(where: torch.device, share: int) -> TrainReply | MissingWeights:
        return node.train(rehearsing.site, request, settings, device=where, share=share, data=rehearsing.few)

    began = time.perf_counter()
    reply = memory.within(rehearsing.site, device, work)
    took = time.perf_counter() - began
    assert isinstance(reply, TrainReply), "all frozen weights are attached"
    return took, reply


def _with_steps(settings: Settings, steps: int) -> Settings:
    """The plan with few local steps; the centre's request would not pass with it, this one never leaves."""

    def changed(stage: StageSettings) -> StageSettings:
        return stage.model_copy(update={"local_steps": steps})

    rating = settings.rating.model_copy(
        update={"jigsaw": changed(settings.rating.jigsaw), "head": changed(settings.rating.head)}
    )
    training = settings.training.model_copy(update={"local_steps": steps})
    return settings.model_copy(update={"training": training, "rating": rating})


def _request(spec: NetworkSpec, settings: Settings) -> TrainRequest:
    """A first round's, from random weights."""
    layout: Layout = build.layout(spec, settings.network)
    federated = algorithm(settings.federation)
    weights = sent_weights(
        initial_weights(spec, settings.network, seed=0).numpy(),
        settings.federation.encoding,
        trained=layout.trained_size,
    )
    sent = federated.broadcast(federated.init(weights, layout))
    frozen, attached = {}, {}
    for piece in spec.frozen:
        size = build.part_layout(spec, settings.network, piece.part).size
        values = torch.randn(size, generator=torch.Generator().manual_seed(0)).mul_(0.05).abs_().numpy()
        frozen[piece.part] = WeightsRef.of(values)
        attached[frozen[piece.part].hash] = values
    return TrainRequest(
        campaign=settings.name,
        plan_hash=settings.plan_hash(),
        request_id="rehearsal",
        group="rehearsal",
        server_round=1,
        encoding=settings.federation.encoding,
        weights={spec.name: weights},
        layouts={spec.name: layout.hash},
        frozen={spec.name: frozen},
        attached=attached,
        extra={spec.name: {name: values for name, values in sent.items() if name != "weights"}},
        run=RUN if keeps_state(federated, settings.federation) else "",
    )


def _sent(packed: RecordDict) -> Iterator[Sent]:
    for part, record in packed.items():
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                size = len(array.data)
                yield Sent(part=part, name=name, shape=tuple(array.shape), dtype=array.dtype, size_bytes=size)
        elif isinstance(record, ConfigRecord):
            for name, value in record.items():
                values = value if isinstance(value, list) else [value]
                size = sum(len(str(one).encode()) if isinstance(one, str) else 8 for one in values)
                kind = type(values[0]).__name__ if values else ""
                yield Sent(part=part, name=name, shape=(len(values),), dtype=kind, size_bytes=size)
