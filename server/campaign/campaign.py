"""A campaign: what to train, in which order, over which sites, until it is done or cannot go on."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flwr.serverapp import Grid

from common.aggregation import rules
from common.aggregation.algorithms import algorithm
from common.ensemble import number_stack
from common.ensemble.number_stack import NumberStack
from common.errors import CampaignError, ConfigurationError
from common.machine import atomic, network_files
from common.machine.network_files import TrainedNetwork
from common.methods import groups
from common.methods.stages import NetworkResult, Stage, stacked, stages_of
from common.networks.spec import NetworkSpec
from common.sections.secure import SecureSettings
from common.settings import Settings
from server.campaign.events import Event, Observer, StageStarted
from server.campaign.library import NetworkLibrary
from server.campaign.loop import Loop
from server.campaign.members import PACE, Members, Pace
from server.campaign.received_receipts import Receipts
from server.campaign.roster import Roster
from server.campaign.status import Status
from server.rounds import journal, quorum, site_results, weights
from server.rounds.exchanges import Rounds
from server.rounds.journal import Journal, RoundRecord
from server.rounds.rounds import GroupRounds
from server.rounds.spool import Spool
from server.rounds.sum_progress import ProgressFile
from server.rounds.sum_rounds import NO_PART, SumRounds

__all__ = ["Event", "Observer", "Outcome", "StageStarted", "Status", "run", "run_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished campaign.

    Attributes:
        status: never ``FAILED``: then an error is raised.
        sites: the sites that took part, in the order of aggregation.
        missing: site -> rounds in which its update was not used.
        results: by network; the weights are in ``<folder>/networks``.
        reused: of these, networks that were taken from a library.
        stacks: number -> how it comes of its networks, of those of which sites gave sums.
        nodes: where the sites were at the end, those that were there.
        keys: of the sites' receipts.
    """

    status: Status
    sites: tuple[str, ...]
    missing: Mapping[str, int]
    results: Mapping[str, NetworkResult]
    reused: frozenset[str] = frozenset()
    stacks: Mapping[str, NumberStack] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


def run(
    grid: Grid,
    settings: Settings,
    *,
    roster: Roster,
    folder: Path,
    campaign: str,
    observer: Observer,
    library: NetworkLibrary | None = None,
    pace: Pace = PACE,
    kept: Path | None = None,
    admitted: Callable[[], Roster] | None = None,
) -> Outcome:
    """Run a campaign from where its journal stands to its end.

    Args:
        grid: connects to the sites.
        settings: the configuration.
        roster: the sites; the campaign waits for them.
        folder: holds ``journal/``, ``receipts/``, ``spool/`` and, in the end, ``networks/``.
        campaign: the campaign's name.
        observer: told of every stage and every committed round.
        library: networks that need not be trained again.
        pace: how often sites are looked for and asked.
        kept: where sites' highest receipts of all runs are kept; none: of this run alone.
        admitted: the roster as it is now; asked where the plan lets sites join late.

    Raises:
        ConfigurationError: if the aggregation rule does not work with that number of sites.
        PolicyError: if sites decline and the quorum cannot do without them.
        BudgetError: if all that decline do so because of their patients' privacy budget.
        CampaignError: if too few sites agree in time, a round falls short of its quorum, or no site can train one of
            the networks.
        VerificationError: if a site's receipts contradict those of this run before it was interrupted.
    """
    rules.check_sites(settings.federation, sites=roster.count)
    _check_secure(settings.federation.secure, sites=roster.count)
    folder.mkdir(parents=True, exist_ok=True)
    receipts = Receipts(folder, kept=kept)
    members = Members(
        grid,
        settings,
        campaign,
        receipts,
        roster,
        observer,
        pace,
        run=run_name(folder),
        admitted=admitted if settings.campaign.late_joining else None,
        joined=_trained_before(folder / "journal", settings),
    )
    members.gather()
    quorum.check_prospects(settings, members.usable, sites=max(roster.count, len(members.sites)))
    _check_participants(settings, members)
    _keep_statistics(folder, members)
    loop = Loop(grid, members, receipts, observer, settings.federation, pace=pace, patient=roster.registered)
    results: dict[str, NetworkResult] = {}
    records: list[RoundRecord] = []
    specs: dict[str, NetworkSpec] = {}
    all_reused: set[str] = set()
    for stage in stages_of(settings, results):
        specs |= {spec.name: spec for spec in stage.networks}
        reused = _reuse(stage, settings, specs, folder, library)
        results |= reused
        all_reused |= set(reused)
        trains = [spec for spec in stage.networks if spec.name not in reused]
        runs = _rounds(settings, stage, trains, members, receipts, folder=folder, campaign=campaign)
        observer(_started(stage, runs, reused=len(reused)))
        loop.run(runs, in_flight=settings.compute.groups_in_flight)
        for group_rounds in runs:
            records += group_rounds.records
            for network in group_rounds.results():
                network_files.save(folder / "networks", network)
                results[network.spec.name] = network.result
                if library is not None:
                    library.add(network, settings, specs)
    _keep_statistics(folder, members)  # of those who joined late, too
    trained = {site for record in records for site in record.participants}
    took_part = trained | roster.expected | set(roster.gone)  # who came too late to train did not
    sites = tuple(site for site in members.sites if not roster.registered or site in took_part)
    missing = _missing(records, sites)
    status = Status.COMPLETE_SUBSET if missing else Status.COMPLETE_ALL_SITES
    return Outcome(
        status=status,
        sites=sites,
        missing=missing,
        results=results,
        reused=frozenset(all_reused),
        stacks=_stacks(folder / "journal", specs.values(), settings),
        nodes={site: member.node for site, member in members.present.items()},
        keys=receipts.keys,
    )


