"""What can be wrong with a study, said before anything of it is trained: by ``simulate`` and ``plan`` alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from client.data import prospects
from client.data.site_store import site_store
from client.data.tables.rows import read_rows
from client.site.site import Site
from common import preflight
from common.aggregation.algorithms import algorithm
from common.ensemble.heatmaps import networks_above_zero
from common.errors import ConfigurationError, DataError
from common.exam import MISSING, Exam
from common.methods import groups
from common.methods.stages import networks
from common.networks.spec import NetworkSpec
from common.sections.cohort import CohortSettings, Drawn, HandSettings, PhantomSettings, PublicSettings
from common.sections.measurements import MeasurementSettings
from common.settings import Settings
from common.training import trainable
from common.training.data import ExamTensors
from server.campaign.campaign_cost import stages
from server.rounds.quorum import check_quorum
from simulation.cohorts import hands
from simulation.cohorts import public as publics
from simulation.cohorts.cohort import Cohort, CohortSite, site_machines
from simulation.cohorts.collection import Collection
from simulation.engine import engines
from simulation.phantom.folders import MINIMUM_COHORT
from simulation.phantom.shifts import site_shifts

SHOWN = 3
"""Sites whose reasons a message gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteExams:
    """One site of a study, as far as it matters before training.

    Attributes:
        name: of the site.
        trains: whether it trains, or is tested on alone.
        devices: machines of its exams.
        machines: that of each exam, in the order of ``data``; none where exams are not known yet.
        data: grades, folds and patients; pictures are not looked at.
        minimum_cohort: patients that its policy asks for.
        of_class: measurement that is a diagnosis -> patients of each class that it asks for.
    """

    name: str
    trains: bool
    devices: frozenset[str]
    data: ExamTensors
    minimum_cohort: int
    of_class: Mapping[str, int] = field(default_factory=dict)
    machines: tuple[str, ...] = ()


def check_settings(settings: Settings) -> None:
    """Whether a configuration can be run on this machine at all, whatever its cohort.

    Raises:
        ConfigurationError: if a device is missing, a network cannot take a step, or a method or algorithm is none.
    """
    algorithm(settings.federation)
    engines.devices(settings.compute)
    preflight.check(settings)
    if settings.evaluate.heatmaps:
        scoring = [spec for spec in networks(settings).values() if spec.scoring]
        networks_above_zero(scoring, measurements=list(settings.measurements))


def of_stores(cohort: Cohort, settings: Settings) -> list[SiteExams]:
    """A cohort whose stores are open: what will be trained on."""
    return [_of_store(site, settings) for site in cohort.sites]


def of_tables(cohort: Cohort, settings: Settings) -> list[SiteExams]:
    """A cohort of folders as its tables have it, where all its pictures can be read.

    Raises:
        DataError: if a table cannot be used.
    """
    return [_of_tables(site, settings) for site in cohort.sites]


def of_phantom(phantom: Drawn, settings: Settings) -> list[SiteExams]:
    """A phantom cohort that is not made yet: the numbers of its patients are known, grades are taken as at best."""
    machines = _machines(phantom, seed=settings.seed if phantom.seed is None else phantom.seed)
    unseen = [_unseen(phantom, settings, machines.pop("unseen")[0])] if phantom.unseen_device else []
    return unseen + [
        SiteExams(
            name=name,
            trains=True,
            devices=frozenset(shared),
            data=_at_best(shift.patients, phantom, settings),
            minimum_cohort=MINIMUM_COHORT,
        )
        for (name, shared), shift in zip(machines.items(), site_shifts(phantom), strict=True)
    ]


def _machines(phantom: Drawn, *, seed: int) -> dict[str, tuple[str, ...]]:
    """Site -> names of its machines."""
    if isinstance(phantom, HandSettings):
        return {site: (machine.name,) for site, machine in hands.machines(phantom, seed=seed).items()}
    found = site_machines(phantom, seed=seed)
    return {site: tuple(machine.name for machine in machines) for site, machines in found.items()}


def of_public(public: PublicSettings, settings: Settings) -> list[SiteExams]:
    """A public cohort that is not split yet, as it will be.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the labels cannot be used.
    """
    collection, splits = publics.planned(public, settings=settings)
    exams = _labelled(collection, settings.measurements)
    return [
        _of_exams(
            name,
            [replace(exam, split=split[exam.patient_id]) for exam in exams if exam.patient_id in split],
            settings,
            trains="train" in split.values(),
            secret=b"",
            minimum_cohort=publics.MINIMUM_COHORT,
        )
        for name, split in splits.items()
    ]


