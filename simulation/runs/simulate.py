"""A whole multi-centre study on one machine: sites, federation, baselines, evaluation, report."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from client.data.site_store import site_store
from client.data.store import close_all
from client.ensemble import alone
from client.site.site import Site
from client.state import site_state, sum_state, weights_cache
from common.ensemble.heatmaps import HeatmapSettings
from common.errors import ConfigurationError, PolicyError, SynofedError
from common.machine import network_files, pretrained
from common.machine.network_files import TrainedNetwork
from common.methods import stages
from common.methods.stages import networks
from common.sections.cohort import Drawn
from common.sections.methods import SPLIT_BY_IMAGE
from common.settings import Settings
from common.text.json_values import finite
from common.training.local_settings import local_settings, selects
from common.training.trainable import named
from server.campaign import campaign
from server.campaign.campaign import Event, Outcome, Status
from server.campaign.library import NetworkLibrary
from server.report import inside, page
from server.rounds import journal, site_results
from server.rounds.journal import RoundRecord
from server.runs.run_folder import RunFolder
from simulation.cohorts import cohort, disjoint, peers, public
from simulation.cohorts.cohort import Cohort
from simulation.engine import engines, interruption
from simulation.engine.grid import Workers
from simulation.engine.places import Places
from simulation.engine.progress import Display
from simulation.engine.site_logs import SiteLogs
from simulation.evaluation import (
    examples,
    heatmap_truth,
    hotspots,
    sets,
    stacked,
    trivial,
)
from simulation.evaluation.blocks import calibration, layers, single_image
from simulation.evaluation.blocks.own_patients import FEDERATED, PERSONAL
from simulation.evaluation.ensembles import Ensemble
from simulation.evaluation.metrics import metrics, scorer_of
from simulation.evaluation.predict import predictions
from simulation.runs import baselines, links, personal, preflight, same_sites
from simulation.runs.baselines import System

COHORTS = Path("cohorts")


def simulate(
    settings: Settings, *, out: Path, resume: bool, display: Display, networks_folder: Path | None = None
) -> tuple[Path, Status]:
    """Run a study.

    Everything that can be wrong with configuration, sites and images is found before the run's folder is made.

    Args:
        settings: the configuration.
        out: the run's folder; a former run there is moved aside, or with ``resume`` continued.
        resume: go on after an interruption, with bit-identical results.
        display: shows progress.
        networks_folder: of networks that runs of one study share: what is there is not trained again.

    Returns:
        The run's folder and how the federation ended.

    Raises:
        SynofedError: with the run's folder, if it was begun, in status ``FAILED``.
        BusyError: if another process writes there.
        ChangedDataError: if a run is to go on over other data than it began with.
        KeyboardInterrupt: with what to do, if the run was begun; its status is then ``INTERRUPTED``.
    """
    preflight.check_settings(settings)
    settings = pretrained.resolved(settings)
    disjoint.check(settings)
    with RunFolder.alone(out):
        if resume:
            RunFolder(out).check_plan(settings)
        return _simulate(settings, out, display, networks_folder, resume=resume)


def _simulate(
    settings: Settings, out: Path, display: Display, networks_folder: Path | None, *, resume: bool
) -> tuple[Path, Status]:
    started = time.monotonic()
    close_all()
    sites = _cohort(settings, display)
    if settings.evaluate.heatmaps:
        heatmap_truth.jobs(sites)  # a cohort without truth is said first, too
    _open_stores(sites, settings, display)
    exams = preflight.left_out(preflight.of_stores(sites, settings), settings.cohort)
    sites = _training(sites, [site.name for site in exams if site.trains])
    fewer = baselines.baseline_settings(settings) if settings.evaluate.baselines else None
    preflight.check_sites(exams, settings, baselines=fewer)
    for warning in links.warnings(exams, settings):
        display.line(f"Warning: {warning}")
    untrained = preflight.without_examples(exams, settings)
    if untrained:
        display.line(
            f"Warning: no site has training examples for {named(untrained)}: they stay as they start"
        )
    if settings.evaluate.heatmaps:
        heatmap_truth.check(sites, settings)
    if settings.federation.secure is not None:
        peers.pin([site.folder for site in sites.sites if site.trains])
    if resume:
        same_sites.check(out, sites, settings)
        run = RunFolder.resume(out, settings)
    else:
        run = RunFolder.begin(out, settings, files={same_sites.NAME: same_sites.noted(sites, settings)})
    display.log_to(run.path / "log.txt")
    starts = pretrained.starts(settings)
    run.update_manifest(start_weights=starts)
    for line in starts:
        display.line(line)
    try:
        status = _train_and_evaluate(run, sites, settings, display, networks_folder)
    except KeyboardInterrupt:
        run.update_manifest(status="INTERRUPTED")
        raise KeyboardInterrupt("Go on with --resume.") from None
    except BaseException as error:
        run.update_manifest(status=str(Status.FAILED), error=_describe(error))
        raise
    run.update_manifest(seconds=round(time.monotonic() - started, 1))
    page.write(run.path)
    return run.path, status


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, SynofedError) else type(error).__name__


def _cohort(settings: Settings, display: Display) -> Cohort:
    source = settings.cohort
    if source is None:
        raise ConfigurationError(
            "Expected a [cohort] with folder, phantom, hands or public: a simulation needs sites"
        )
    if source.folder is not None:
        return cohort.discover(source.folder)
    if source.drawn is not None:
        with display.step("phantom cohort") as bar:
            seed = settings.seed if source.drawn.seed is None else source.drawn.seed
            folder = COHORTS / f"phantom-{_short_hash(source.drawn, seed)}"
            return cohort.ensure(source.drawn, seed=seed, out=folder, progress=bar, say=display.line)
    assert source.public is not None
    with display.step("public cohort") as bar:
        made = public.ensure(source.public, settings=settings, folder=COHORTS, progress=bar, say=display.line)
    for warning in public.remarks(made.folder):
        display.line(warning)
    return made


def _short_hash(source: Drawn, seed: int) -> str:
    of_version = cohort.version(source)  # one of another version lies beside, not instead
    described = f"{source.model_dump_json()}/{seed}/{of_version}"
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def _open_stores(sites: Cohort, settings: Settings, display: Display) -> None:
    """Read every site's data once, so that a bad row or image is found before anything is trained."""
    if settings.split_by == "image":
        display.line(f"WARNING: {SPLIT_BY_IMAGE}.")
    with display.step("site stores") as bar:
        for index, site in enumerate(sites.sites):
            opened = Site.open(site.folder)
            if opened.policy.approval != "automatic":
                raise PolicyError(
                    f'Expected policy.approval = "automatic" in {site.folder / "site.toml"}: in a simulation nobody '
                    f"is there to approve"
                )
            store = site_store(opened, settings)
            bar(index + 1, len(sites.sites))
            usable = ", ".join(f"{name} {count}" for name, count in store.usable.items())
            quarantined = f", {len(store.quarantined)} quarantined" if store.quarantined else ""
            ungraded = int((~store.tensors.graded).sum())
            puzzles = f", {ungraded} without grades for puzzles only" if ungraded else ""
            role = "" if site.trains else "  (never trained on)"
            display.line(f"{site.name}: usable exams {usable}{puzzles}{quarantined}{role}")
            if store.quarantined:
                first, *others = store.quarantined
                more = f"; {len(others)} more, see synofed data check {site.folder}" if others else ""
                display.line(f"  quarantined {first.exam_id}: {first.reason}{more}")


