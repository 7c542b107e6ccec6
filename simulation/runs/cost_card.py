"""The cost card of a study: bytes, disk, memory and hours, before anybody trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.data.tables.rows import read_rows
from client.site.site import Site
from common.errors import ConfigurationError, DataError
from common.networks import build
from common.networks.spec import NetworkSpec
from common.privacy.planning import notice
from common.sections.cohort import CohortSettings, PhantomSettings
from common.settings import Settings
from common.training.local_settings import local_settings
from server.campaign.campaign_cost import StageCost, cost_key, stage_costs, stages
from simulation.cohorts import cohort as cohorts
from simulation.engine import engines
from simulation.engine.measure import Measured, measure_all
from simulation.evaluation import heatmap_truth
from simulation.runs import links, preflight
from simulation.runs.baselines import baseline_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSize:
    """How much data a simulation will have, as far as that is known before it is made.

    Attributes:
        sites: that train.
        training_exams: of all sites.
        held_out_exams: of all sites, also those that are only tested on.
    """

    sites: int
    training_exams: int
    held_out_exams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCard:
    """What a study will cost.

    Hours are those of measured steps: an estimate, in which a federation's sites never wait for each other or
    for the network. ``None`` is what cannot be known without a cohort.

    Attributes:
        stages: of the campaign, in order.
        networks: of all stages.
        parameters: of all networks.
        cohort: sites and exams.
        site_down_bytes: to one site in the whole campaign.
        site_up_bytes: from one site in the whole campaign.
        centre_memory_bytes: the centre's weights and messages in memory, at most.
        networks_bytes: the trained networks on disk.
        journal_bytes: the campaign's journal on disk, at most.
        spool_bytes: replies on disk until their round is complete, at most.
        site_state_bytes: what one site keeps of its optimisers, and of what its updates lost on the wire, on disk
            until the campaign ends, at most.
        baselines_bytes: networks and journals of the baselines on disk, at most.
        measured: steps on this machine, one for each shape of network.
        workers: of this machine that train at once.
        site_hours: of training and validation at one site, with one such worker.
        federated_hours: of the federation, simulated here.
        baselines_hours: of each site alone and all pooled; 0 if not asked for.
        personal_hours: of networks of each site's own; 0 if not asked for.
        evaluation_hours: of scoring all held-out exams.
        total_hours: of the simulation.
        privacy: what is promised.
        warnings: what may be learnt in place of what is meant, as far as the cohort's tables say.
    """

    name: str
    method: str
    plan_hash: str
    encoding: str
    stages: tuple[StageCost, ...]
    networks: int
    parameters: int
    cohort: CohortSize | None
    site_down_bytes: int
    site_up_bytes: int
    centre_memory_bytes: int
    networks_bytes: int
    journal_bytes: int
    spool_bytes: int | None
    site_state_bytes: int
    baselines_bytes: int | None
    measured: tuple[Measured, ...]
    workers: int
    site_hours: float
    federated_hours: float | None
    baselines_hours: float | None
    personal_hours: float | None
    evaluation_hours: float | None
    total_hours: float | None
    privacy: str
    warnings: tuple[str, ...] = ()


def plan(settings: Settings, *, budget_s: float = 20.0) -> PlanCard:
    """The cost card of a configuration, with steps measured now.

    Args:
        settings: the configuration.
        budget_s: about how long each shape of network may be measured.

    Raises:
        ConfigurationError: if the study cannot be run so.
        DataError: if the cohort's folder has no sites, or its exams cannot be trained or tested on.
    """
    warnings = check(settings)
    size = cohort_size(settings)
    measured = measure_all(
        [*_specs(settings), *_personal_specs(settings)],
        settings,
        batch_size=lambda spec: exams_per_step(spec, settings, size),
        budget_s=budget_s,
    )
    workers = len(engines.devices(settings.compute))
    return replace(card(settings, cohort=size, measured=measured, workers=workers), warnings=warnings)


def check(settings: Settings) -> tuple[str, ...]:
    """What ``simulate`` would refuse, as far as it is known before a cohort is made.

    Returns:
        What it would warn of, as :func:`simulation.runs.links.warnings`.

    Raises:
        ConfigurationError: see :func:`simulation.runs.preflight.check_settings`.
        DataError: see :func:`simulation.runs.preflight.check_sites`; and if tables of the cohort cannot be used.
    """
    preflight.check_settings(settings)
    source = settings.cohort
    if source is None:
        return ()
    if source.folder is not None:
        found = cohorts.discover(source.folder)
        if settings.evaluate.heatmaps:
            heatmap_truth.jobs(found)
        sites = preflight.of_tables(found, settings)
    elif source.drawn is not None:
        sites = preflight.of_phantom(source.drawn, settings)
    else:
        assert source.public is not None, "one of the four is given"
        sites = preflight.of_public(source.public, settings)
    fewer = baseline_settings(settings) if settings.evaluate.baselines else None
    sites = preflight.left_out(sites, source)
    preflight.check_sites(sites, settings, baselines=fewer)
    return links.warnings(sites, settings)


def cohort_size(settings: Settings) -> CohortSize | None:
    """Sites and exams of the settings' cohort, as far as its tables say; ``None`` where they name none.

    Raises:
        DataError: if tables that are needed are not there.
    """
    source = settings.cohort
    if source is None:
        return None
    if (phantom := source.drawn) is not None:
        exams = phantom.patients * (phantom.exams_per_patient if isinstance(phantom, PhantomSettings) else 1)
        held_out = _tested(exams, phantom.held_out, settings)
        return CohortSize(
            sites=phantom.sites,
            training_exams=phantom.sites * (exams - held_out),
            held_out_exams=phantom.sites * held_out + (exams if phantom.unseen_device else 0),
        )
    if source.public is not None:
        public = source.public
        labels = read_rows(
            public.labels, list(public.columns.values()), sheet=public.sheet, header_row=public.header_row
        )
        exams = len(labels.rows)
        held_out = _tested(exams, public.held_out, settings)
        return CohortSize(sites=source.public.sites, training_exams=exams - held_out, held_out_exams=held_out)
    return _folder_size(source, settings)


def _tested(exams: int, share: float, settings: Settings) -> int:
    """Exams that are held out of this many; none where folds judge."""
    return 0 if settings.held_out is None else round(exams * share)


def _folder_size(source: CohortSettings, settings: Settings) -> CohortSize:
    assert source.folder is not None, "one of the four is given"
    sites = training = held_out = 0
    for site in cohorts.discover(source.folder).sites:
        opened = Site.open(site.folder)
        graded = _graded(opened.data_folder / opened.file.data.grades, settings)
        manifest = read_rows(opened.data_folder / opened.file.data.manifest, ["exam_id"]).rows
        rows = [row for _, row in manifest if row["exam_id"] in graded]
        splits = [row.get("split", "") for row in rows]
        tested = splits.count("test") + _tested(splits.count(""), settings.evaluate.held_out, settings)
        tested = tested if settings.held_out is not None else 0
        held_out += tested if site.trains else len(rows)
        training += len(rows) - tested if site.trains else 0
        sites += site.trains
    if not sites:
        raise DataError(f"Expected a site that trains in {source.folder}, got none")
    return CohortSize(sites=sites, training_exams=training, held_out_exams=held_out)


def _graded(grades: Path, settings: Settings) -> set[str]:
    """The exams that some reader graded."""
    rows = read_rows(grades, ["exam_id"]).rows
    return {row["exam_id"] for _, row in rows if any(row.get(name) for name in settings.read_by_readers)}


def exams_per_step(spec: NetworkSpec, settings: Settings, cohort: CohortSize | None) -> int:
    """Exams of one training step of a network at an average site."""
    training = spec.training or settings.training
    if training.sampling != "all":
        return training.batch_size
    if cohort is None:
        raise ConfigurationError(
            'training.sampling = "all" makes a step as large as a site: add a [cohort] to plan it'
        )
    folds = settings.rating.folds
    return max(1, round(cohort.training_exams / cohort.sites * (folds - 1) / folds))


def card(
    settings: Settings, *, cohort: CohortSize | None, measured: Sequence[Measured], workers: int
) -> PlanCard:
    """The cost card from measured steps, a pure function.

    Args:
        settings: the configuration.
        cohort: sites and exams, if known.
        measured: one for each shape of network.
        workers: that train at once on this machine.
    """
    costs = stage_costs(settings)
    hours = _Hours(settings, cohort, measured, workers)
    federated, baselines = hours.federated(), hours.baselines()
    personal, evaluation = hours.personal(), hours.evaluation()
    parts = (federated, baselines, personal, evaluation)
    known = [part for part in parts if part is not None]
    return PlanCard(
        name=settings.name,
        method=settings.method,
        plan_hash=settings.plan_hash(),
        encoding=settings.federation.encoding,
        stages=costs,
        networks=sum(cost.networks for cost in costs),
        parameters=sum(cost.parameters for cost in costs),
        cohort=cohort,
        site_down_bytes=sum(cost.site_down_bytes for cost in costs),
        site_up_bytes=sum(cost.site_up_bytes for cost in costs),
        centre_memory_bytes=max(cost.centre_memory_bytes for cost in costs),
        networks_bytes=sum(cost.networks_bytes for cost in costs),
        journal_bytes=sum(cost.journal_bytes for cost in costs),
        spool_bytes=None
        if cohort is None
        else cohort.sites * max(cost.spool_bytes_per_site for cost in costs),
        site_state_bytes=sum(cost.site_state_bytes for cost in costs),
        baselines_bytes=_baselines_bytes(settings, cohort),
        measured=tuple(measured),
        workers=workers,
        site_hours=hours.site(),
        federated_hours=federated,
        baselines_hours=baselines,
        personal_hours=personal,
        evaluation_hours=evaluation,
        total_hours=sum(known) if len(known) == len(parts) else None,
        privacy=notice.sentence(settings),
    )


def _baselines_bytes(settings: Settings, cohort: CohortSize | None) -> int | None:
    if not settings.evaluate.baselines:
        return 0
    if cohort is None:
        return None
    each = sum(cost.networks_bytes + cost.journal_bytes for cost in stage_costs(baseline_settings(settings)))
    return (cohort.sites + 1) * each


class _Hours:
    """Adds up measured seconds. A worker's seconds are divided by the workers that can be busy at once."""

    def __init__(
        self, settings: Settings, cohort: CohortSize | None, measured: Iterable[Measured], workers: int
    ) -> None:
        self._settings = settings
        self._cohort = cohort
        self._measured: Mapping[str, Measured] = {m.key: m for m in measured}
        self._workers = workers

    def site(self) -> float:
        """Of one worker at an average site."""
        return self._train_s(self._settings, sites_pooled=1) / 3600

    def federated(self) -> float | None:
        """Of the federation on this machine."""
        if self._cohort is None:
            return None
        sites = self._cohort.sites
        return sites * self.site() / min(self._workers, sites * _in_flight(self._settings))

    def baselines(self) -> float | None:
        """Of all baselines, which run side by side; pooled training has one site only, and may end last."""
        if not self._settings.evaluate.baselines:
            return 0.0
        if self._cohort is None:
            return None
        fewer = baseline_settings(self._settings)
        alone_s = self._cohort.sites * self._train_s(fewer, sites_pooled=1)
        pooled_s = self._train_s(fewer, sites_pooled=self._cohort.sites)
        shared = (alone_s + pooled_s) / self._workers
        return max(shared, pooled_s / min(self._workers, _in_flight(fewer))) / 3600

    def personal(self) -> float | None:
        """Of each site's networks of its own; a head that is trained alone is counted as the whole network."""
        asked = self._settings.personal
        if asked is None:
            return 0.0
        if self._cohort is None:
            return None
        kinds = len({"head", "network"} & set(asked.candidates))
        steps = kinds * asked.checks * -(-asked.steps // asked.checks)
        scored = (kinds * asked.checks + 1) * self._validation_exams()
        costs = [self._of(spec) for spec in _personal_specs(self._settings)]
        site_s = math.fsum(steps * cost.step_s + scored * cost.exam_s for cost in costs)
        return self._cohort.sites * site_s / self._workers / 3600

    def evaluation(self) -> float | None:
        """Of scoring the held-out exams by every system, one site a worker."""
        if self._cohort is None:
            return None
        exam_s = self._exam_s(self._settings)
        if self._settings.evaluate.baselines:  # each site alone, pooled, and the federation if it is cut down
            fewer = self._exam_s(baseline_settings(self._settings))
            exam_s += (self._cohort.sites + 1 + (fewer < exam_s)) * fewer
        return self._cohort.held_out_exams * exam_s / min(self._workers, self._cohort.sites) / 3600

    def _train_s(self, settings: Settings, *, sites_pooled: int) -> float:
        """All rounds of all networks; a pooled step has the exams of all sites' steps."""
        fold = self._validation_exams() * sites_pooled
        return math.fsum(self._network_s(spec, settings, fold, sites_pooled) for spec in _specs(settings))

    def _network_s(self, spec: NetworkSpec, settings: Settings, fold: float, sites_pooled: int) -> float:
        local = local_settings(spec, settings)
        steps = local.rounds * local.training.local_steps * sites_pooled
        scored = (local.rounds + 1) * fold if spec.fold >= 0 else 0.0
        return steps * self._of(spec).step_s + scored * self._of(spec).exam_s

    def _exam_s(self, settings: Settings) -> float:
        return math.fsum(self._of(spec).exam_s for spec in _specs(settings) if spec.scoring)

    def _validation_exams(self) -> float:
        """A fold of an average site."""
        if self._cohort is None:
            return 0.0
        return self._cohort.training_exams / self._cohort.sites / self._settings.rating.folds

    def _of(self, spec: NetworkSpec) -> Measured:
        return self._measured[cost_key(spec)]


def _specs(settings: Settings) -> list[NetworkSpec]:
    return [spec for stage in stages(settings) for spec in stage.networks]


def _personal_specs(settings: Settings) -> list[NetworkSpec]:
    """What each site trains further: the networks that score, none of their parts frozen."""
    asked = settings.personal is not None
    return [build.unfrozen(spec) for spec in _specs(settings) if spec.scoring and asked]


def _in_flight(settings: Settings) -> int:
    """Groups that a site can be asked for at once."""
    return min(settings.compute.groups_in_flight, max(cost.groups for cost in stage_costs(settings)))