def left_out(sites: Sequence[SiteExams], cohort: CohortSettings | None) -> list[SiteExams]:
    """The sites, those of left out devices never trained on.

    Raises:
        ConfigurationError: if a device of ``cohort.leave_out`` is none of the cohort's.
    """
    names = set(cohort.leave_out) if cohort is not None else set()
    known = sorted(set().union(*(site.devices for site in sites)))
    if not names <= set(known):
        raise ConfigurationError(f"Expected cohort.leave_out among {known}, got {sorted(names)}")
    return [replace(site, trains=site.trains and not site.devices & names) for site in sites]


def check_sites(sites: Sequence[SiteExams], settings: Settings, *, baselines: Settings | None = None) -> None:
    """Whether something can be trained, by as many sites as the quorum asks for, and somebody is left to test on.

    Args:
        sites: all of them.
        settings: of the federation.
        baselines: settings of the baselines; ``None``: there are none.

    Raises:
        ConfigurationError: if quorum or rule ask for other sites than train.
        DataError: if nobody is held out, or no site can train one of the networks.
    """
    training = [site for site in sites if site.trains]
    if not training:
        raise DataError("Expected a site that trains, got none: every site's patients are for tests alone")
    if settings.evaluate.design == "held_out":
        _check_held_out(sites, settings.measurements)
    check_quorum(settings.federation, sites=len(training))
    if settings.privacy is None:
        _check_trained(training, settings)
        if baselines is not None:
            _check_baselines(training, baselines)


def unable(sites: Sequence[SiteExams], settings: Settings) -> Mapping[str, str]:
    """Sites that alone could train nothing of a measurement -> the networks, and why."""
    if settings.privacy is not None:
        return {}
    found = {site.name: (site, _untrained([site], settings)) for site in sites if site.trains}
    return {
        name: f"{trainable.named(untrained)}: {_objection(site, untrained[0])}"
        for name, (site, untrained) in found.items()
        if untrained
    }


def without_examples(sites: Sequence[SiteExams], settings: Settings) -> list[NetworkSpec]:
    """Single networks that no site has a training example for: they stay as they start."""
    if settings.privacy is not None:
        return []
    training = [site for site in sites if site.trains]
    return [spec for spec in networks(settings).values() if not any(_trains(site, spec) for site in training)]


def _check_held_out(sites: Sequence[SiteExams], measurements: Iterable[str]) -> None:
    held_out = sum(int((site.data.fold == MISSING).sum()) for site in sites)
    if not held_out:
        raise DataError(
            "Expected held-out patients to test on, got none at any site: raise held_out (evaluate.held_out, or that "
            "of [cohort.phantom] or [cohort.public]), add patients, or give some the split test in manifest.csv"
        )
    for name in measurements:
        graded = sum(
            int(((site.data.fold == MISSING) & (site.data.grades[name] != MISSING)).sum()) for site in sites
        )
        if not graded:
            raise DataError(
                f"Expected held-out exams with a grade of {name}, got none among {held_out}: there would be nothing "
                f"to compare with. Grade some, or leave [measurements.{name}] out"
            )


def _check_trained(training: Sequence[SiteExams], settings: Settings) -> None:
    untrained = _untrained(training, settings)
    if untrained:
        reasons = "; ".join(f"{site.name}: {_objection(site, untrained[0])}" for site in training[:SHOWN])
        raise DataError(
            f"Expected training exams of every measurement, no site has any for {trainable.named(untrained)} "
            f"({reasons}). Add patients or grades, take fewer rating.folds or grades, or lower "
            f"policy.minimum_cohort in the sites' site.toml"
        )
    specs = list(networks(settings).values())
    idle = {
        site.name: _objection(site, specs[0])
        for site in training
        if not any(_trains(site, spec) for spec in specs)
    }
    needed = settings.federation.needed(len(training))
    if settings.federation.secure is None and len(training) - len(idle) < needed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in idle.items())
        raise DataError(
            f"Expected {needed} of {len(training)} sites that train something (federation.quorum), some would train "
            f"nothing ({reasons}). Leave them out, add patients there, or set federation.quorum to at most "
            f"{len(training) - len(idle)}"
        )


def _untrained(sites: Sequence[SiteExams], settings: Settings) -> list[NetworkSpec]:
    """The networks of the first group that would end a campaign over these sites, see ``participation.hopeless``."""
    for stage in stages(settings):
        for group in groups.of_stage(stage, settings):
            trained = {spec.name for spec in group.networks if any(_trains(site, spec) for site in sites)}
            found = trainable.hopeless(group.networks, trained)
            if found:
                return found
    return []


def _check_baselines(training: Sequence[SiteExams], settings: Settings) -> None:
    alone = unable(training, settings)
    if len(alone) == len(training):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(alone.items())[:SHOWN])
        raise DataError(
            f"Expected a site that can train every measurement alone, to compare with (evaluate.baselines), got none "
            f"({reasons}). Set evaluate.baselines = false, or take fewer rating.folds or grades"
        )