def _training(sites: Cohort, names: Sequence[str]) -> Cohort:
    """The cohort, of which only the named sites train."""
    return replace(sites, sites=tuple(replace(site, trains=site.name in names) for site in sites.sites))


def _train_and_evaluate(
    run: RunFolder, sites: Cohort, settings: Settings, display: Display, networks_folder: Path | None
) -> Status:
    federated = System(
        name=FEDERATED,
        folder=run.path,
        sites=tuple(site.folder for site in sites.sites if site.trains),
        settings=settings,
    )
    devices = engines.devices(settings.compute)
    beside = baselines.of(run, sites, settings, display) if settings.evaluate.baselines else ()
    for system in beside:
        _forget_another_plan(system, display)
    _rewrite_rounds(run, (federated, *beside))
    compute = settings.compute
    folders = [*(site.folder for site in sites.sites), run.path]
    if settings.campaign.evaluation:  # sites count what they trained alone beside what the ensemble says
        if beside:
            with engines.places(compute, folders, display.line) as places:
                _train_side_by_side(beside, run, display, places)
        baselines.keep_alone(beside, federated)
    with Workers(devices, threads=compute.threads, stacked=compute.stacked) as workers:
        outcome = _train(federated, run, display, workers, _library(networks_folder, sites, settings))
        run.update_manifest(**_outcome_facts(outcome, sites, settings))
        for site, reason in site_results.without(run.path).items():
            display.line(f"{site} gives no tables of its held-out patients: {reason}")
        _warn_of_unselected(outcome, settings, display)
        _warn_of_unstacked(outcome, settings, display)
    with engines.places(compute, folders, display.line) as places:
        if beside and not settings.campaign.evaluation:
            _train_side_by_side(beside, run, display, places)
        with display.step("personal networks") as bar:
            choices = personal.make(
                run.path,
                list(_networks(federated)),
                sites,
                settings,
                run_name=campaign.run_name(federated.folder),
                devices=devices,
                bar=bar,
            )
        with display.step("evaluation"):
            frame = _evaluate(run, federated, beside, sites, places, choices)
        if settings.evaluate.heatmaps:
            _compare_heatmaps(run, federated, frame, sites, places, display)
        else:
            shutil.rmtree(run.path / "figures" / "heatmaps", ignore_errors=True)
        shutil.rmtree(run.path / "figures" / hotspots.FOLDER, ignore_errors=True)
        if settings.evaluate.hotspots:
            with display.step("hotspots") as bar:
                hotspots.write(run.path, _ensemble(federated), frame, sites, places=places, progress=bar)
    _tidy(federated, *beside)
    run.update_manifest(status=str(outcome.status), ended=datetime.now(UTC).isoformat(timespec="seconds"))
    return outcome.status


