"""How far federated training trails pooled training, and what mends it: many arms on the same phantom sites.

    python benchmarks/federated_gap.py OUT --scenarios devices --seeds 1,2 --arms fedavg,kept,pooled --models 1

Every arm is ``configs/quickstart.toml`` with some settings replaced, on a cohort of the seed: equal networks, steps
and exams. A pooled step has a batch as large as all sites' batches together. An arm that ``OUT`` has is kept:
``OUT/<arm>.parquet`` keeps each exam's truth and answer. What is printed last is a table of means over seeds, with
intervals over seeds and patients.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import settings as configuration
from common.evaluation import bootstrap
from common.evaluation.agreement import accuracy, kappa
from common.evaluation.paired import Metric
from common.evaluation.seeds import estimate as over_seeds
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.settings import Settings
from server.campaign import campaign
from simulation.cohorts import cohort
from simulation.cohorts.cohort import Cohort
from simulation.engine import engines
from simulation.engine.grid import Workers
from simulation.evaluation.ensembles import Ensemble
from simulation.evaluation.predict import predictions
from simulation.runs import personal
from simulation.runs.baselines import baseline_settings, centralised

ROOT = Path(__file__).resolve().parents[1]
REPLICATES = 2000
FURTHER = "+"
"""After an arm's name: its networks, trained further by each site and asked about that site's patients alone."""
KEPT, FRESH = (f"federation.optimiser_state={state}" for state in ("kept", "fresh"))
SCENARIOS = {
    "devices": (),
    "alike": ("cohort.phantom.shift.devices=one",),
    "severity": ("cohort.phantom.shift.devices=one", "cohort.phantom.shift.severity=1.0"),
    "sizes": ("cohort.phantom.shift.devices=one", "cohort.phantom.shift.largest=6"),
}


def outer(rate: float, momentum: float) -> tuple[str, ...]:
    return (
        "federation.algorithm=fedavgm",
        f"federation.server_learning_rate={rate}",
        f"federation.beta1={momentum}",
    )


def steps(local: int) -> tuple[str, ...]:
    """As many steps in all, in rounds of another length."""
    return (
        f"training.local_steps={local}",
        f"federation.rounds={200 // local}",
        f"rating.head.rounds={80 // local}",
    )


def rate(factor: float) -> tuple[str, ...]:
    """Of the quickstart's."""
    return (f"training.learning_rate={4e-3 * factor:g}", f"rating.head.learning_rate={2e-3 * factor:g}")


def sgd(learning_rate: float) -> tuple[str, ...]:
    return (
        "training.optimiser=sgd",
        "training.momentum=0.9",
        f"training.learning_rate={learning_rate}",
        f"rating.head.learning_rate={learning_rate / 2}",
    )


