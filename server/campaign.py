"""A campaign: what to train, in which order, over which sites, until it is done or cannot go on."""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common import wire
from common.aggregation import rules
from common.aggregation.algorithms import algorithm
from common.errors import CampaignError, PolicyError, SynofedError, UpdateError, VerificationError
from common.methods.stages import NetworkResult, Stage, method
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.version import VERSION
from server import atomic, groups, network_files, weights
from server.journal import Journal, RoundRecord
from server.library import NetworkLibrary
from server.receipts import Asked, Receipts
from server.rounds import GroupRounds
from server.spool import Spool

HANDSHAKE_S = 600.0


class Status(StrEnum):
    """How a campaign ended."""

    COMPLETE_ALL_SITES = "COMPLETE_ALL_SITES"
    COMPLETE_SUBSET = "COMPLETE_SUBSET"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished campaign.

    Attributes:
        status: never ``FAILED``: then an error is raised.
        sites: the sites that took part, in the order of aggregation.
        missing: site -> rounds in which its update was not used.
        results: by network; the weights are in ``<folder>/networks``.
        reused: of these, networks that were taken from a library.
    """

    status: Status
    sites: tuple[str, ...]
    missing: Mapping[str, int]
    results: Mapping[str, NetworkResult]
    reused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """Told before a stage trains.

    Attributes:
        networks: of the stage.
        reused: networks that another run of the study had trained.
        total: rounds of all groups of the stage.
        done: those that the journal holds already.
    """

    stage: str
    networks: int
    reused: int
    groups: int
    total: int
    done: int


Event = StageStarted | RoundRecord
Observer = Callable[[Event], None]


def run(
    grid: Grid,
    settings: Settings,
    *,
    sites: int,
    folder: Path,
    campaign: str,
    observer: Observer,
    library: NetworkLibrary | None = None,
) -> Outcome:
    """Run a campaign from where its journal stands to its end.

    Args:
        grid: connects to the sites.
        settings: the configuration.
        sites: how many sites take part; the campaign waits until so many are connected.
        folder: holds ``journal/``, ``receipts/``, ``spool/`` and, in the end, ``networks/``.
        campaign: the campaign's name.
        observer: told of every stage and every committed round.
        library: networks that need not be trained again.

    Raises:
        ConfigurationError: if the aggregation rule cannot do with so many sites.
        CampaignError: if a site declines, or a round falls short of its quorum.
        VerificationError: if a site's receipts contradict those of this run before it was interrupted.
    """
    rules.check_sites(settings.federation, sites=sites)
    receipts = Receipts(folder)
    nodes = _handshake(grid, settings, campaign, receipts, sites=sites)
    results: dict[str, NetworkResult] = {}
    records: list[RoundRecord] = []
    specs: dict[str, NetworkSpec] = {}
    all_reused: set[str] = set()
    for stage in method(settings.method).stages(settings, results):
        specs |= {spec.name: spec for spec in stage.networks}
        reused = _reuse(stage, settings, specs, folder, library)
        results |= reused
        all_reused |= set(reused)
        trains = [spec for spec in stage.networks if spec.name not in reused]
        runs = _rounds(settings, stage.name, trains, tuple(nodes), folder=folder, campaign=campaign)
        observer(_started(stage, runs, reused=len(reused)))
        loop = _Loop(grid, nodes, receipts, observer, deadline_s=settings.federation.deadline_s)
        loop.run(runs, in_flight=settings.compute.groups_in_flight)
        for group_rounds in runs:
            records += group_rounds.records
            for network in group_rounds.results():
                network_files.save(folder / "networks", network)
                results[network.spec.name] = network.result
                if library is not None:
                    library.add(network, settings, specs)
    missing = _missing(records, tuple(nodes))
    status = Status.COMPLETE_SUBSET if missing else Status.COMPLETE_ALL_SITES
    return Outcome(
        status=status, sites=tuple(nodes), missing=missing, results=results, reused=frozenset(all_reused)
    )


def _reuse(
    stage: Stage,
    settings: Settings,
    specs: Mapping[str, NetworkSpec],
    folder: Path,
    library: NetworkLibrary | None,
) -> dict[str, NetworkResult]:
    """Networks of a stage that are taken from a library.

    Which these are is decided once, when the stage begins, and written down: after an interruption the same
    networks train in the same groups, whatever the library has got since.
    """
    decided = folder / "journal" / f"{stage.name}.reused.json"
    if decided.exists():
        names = json.loads(decided.read_text(encoding="utf-8"))
        taken = [network_files.load(network_files.path(folder / "networks", name)) for name in names]
    else:
        found = [library.find(spec, settings, specs) for spec in stage.networks] if library else []
        taken = [network for network in found if network is not None]
        for network in taken:
            network_files.save(folder / "networks", network)
    if taken and not decided.exists():
        decided.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(decided, json.dumps([network.spec.name for network in taken]).encode())
    return {network.spec.name: network.result for network in taken}


def _missing(records: Iterable[RoundRecord], sites: tuple[str, ...]) -> dict[str, int]:
    absent = dict.fromkeys(sites, 0)
    for record in records:
        for site in set(sites) - set(record.participants):
            absent[site] += 1
    return {site: rounds for site, rounds in absent.items() if rounds}


def _handshake(
    grid: Grid, settings: Settings, campaign: str, receipts: Receipts, *, sites: int
) -> dict[str, int]:
    """Site name -> node, in the order of the names, of all sites that agree to the plan."""
    request = wire.PlanRequest(
        campaign=campaign,
        request_id=secrets.token_hex(16),
        version=VERSION,
        plan=settings.plan_json(),
        plan_hash=settings.plan_hash(),
    )
    content = wire.encode_plan_request(request)
    timeout_s = min(HANDSHAKE_S, settings.federation.deadline_s)
    nodes = _connected(grid, sites, timeout_s=timeout_s)
    replies = _ask_all(grid, nodes, content, wire.PLAN, timeout_s=timeout_s)
    agreed: dict[str, int] = {}
    for node, reply in replies.items():
        answer = wire.decode_plan_reply(reply.content)
        if isinstance(answer, wire.Refusal):
            raise PolicyError(f"{answer.site} declines the campaign ({answer.code}); its own log says why")
        consent = answer.reply
        if (consent.version, consent.plan_hash) != (VERSION, request.plan_hash):
            raise CampaignError(
                f"{consent.site} runs synofed {consent.version} with plan {consent.plan_hash[:12]}, the centre "
                f"{VERSION} with plan {request.plan_hash[:12]}: bring both to one version"
            )
        if consent.site in agreed:
            raise CampaignError(f"Two sites call themselves {consent.site!r}: names must differ")
        receipts.meet(request, answer)
        agreed[consent.site] = node
    return dict(sorted(agreed.items()))


def _connected(grid: Grid, sites: int, *, timeout_s: float) -> list[int]:
    """The nodes, once as many are connected as there are sites."""
    deadline = time.monotonic() + timeout_s
    while len(nodes := sorted(grid.get_node_ids())) < sites:
        if time.monotonic() > deadline:
            raise CampaignError(
                f"Expected {sites} connected sites within {timeout_s:g} s, found {len(nodes)}"
            )
        time.sleep(0.1)
    return nodes


def _ask_all(
    grid: Grid, nodes: Sequence[int], content: RecordDict, message_type: str, *, timeout_s: float
) -> dict[int, Message]:
    replies = grid.send_and_receive(
        [Message(content, node, message_type, ttl=timeout_s) for node in nodes], timeout=timeout_s
    )
    answered = {reply.metadata.src_node_id: reply for reply in replies}
    silent = [node for node in nodes if node not in answered or answered[node].has_error()]
    if silent:
        raise CampaignError(
            f"Expected an answer of all {len(nodes)} sites, {len(silent)} gave none: nodes {silent}"
        )
    return answered


def _rounds(
    settings: Settings,
    stage: str,
    specs: Sequence[NetworkSpec],
    sites: tuple[str, ...],
    *,
    folder: Path,
    campaign: str,
) -> list[GroupRounds]:
    """A stage's groups, each where its journal stands."""
    packed = groups.pack(
        stage,
        specs,
        weights.layouts(specs, settings),
        group_bytes=settings.federation.group_bytes,
        frozen_bytes=weights.frozen_bytes(specs, settings),
    )
    federated = algorithm(settings.federation)
    run_id = run_name(folder) if federated.keeps_state else ""
    return [
        GroupRounds(
            group,
            settings=settings,
            campaign=campaign,
            sites=sites,
            start=weights.StartWeights(settings, folder / "networks"),
            algorithm=federated,
            journal=Journal(folder / "journal", group.name),
            spool=Spool(folder / "spool", group.name),
            run=run_id,
        )
        for group in packed
    ]