def _forget_another_plan(system: System, display: Display) -> None:
    """A run may go on with other baselines than it began with: these are trained anew."""
    before = journal.plan_of(system.folder / "journal")
    if before is None or before == system.settings.plan_hash():
        return
    display.line(f"{system.name}: trained with other settings before, and is trained anew")
    for path in system.folder.iterdir():
        if path.name != "site":  # the pooled exams, which follow from the sites
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _warn_of_unselected(outcome: Outcome, settings: Settings, display: Display) -> None:
    """Say which networks were taken as they ended, because nothing about their validation scores left the sites.

    Under [privacy] that is as it should be: choosing a round by the sites' data would cost, too.
    """
    if settings.privacy is not None:
        return
    scoring = [
        name
        for name, spec in networks(settings).items()
        if spec.scoring and selects(spec, settings) and name in outcome.results
    ]
    unselected = [name for name in scoring if math.isnan(outcome.results[name].auc)]
    if unselected:
        display.line(
            f"Warning: no validation scores of {len(unselected)} networks: their last round is taken, with threshold "
            f"0.5. Either no site permits score_histograms in policy.metrics, or each fold has fewer patients than "
            f"its policy.minimum_cohort"
        )


def _warn_of_unstacked(outcome: Outcome, settings: Settings, display: Display) -> None:
    """Say of which numbers the plain mean is taken, because nothing for their stacking left the sites."""
    members = stages.stacked(networks(settings).values(), settings).values()
    for number in sorted({specs[0].target.measurement for specs in members} - set(outcome.stacks)):
        display.line(
            f"Warning: no sums for the stacking of {number}: the mean over its networks is taken. Either no site "
            f"permits stacking_sums in policy.metrics, or each fold has fewer patients than its policy.minimum_cohort"
        )