def _trains(site: SiteExams, spec: NetworkSpec) -> bool:
    return trainable.trains(site.data, spec, minimum_cohort=site.minimum_cohort, of_class=site.of_class)


def _objection(site: SiteExams, spec: NetworkSpec) -> str:
    return trainable.behind(
        site.data, spec, minimum_cohort=site.minimum_cohort, of_class=site.of_class
    ).objection


def _of_store(site: CohortSite, settings: Settings) -> SiteExams:
    opened = Site.open(site.folder)
    store = site_store(opened, settings)
    return SiteExams(
        name=site.name,
        trains=site.trains,
        devices=frozenset(map(str, store.exams["device"])),
        data=store.tensors,
        minimum_cohort=opened.policy.minimum_cohort,
        of_class=opened.policy.of_class(settings),
        machines=tuple(map(str, store.exams["device"])),
    )


def _of_tables(site: CohortSite, settings: Settings) -> SiteExams:
    opened = Site.open(site.folder)
    rows = read_rows(opened.data_folder / opened.file.data.manifest, ["exam_id"]).rows
    secret = _secret(site)
    found = _of_exams(
        site.name,
        prospects.exams_of_tables(opened, settings, secret=secret),
        settings,
        trains=site.trains,
        secret=secret,
        minimum_cohort=opened.policy.minimum_cohort,
    )
    return replace(
        found,
        devices=frozenset(row.get("device") or "unknown" for _, row in rows),
        of_class=opened.policy.of_class(settings),
    )


def _of_exams(
    name: str, exams: Sequence[Exam], settings: Settings, *, trains: bool, secret: bytes, minimum_cohort: int
) -> SiteExams:
    return SiteExams(
        name=name,
        trains=trains,
        devices=frozenset(exam.device for exam in exams),
        data=prospects.without_pictures(exams, settings, secret=secret),
        minimum_cohort=minimum_cohort,
        machines=tuple(exam.device for exam in exams),
    )


def _labelled(collection: Collection, measurements: Mapping[str, MeasurementSettings]) -> list[Exam]:
    """The exams of a collection with the grades that are whole numbers in range; others the site leaves out."""
    missing = [name for name in measurements if name not in collection.measurements]
    if missing:
        raise DataError(
            f"Expected a column of labels for {', '.join(missing)}: name it in [cohort.public.columns]"
        )
    rows = zip(collection.manifest, collection.readings, collection.lines, strict=True)
    exams = [
        Exam(
            exam_id=row["exam_id"],
            patient_id=row["patient_id"],
            line=line,
            images={},
            targets={
                name: _grade(reading.get(name, ""), graded.grades) for name, graded in measurements.items()
            },
            device=row.get("device") or "unknown",
        )
        for row, (reading, *_), line in rows
    ]
    return [exam for exam in exams if any(grade is not None for grade in exam.targets.values())]


def _grade(text: str, grades: int) -> int | None:
    return int(text) if text.isdecimal() and int(text) < grades else None


def _secret(site: CohortSite) -> bytes:
    """The site's, or one like it where there is none yet: nothing is written before a study runs."""
    try:
        return (site.folder / "store" / "secret").read_bytes()
    except OSError:
        return site.name.encode()


def _unseen(phantom: Drawn, settings: Settings, device: str) -> SiteExams:
    trains = isinstance(phantom, PhantomSettings) and phantom.unseen_trains
    whole = phantom if trains else phantom.model_copy(update={"held_out": 1.0})
    return SiteExams(
        name="unseen",
        trains=trains,
        devices=frozenset({device}),
        data=_at_best(phantom.patients, whole, settings),
        minimum_cohort=MINIMUM_COHORT,
    )


def _at_best(patients: int, phantom: Drawn, settings: Settings) -> ExamTensors:
    """This many patients, each with every grade: what cannot be trained of them cannot be of any such cohort.

    Raises:
        DataError: if there are fewer training patients than folds, as the site's store would.
    """
    tested = 0 if settings.held_out is None else round(phantom.held_out * patients)
    training = patients - tested
    if 0 < training < settings.folds:
        raise DataError(
            f"Expected at least {settings.folds} training patients for {settings.folds} folds, got {training} of "
            f"{patients} at each site: lower rating.folds, or add patients"
        )
    fold = np.concatenate([np.arange(training) % settings.folds, np.full(tested, MISSING)])
    most = max(graded.grades for graded in settings.measurements.values())
    return ExamTensors(
        images={},
        grades={
            name: torch.arange(most).remainder(graded.grades).repeat(patients).to(torch.int8)
            for name, graded in settings.measurements.items()
        },
        fold=torch.from_numpy(fold.astype(np.int8)).repeat_interleave(most),
        patient=torch.arange(patients, dtype=torch.int32).repeat_interleave(most),
        numbers={name: torch.linspace(0, 1, most).repeat(patients) for name in settings.numbers},
    )