def _stacks(folder: Path, specs: Iterable[NetworkSpec], settings: Settings) -> dict[str, NumberStack]:
    given = journal.stacking(folder, plan_hash=settings.plan_hash())
    return number_stack.solved({name: one.total for name, one in given.items()}, specs, settings)


def _keep_statistics(folder: Path, members: Members) -> None:
    for site, member in members.present.items():
        if member.statistics:
            site_results.keep_statistics(folder, site, member.statistics)


def _trained_before(folder: Path, settings: Settings) -> frozenset[str]:
    """The sites whose updates this run has used before it was interrupted."""
    before = journal.records(folder, plan_hash=settings.plan_hash())
    return frozenset(site for record in before for site in record.participants)


def _check_secure(secure: SecureSettings | None, *, sites: int) -> None:
    if secure is not None and not secure.survivors <= sites <= secure.sites:
        raise ConfigurationError(
            f"Expected {secure.survivors} to {secure.sites} sites for secure sums, got {sites}: "
            f"federation.secure.sites is their number, federation.secure.survivors the fewest whose sum is opened"
        )


def _check_participants(settings: Settings, members: Members) -> None:
    """Whether enough sites take part in every group, before anything is trained for one."""
    secure = settings.federation.secure
    if secure is None or settings.private:
        return
    for stage in stages_of(settings):
        for group in groups.of_stage(stage, settings):
            apart = members.apart(group.tasks)
            left = len(members.sites) - len(apart)
            if left < secure.survivors:
                raise CampaignError(
                    f"Expected {secure.survivors} sites or more that take part in {', '.join(sorted(group.tasks))} "
                    f"(federation.secure.survivors), got {left}: {', '.join(sorted(apart))} have nothing for it, or "
                    f"approved the campaign without. Leave the measurement out, or find more sites"
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
    networks train in the same groups, whatever the library has got since. Networks that are stacked are trained:
    sites give their sums in the round that scores these.
    """
    decided = folder / "journal" / f"{stage.name}.reused.json"
    if decided.exists():
        names = json.loads(decided.read_text(encoding="utf-8"))
        taken = [network_files.load(network_files.path(folder / "networks", name)) for name in names]
    else:
        apart = {spec.name for members in stacked(stage.networks, settings).values() for spec in members}
        sought = [spec for spec in stage.networks if spec.name not in apart]
        found = [library.find(spec, settings, specs) for spec in sought] if library else []
        taken = _whole_groups(stage, settings, [network for network in found if network is not None])
        for network in taken:
            network_files.save(folder / "networks", network)
    if taken and not decided.exists():
        decided.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(decided, json.dumps([network.spec.name for network in taken]).encode())
    return {network.spec.name: network.result for network in taken}


def _whole_groups(stage: Stage, settings: Settings, found: list[TrainedNetwork]) -> list[TrainedNetwork]:
    """Of what a library has, that which spares whole groups, where sites answer no others than the plan's."""
    if settings.federation.secure is None or not found:
        return found
    known = {network.spec.name for network in found}
    spared = {
        name
        for group in groups.of_stage(stage, settings)
        if set(group.layouts) <= known
        for name in group.layouts
    }
    return [network for network in found if network.spec.name in spared]


def _missing(records: Iterable[RoundRecord], sites: tuple[str, ...]) -> dict[str, int]:
    """Site -> rounds that went without it; not those before it joined."""
    absent = dict.fromkeys(sites, 0)
    for record in records:
        for site in set(sites) & record.dropped.keys():
            absent[site] += record.dropped[site] != NO_PART
    return {site: rounds for site, rounds in absent.items() if rounds}


def _rounds(
    settings: Settings,
    stage: Stage,
    specs: Sequence[NetworkSpec],
    members: Members,
    receipts: Receipts,
    *,
    folder: Path,
    campaign: str,
) -> Sequence[Rounds]:
    """A stage's groups, each where its journal stands."""
    names = {spec.name for spec in specs}
    if settings.federation.secure is None:
        packed = groups.of_stage(stage, settings, networks=specs)
    else:  # of all networks, as the sites have them; what is reused fills whole groups
        packed = tuple(group for group in groups.of_stage(stage, settings) if set(group.layouts) & names)
    federated = algorithm(settings.federation)
    if settings.federation.secure is not None:
        return [
            SumRounds(
                group,
                settings=settings,
                campaign=campaign,
                sites=members.sites,
                start=weights.StartWeights(settings, folder / "networks"),
                algorithm=federated,
                journal=Journal(folder / "journal", group.name),
                progress=ProgressFile(folder / "sums", group.name),
                keys=lambda: receipts.keys,
                run=run_name(folder),
                apart=partial(members.apart, group.tasks),
            )
            for group in packed
        ]
    return [
        GroupRounds(
            group,
            settings=settings,
            campaign=campaign,
            sites=lambda: members.sites,
            start=weights.StartWeights(settings, folder / "networks"),
            algorithm=federated,
            journal=Journal(folder / "journal", group.name),
            spool=Spool(folder / "spool", group.name),
            run=run_name(folder),
        )
        for group in packed
    ]


def run_name(folder: Path) -> str:
    """What tells this run's requests, and its state at the sites, from those of any other run; drawn once."""
    path = folder / "run.txt"
    if not path.exists():
        atomic.write(path, secrets.token_hex(16).encode())
    return path.read_text(encoding="utf-8")


def _started(stage: Stage, runs: Sequence[Rounds], *, reused: int) -> StageStarted:
    return StageStarted(
        stage=stage.name,
        networks=len(stage.networks),
        reused=reused,
        groups=len(runs),
        total=sum(group_rounds.rounds for group_rounds in runs),
        done=sum(len(group_rounds.records) for group_rounds in runs),
    )