def _tidy(*systems: System) -> None:
    """Remove what only an unfinished run needs.

    With the pooled site goes its log, so its receipts go before it: taken up again, it signs with a new key.
    """
    for system in systems:
        plan_hash = system.settings.plan_hash()
        for site in system.sites:
            for kept in (weights_cache, site_state, sum_state):
                kept.forget(site, plan_hash=plan_hash, run=campaign.run_name(system.folder))
            alone.forget(site, plan_hash)
        pooled = (system.folder / "site").exists()
        for name in ("spool", *(("receipts", "site") if pooled else ())):
            shutil.rmtree(system.folder / name, ignore_errors=True)


def _rewrite_rounds(run: RunFolder, systems: Sequence[System]) -> None:
    """After an interruption, ``rounds.jsonl`` says again what the journals say."""
    run.rewrite_rounds(
        (system.name, record)
        for system in systems
        for record in journal.records(system.folder / "journal", plan_hash=system.settings.plan_hash())
    )


def _library(folder: Path | None, sites: Cohort, settings: Settings) -> NetworkLibrary | None:
    if folder is None:
        return None
    stores = {site.name: site_store(Site.open(site.folder), settings) for site in sites.sites if site.trains}
    return NetworkLibrary(folder, {name: store.fingerprint for name, store in stores.items()})


def _train(
    system: System,
    run: RunFolder,
    display: Display,
    workers: Places,
    library: NetworkLibrary | None = None,
) -> Outcome:
    def observe(event: Event) -> None:
        if isinstance(event, RoundRecord):
            run.append_round(system.name, event)
        display.event(system.name, event)

    logs = SiteLogs(system.sites)
    try:
        outcome = engines.run_campaign(
            system.settings,
            system.sites,
            folder=system.folder,
            observer=observe,
            workers=workers,
            library=library,
        )
    except SynofedError as error:
        said = logs.errors()
        raise type(error)(f"{system.name}: {error}\n{said}" if said else f"{system.name}: {error}") from error
    if outcome.missing and (said := logs.errors()):
        display.line(f"{system.name}: some rounds went without a site. {said}")
    return outcome


def _train_side_by_side(systems: Sequence[System], run: RunFolder, display: Display, places: Places) -> None:
    """Each baseline has one site, so several at once keep all places busy."""
    with interruption.threads(len(systems)) as pool:
        for future in [pool.submit(_train, system, run, display, places) for system in systems]:
            future.result()


def _outcome_facts(outcome: Outcome, sites: Cohort, settings: Settings) -> dict[str, object]:
    stores = {site.name: site_store(Site.open(site.folder), settings) for site in sites.sites}
    return {
        "sites": list(outcome.sites),
        "missing": dict(outcome.missing),
        "fingerprints": {name: store.fingerprint for name, store in stores.items()},
        "usable": {name: dict(store.usable) for name, store in stores.items()},
        "quarantined": {name: len(store.quarantined) for name, store in stores.items()},
        "networks": {name: result.facts() for name, result in outcome.results.items()},
        "stacks": {number: stack.model_dump() for number, stack in outcome.stacks.items()},
        "trained_networks": len(outcome.results) - len(outcome.reused),
        "steps": _steps(settings, outcome),
    }


def _steps(settings: Settings, outcome: Outcome) -> int:
    """Of local training at each site, of all networks."""
    planned = networks(settings)
    each = [local_settings(planned[name], settings) for name in outcome.results]
    return sum(local.rounds * local.training.local_steps for local in each)