ARMS: Mapping[str, tuple[str, ...]] = {
    "fedavg": (FRESH,),
    "kept": (KEPT,),
    "averaged": (
        FRESH,
        "federation.algorithm=averaged_moments:algorithm",
    ),
    "fedavg-x2": (FRESH, *rate(2)),
    "kept-x0.5": (KEPT, *rate(0.5)),
    "kept-x2": (KEPT, *rate(2)),
    "kept-x3": (KEPT, *rate(3)),
    "kept-2": (KEPT, *steps(2)),
    "kept-5": (KEPT, *steps(5)),
    "kept-20": (KEPT, *steps(20)),
    "kept-40": (KEPT, *steps(40)),
    "kept-b64": (KEPT, "training.batch_size=64"),
    "kept-b160": (KEPT, "training.batch_size=160"),
    "kept-falling": (KEPT, "training.schedule=rating"),
    "sgd-0.03": (KEPT, *sgd(0.03)),
    "sgd-0.1": (KEPT, *sgd(0.1)),
    "diloco-0.7-0.9": (KEPT, *outer(0.7, 0.9)),
    "diloco-0.7-0.5": (KEPT, *outer(0.7, 0.5)),
    "diloco-1-0.3": (KEPT, *outer(1.0, 0.3)),
    "diloco-1-0.5": (KEPT, *outer(1.0, 0.5)),
    "diloco-1.3-0": (KEPT, *outer(1.3, 0.0)),
    "fedavgm-1-0.5": (FRESH, *outer(1.0, 0.5)),
    "fedadam": (FRESH, "federation.algorithm=fedadam", "federation.server_learning_rate=0.003"),
    "kept-bn": (KEPT, "federation.algorithm=fedbn"),
    "kept-prox": (KEPT, "federation.algorithm=fedprox", "federation.proximal_mu=0.01"),
    "kept-accuracy": (KEPT, "federation.threshold=accuracy"),
    "kept-kappa": (KEPT, "federation.threshold=kappa"),
    "pooled-accuracy": (KEPT, "federation.threshold=accuracy"),
    "pooled": (KEPT,),
    "pooled-fresh": (FRESH,),
    "pooled-x0.5": (KEPT, *rate(0.5)),
    "pooled-x2": (KEPT, *rate(2)),
    "pooled-x3": (KEPT, *rate(3)),
    "pooled-falling": (KEPT, "training.schedule=rating"),
    "pooled-b7": (KEPT, "training.batch_size=7"),
    "pooled-b64": (KEPT, "training.batch_size=64"),
    "alone": (KEPT,),
    "alone-fresh": (FRESH,),
    "alone-falling": (KEPT, "training.schedule=rating"),
}
"""Arms named ``pooled`` train on all sites' exams as one site, those named ``alone`` each site by itself.

``-b64``: exams of a site's batch; a pooled step takes as many as all sites together, five times that.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One arm on one cohort."""

    scenario: str
    seed: int
    models: int
    rounds: int
    arm: str

    @property
    def name(self) -> str:
        return f"{self.scenario}-{self.seed}-{self.models}-{self.rounds}-{self.arm}"


def settings_of(case: Case, overrides: Sequence[str]) -> Settings:
    given = (
        f"seed={case.seed}",
        f"rating.models={case.models}",
        f"federation.rounds={case.rounds}",
        f"rating.head.rounds={round(0.4 * case.rounds)}",
        "evaluate.heatmaps=0",
        *SCENARIOS[case.scenario],
        *ARMS[case.arm],
        *overrides,
    )
    return configuration.load(ROOT / "configs" / "quickstart.toml", overrides=given)


def sites(settings: Settings, out: Path) -> Cohort:
    assert settings.cohort is not None and settings.cohort.phantom is not None
    phantom = settings.cohort.phantom
    shifts = phantom.shift.model_dump_json().encode().hex()[-16:]
    return cohort.ensure(phantom, seed=settings.seed, out=out / "cohorts" / f"{settings.seed}-{shifts}")


def run(case: Case, out: Path, overrides: Sequence[str], *, further: bool) -> None:
    """Train an arm and write what its networks say; with ``further`` also once sites have trained on."""
    settings = settings_of(case, overrides)
    there = sites(settings, out)
    training = [site for site in there.sites if site.trains]
    if case.arm.startswith("pooled"):
        place = out / "cohorts" / f"{there.folder.name}-pooled"
        system = centralised(place, training, baseline_settings(settings))
        settings, systems = system.settings, {"all": list(system.sites)}
    elif case.arm.startswith("alone"):
        systems = {site.name: [site.folder] for site in training}
    else:
        systems = {"all": [site.folder for site in training]}
    devices = engines.devices(settings.compute)
    frames: dict[str, list[pd.DataFrame]] = {"": [], FURTHER: []}
    with Workers(devices, threads=1) as workers:
        for name, folders in systems.items():
            folder = out / "runs" / case.name / name
            shutil.rmtree(folder, ignore_errors=True)
            engines.run_campaign(
                settings, folders, folder=folder, observer=lambda event: None, workers=workers
            )
            trained = list(network_files.load_all(folder / "networks"))
            ensemble = Ensemble(folder=folder / "networks", settings=settings)
            frames[""].append(predictions(ensemble, there, workers).assign(system=name))
            if further:
                own = replace(there, sites=tuple(s for s in training if s.folder in folders))
                found = _further(folder, trained, own, settings, devices, workers)
                frames[FURTHER].append(found.assign(system="all"))
            shutil.rmtree(folder)
    for suffix, found in frames.items():
        if found:
            keep = pd.concat(found, ignore_index=True)
            columns = [c for c in keep if c.startswith(("truth_", "decision_", "vote_"))]
            keep = keep[["system", "site", "patient_id", "exam_id", "trained_site", *columns]]
            keep.to_parquet(out / f"{case.name}{suffix}.parquet", index=False)