def run_name(folder: Path) -> str:
    """What tells this run's state at the sites from that of any other run of the same plan; drawn once."""
    path = folder / "run.txt"
    if not path.exists():
        atomic.write_bytes(path, secrets.token_hex(16).encode())
    return path.read_text(encoding="utf-8")


def _started(stage: Stage, runs: Sequence[GroupRounds], *, reused: int) -> StageStarted:
    return StageStarted(
        stage=stage.name,
        networks=len(stage.networks),
        reused=reused,
        groups=len(runs),
        total=sum(group_rounds.rounds for group_rounds in runs),
        done=sum(len(group_rounds.records) for group_rounds in runs),
    )


class _Loop:
    """Keeps a few groups in flight over one grid; groups do not wait for each other."""

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        receipts: Receipts,
        observer: Observer,
        *,
        deadline_s: float,
    ) -> None:
        self._grid = grid
        self._nodes = nodes
        self._receipts = receipts
        self._observer = observer
        self._deadline_s = deadline_s
        self._pending: dict[str, tuple[GroupRounds, str, Asked]] = {}

    def run(self, rounds: Iterable[GroupRounds], *, in_flight: int) -> None:
        queue = deque(group for group in rounds if not group.done)
        active: list[GroupRounds] = []
        last_event = time.monotonic()
        while queue or active:
            while queue and len(active) < in_flight:
                active.append(queue.popleft())
            for group in active:
                if not group.waiting:
                    self._push(group)
            if self._pull() | self._close(active):
                last_event = time.monotonic()
            else:
                # 1 % of the time waited so far: prompt when rounds are short, idle when they are long
                time.sleep(min(0.5, max(0.0005, 0.01 * (time.monotonic() - last_event))))
            active = [group for group in active if not group.done]

    def _push(self, group: GroupRounds) -> None:
        for request, sites in group.requests():
            self._ask(group, request, sites)

    def _ask(self, group: GroupRounds, request: wire.TrainRequest, sites: Sequence[str]) -> None:
        content = wire.encode_train_request(request)  # encoded once, shared by all sites' messages
        messages = [
            Message(
                content,
                self._nodes[site],
                wire.TRAIN,
                ttl=self._deadline_s,
                group_id=f"{request.group}/{request.server_round}",
            )
            for site in sites
        ]
        asked = {site: self._receipts.asked(site, request) for site in sites}
        ids = self._grid.push_messages(messages)
        for site, message_id in zip(sites, ids, strict=True):
            self._pending[message_id] = (group, site, asked[site])

    def _pull(self) -> bool:
        """Take what has arrived, one reply in memory at a time."""
        arrived = False
        for message_id in list(self._pending):
            for message in self._grid.pull_messages([message_id]):
                group, site, asked = self._pending.pop(message_id)
                self._take(group, site, asked, message)
                arrived = True
        return arrived

    def _take(self, group: GroupRounds, site: str, asked: Asked, message: Message) -> None:
        if message.has_error():
            group.drop(site, f"error {message.error.code}")
            return
        try:
            answer = wire.decode_train_reply(message.content)
            if isinstance(answer, wire.MissingWeights):
                self._ask(group, group.request_with(answer, site=site), [site])
                return
            reply = answer if isinstance(answer, wire.Refusal) else self._receipts.take(asked, answer)
            group.accept(site, reply)
        except VerificationError as error:
            group.drop(site, f"receipt: {error}")
        except (UpdateError, ValueError, KeyError, TypeError) as error:
            reason = str(error) if isinstance(error, SynofedError) else type(error).__name__
            group.drop(site, f"malformed reply: {reason}")

    def _close(self, active: Iterable[GroupRounds]) -> bool:
        closed = False
        for group in active:
            if group.complete or group.overdue:
                self._observer(group.close())
                self._pending = {i: p for i, p in self._pending.items() if p[0] is not group}
                closed = True
        return closed