def _evaluate(
    run: RunFolder,
    federated: System,
    beside: Sequence[System],
    sites: Cohort,
    places: Places,
    choices: Mapping[str, object],
) -> pd.DataFrame:
    """Write predictions, metrics and examples; gives the federated ensemble's predictions."""
    settings = federated.settings

    ensemble, common = list(_networks(federated)), _ensemble(federated)
    simplest = trivial.learnt(sites, settings)
    frame = predictions(common, sites, places)
    asked_apart = {
        **single_image.answers(ensemble, common, sites, places),
        **layers.answers(ensemble, common, sites, places),
    }
    frame = frame.assign(**simplest.answers(frame, settings), **asked_apart)
    frame, stacking = _stacked(run, ensemble, frame, sites, settings)
    others = {
        system.name: predictions(replace(common, folder=system.folder / "networks"), sites, places)
        for system in beside
    }
    fewest = beside[0].settings if beside else settings
    models = fewest.rating.models or settings.rating.folds
    if beside and any(network.spec.fold >= models for network in ensemble):
        others[FEDERATED] = predictions(replace(common, models=models), sites, places)
    if choices:
        others[PERSONAL] = personal.predicted(run.path, sites, settings, models=models, places=places)
    frame.to_parquet(run.path / "predictions.parquet", index=False)
    if others:
        systems = [other.assign(system=name) for name, other in others.items()]
        pd.concat(systems).to_parquet(run.path / "predictions_baselines.parquet", index=False)
    else:  # those of an evaluation that had some
        (run.path / "predictions_baselines.parquet").unlink(missing_ok=True)
    thresholds = {network.spec.name: network.result.threshold for network in ensemble}
    histograms = journal.validation(federated.folder / "journal", plan_hash=settings.plan_hash())
    run.write_json(
        "metrics.json",
        metrics(
            frame,
            settings=settings,
            baselines=others,
            thresholds=thresholds,
            cuts=simplest.cuts,
            validation=calibration.told(ensemble, histograms),
            temperatures=personal.temperatures(choices),
            generator_seed=settings.seed,
        )
        | {"personal": choices or None}
        | stacking
        | layers.block(scorer_of(frame, settings, seed=settings.seed), frame, ensemble)
        | _sets(run, frame, settings),
    )
    examples.write(run.path / "figures", frame, sites, settings)
    return frame


def _stacked(
    run: RunFolder,
    ensemble: Sequence[TrainedNetwork],
    frame: pd.DataFrame,
    sites: Cohort,
    settings: Settings,
) -> tuple[pd.DataFrame, dict[str, object]]:
    """The predictions, with stacked numbers where the settings ask for them, and what the metrics say of these."""
    specs = tuple(network.spec for network in ensemble if network.spec.scoring)
    stacking = stacked.of(run.path / "journal", specs, sites, settings)
    if stacking is None:
        return frame, {}
    scorer = scorer_of(frame, settings, seed=settings.seed)
    plain = frame[frame["trained_site"].astype(bool)]
    said = stacked.block(stacking, specs, scorer, plain, settings=settings)
    return stacked.applied(frame, specs, stacking, settings), {"stacking": finite(said)}


def _sets(run: RunFolder, frame: pd.DataFrame, settings: Settings) -> dict[str, object]:
    """What sets of grades are worth on machines that nobody measured; nothing where no site told of any."""
    at = inside.thresholds(run.path)
    grades = {name: measurement.grades for name, measurement in settings.measurements.items()}
    return {"sets_unseen": sets.unseen(frame, at, grades)} if at else {}


def _networks(system: System) -> Iterator[TrainedNetwork]:
    return network_files.load_all(system.folder / "networks")


def _ensemble(system: System) -> Ensemble:
    return Ensemble(folder=system.folder / "networks", settings=system.settings)


def _compare_heatmaps(
    run: RunFolder,
    federated: System,
    predictions: pd.DataFrame,
    sites: Cohort,
    places: Places,
    display: Display,
) -> None:
    """Add to the metrics how much of the heatmaps lies inside a phantom's synovium."""
    found = heatmap_truth.write(
        run.path,
        _ensemble(federated),
        predictions,
        sites,
        exams=federated.settings.evaluate.heatmaps,
        settings=HeatmapSettings(method=federated.settings.evaluate.heatmap_method),
        places=places,
        display=display,
    )
    measured = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    run.write_json("metrics.json", measured | {"heatmaps": found})