def _further(
    folder: Path,
    trained: Sequence[TrainedNetwork],
    own: Cohort,
    settings: Settings,
    devices: Sequence[str],
    workers: Workers,
) -> pd.DataFrame:
    """Each site's answers to its own held-out exams after personalisation (:mod:`common.ensemble.personal`)."""
    personal.make(
        folder,
        trained,
        own,
        settings,
        run_name=campaign.run_name(folder),
        devices=devices,
        bar=lambda done, total: None,
    )
    models = settings.rating.models or settings.rating.folds
    return personal.predicted(folder, own, settings, models=models, places=workers)


def grades(frame: pd.DataFrame, source: str) -> np.ndarray:
    combined: np.ndarray = frame[[f"{source}_hypertrophy", f"{source}_vascularity"]].max(axis=1).to_numpy()
    return combined


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "kappa": partial(kappa, weights="linear"),
}
PARTS = ("seen", "own", "unseen")
"""All training sites' patients; each site's, then the mean over sites; those of the machine never trained on."""


def drawn(frame: pd.DataFrame, part: str, metric: str, *, seed: int) -> np.ndarray:
    """A metric of one arm on one cohort, combined score: as it is, then of each replicate over patients.

    The same cohort is drawn alike for every arm, so that differences are paired.
    """
    if part == "own":
        groups = [group for _, group in own_patients(frame).groupby("site")]
    else:
        groups = [frame[frame["trained_site"] == (part == "seen")]]
    if not all(map(len, groups)):
        return np.full(REPLICATES + 1, np.nan)
    mean: np.ndarray = np.mean([_replicates(group, METRICS[metric], seed) for group in groups], axis=0)
    return mean


def own_patients(frame: pd.DataFrame) -> pd.DataFrame:
    """What each training site's system, or the one of all, says of that site's patients."""
    return frame[frame["trained_site"] & frame["system"].isin(["all"]) | (frame["system"] == frame["site"])]


def _replicates(frame: pd.DataFrame, metric: Metric, seed: int) -> np.ndarray:
    patient, _ = pd.factorize(frame["site"].astype(str) + "/" + frame["patient_id"].astype(str), sort=True)
    count = int(patient.max()) + 1
    per_patient = bootstrap.patient_confusions(
        grades(frame, "truth"), grades(frame, "decision"), patient, grades=4, patients=count
    )
    weights = bootstrap.resamples(count, replicates=REPLICATES, generator=np.random.default_rng(seed))
    whole = per_patient.sum(axis=0, dtype=np.float64)[None]
    return np.asarray(metric(np.concatenate([whole, bootstrap.replicate_confusions(per_patient, weights)])))


Found = Mapping[tuple[str, str, str], Sequence[np.ndarray]]
"""(arm, part, metric) -> of each cohort the value, then its replicates."""


def measured(out: Path, cases: Mapping[str, Mapping[int, Case]]) -> Found:
    frames = {
        arm: {seed: pd.read_parquet(out / f"{case.name}.parquet") for seed, case in of.items()}
        for arm, of in cases.items()
    }
    return {
        (arm, part, metric): [drawn(frame, part, metric, seed=seed) for seed, frame in of.items()]
        for arm, of in frames.items()
        for part in PARTS
        for metric in METRICS
    }


def table(found: Found, arms: Sequence[str], *, reference: str) -> str:
    """Markdown, an arm a row; accuracy in %, and the paired difference of what all arms are scored on."""
    head = [f"{part} {metric}" for part in PARTS for metric in METRICS]
    lines = [
        "| arm | " + " | ".join([*head, f"own accuracy - {reference}"]) + " |",
        "|---" * (len(head) + 2) + "|",
    ]
    for arm in arms:
        cells = [
            _cell(found[arm, part, metric], percent=metric == "accuracy")
            for part in PARTS
            for metric in METRICS
        ]
        pairs = zip(found[arm, "own", "accuracy"], found[reference, "own", "accuracy"], strict=True)
        cells.append("" if arm == reference else _cell([a - b for a, b in pairs], percent=True))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(found: Found, arms: Sequence[str], path: Path) -> None:
    """Accuracy on own patients and on the unseen machine, with intervals."""
    shown = Figure(figsize=(7, 0.4 * len(arms) + 1.2), layout="constrained")
    axes = shown.subplots()
    for shift, (part, label) in enumerate((("own", "own patients"), ("unseen", "machine never trained on"))):
        estimates = [over_seeds(np.stack(found[arm, part, "accuracy"])) for arm in arms]
        values = np.array([100 * e.value for e in estimates])
        spread = np.array([[100 * (e.value - e.low), 100 * (e.high - e.value)] for e in estimates]).T
        rows = np.arange(len(arms)) + 0.2 * shift
        axes.errorbar(values, rows, xerr=spread, fmt="os"[shift], capsize=3, label=label)
    axes.set_yticks(np.arange(len(arms)) + 0.1, arms)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy of the combined score, %")
    axes.legend()
    shown.savefig(path)


def by_site(
    out: Path, cases: Mapping[str, Mapping[int, Case]], *, reference: str
) -> Mapping[str, Mapping[str, float]]:
    """Arm -> site -> accuracy on the site's own patients minus the reference's, in points, mean over cohorts."""

    def own(case: Case) -> pd.Series:
        mine = own_patients(pd.read_parquet(out / f"{case.name}.parquet"))
        right = pd.Series(grades(mine, "truth") == grades(mine, "decision"), index=mine["site"])
        return 100 * right.groupby(level=0).mean()

    base = cases[reference]
    return {
        arm: pd.concat([own(case) - own(base[seed]) for seed, case in of.items()], axis=1)
        .mean(axis=1)
        .to_dict()
        for arm, of in cases.items()
        if arm != reference
    }


def _cell(values: Sequence[np.ndarray], *, percent: bool) -> str:
    estimate = over_seeds(np.stack(values))
    if np.isnan(estimate.value):
        return ""
    scale, digits = (100, 1) if percent else (1, 3)
    value, low, high = (scale * number for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenarios", default="devices")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--arms", default="fedavg,kept,pooled")
    parser.add_argument("--reference", default="pooled")
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--figure", type=Path, help="an image; the scenario's name is put in before its ending"
    )
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    out = given.out.resolve()
    given.figure = given.figure and given.figure.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for scenario in given.scenarios.split(","):
        cases = {
            arm: {
                seed: Case(scenario=scenario, seed=seed, models=given.models, rounds=given.rounds, arm=arm)
                for seed in seeds
            }
            for arm in given.arms.split(",")
        }
        for case in (of[seed] for seed in seeds for of in cases.values()):
            path = out / f"{case.name}.parquet"
            if not path.exists():
                base = replace(case, arm=case.arm.removesuffix(FURTHER))
                run(base, out, given.set, further=f"{base.arm}{FURTHER}" in cases)
            frame = pd.read_parquet(path)
            one = {part: float(drawn(frame, part, "accuracy", seed=case.seed)[0]) for part in PARTS}
            print(case.name, *(f"{part} {value:.3f}" for part, value in one.items()), flush=True)
        found = measured(out, cases)
        text = table(found, list(cases), reference=given.reference)
        print(f"\n{scenario}, {len(seeds)} cohorts\n\n{text}\n")
        for arm, gains in by_site(out, cases, reference=given.reference).items():
            shown = ", ".join(f"{site} {gain:+.1f}" for site, gain in sorted(gains.items()))
            print(f"{arm} - {given.reference} on own patients: {shown}", flush=True)
        if given.figure is not None:
            figure(found, list(cases), given.figure.with_stem(f"{given.figure.stem}_{scenario}"))


if __name__ == "__main__":
    main()
