"""Does a start from jigsaw puzzles beat a random start on few labels? On the phantom, all sites pooled, as JSON.

    python benchmarks/jigsaw.py [--small] [--puzzles 66/18/24 ...] [--seeds 8] [--cohort FOLDER]

Puzzles (image px / tile px / permutations) are learnt from the grey-scale images of all training patients and
tried on those of the held-out patients. Then F, grey-scale to one task of hypertrophy, learns from the labelled
exams of a few training patients: from the puzzles and from random weights, with the same exams, batches and
steps. Each start has the learning rate whose mean validation AUC over the seeds is best; a quarter of the
training patients, which neither start learns labels from, validates. AUC is then that of the held-out patients.

A seed chooses the labelled patients, batches, augmentation and the random start (of the head alone, where the
backbone comes from puzzles), and it has a puzzle network of its own. ``difference`` is the jigsaw start's AUC
minus the random one's, seed by seed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from client.data.site_store import site_store
from client.site.site import Site
from common.exam import MISSING
from common.methods.stages import networks
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.sections.training import TrainingSettings
from common.settings import Settings, load
from common.training.data import ExamTensors
from common.training.inputs import labels
from common.training.local import accuracy, score, train_network
from common.training.local_settings import LocalSettings, local_settings
from simulation.cohorts import cohort

CONFIG = Path(__file__).parents[1] / "configs" / "rating_small.toml"
PUZZLE = "rating/jigsaw"
MEASUREMENT = "hypertrophy"
VALIDATION, LABELLED = 0, 1
"""Folds: of the patients that choose the learning rate, and of those whose labels are learnt from."""
SMALL = (
    *(
        "--puzzles",
        "48/12/4",
        "--puzzle-steps",
        "6",
        "--steps",
        "4",
        "--seeds",
        "2",
        "--rates",
        "1e-3",
        "4e-3",
    ),
    *("--set", "cohort.phantom.sites=2", "cohort.phantom.patients=16", "cohort.phantom.exams_per_patient=3"),
    *("cohort.phantom.unseen_device=false", "network.width=4", "network.image_px=32"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Which AUC a network reached on the patients that validate and on those held out."""

    validation: float
    held_out: float


def pooled(folder: Path, settings: Settings) -> ExamTensors:
    """The exams of all sites that train as if they were of one; patients stay apart."""
    sites = [site for site in cohort.discover(folder).sites if site.trains]
    each = [site_store(Site.open(site.folder), settings).tensors for site in sites]
    patients, before = [], 0
    for data in each:
        patients.append(data.patient + before)
        before += int(data.patient.max()) + 1
    return ExamTensors(
        images={name: torch.cat([data.images[name] for data in each]) for name in settings.images},
        grades={name: torch.cat([data.grades[name] for data in each]) for name in settings.measurements},
        fold=torch.cat([data.fold for data in each]),
        patient=torch.cat(patients),
    )


def few_labels(data: ExamTensors, *, share: float, seed: int) -> ExamTensors:
    """The same exams; a fourth of the training patients validates, ``share`` of all of them is labelled."""
    training = np.unique(data.patient[data.fold != MISSING].numpy())
    np.random.default_rng(0).shuffle(training)  # those that validate are the same for every seed
    validating, rest = np.split(training, [len(training) // 4])
    chosen = np.random.default_rng(seed).permutation(rest)[: max(1, round(share * len(training)))]
    fold = torch.full_like(data.fold, MISSING)
    fold[torch.from_numpy(np.isin(data.patient.numpy(), validating))] = VALIDATION
    fold[torch.from_numpy(np.isin(data.patient.numpy(), chosen))] = LABELLED
    return replace(data, fold=fold)


def of_steps(settings: TrainingSettings, *, steps: int, rate: float) -> TrainingSettings:
    """One round of so many steps, over which the learning rate's schedule is stretched."""
    return settings.model_copy(update={"local_steps": steps, "learning_rate": rate})


def solve_puzzles(
    data: ExamTensors, settings: Settings, *, steps: int, rate: float, seed: int
) -> tuple[LocalSettings, torch.Tensor]:
    """A network that has learnt the settings' puzzles."""
    local = local_settings(networks(settings)[PUZZLE], settings)
    local = replace(local, rounds=1, training=of_steps(local.training, steps=steps, rate=rate))
    start = build.initial_weights(local.spec, settings.network, seed=seed)
    return local, start + train_network(start, {}, data, local, 1, seed)[0].update


def auc(weights: torch.Tensor, data: ExamTensors, local: LocalSettings, exams: torch.Tensor) -> float:
    """Of the exams that are graded."""
    classes = labels(data, local.spec)[exams]
    graded = classes != MISSING
    scores = score(weights, data, exams[graded], local)[:, 1]
    return float(roc_auc_score(classes[graded].numpy(), scores.numpy()))


def learn_task(
    data: ExamTensors,
    settings: Settings,
    arguments: argparse.Namespace,
    *,
    threshold: int,
    rate: float,
    seed: int,
    backbone: torch.Tensor | None,
) -> Trained:
    """F learns one task from few labels, its backbone from ``backbone`` or at random."""
    spec = NetworkSpec(
        name=f"F/gt{threshold}",
        images=("gs",),
        target=Target(measurement=MEASUREMENT, threshold=threshold),
        fold=VALIDATION,
    )
    training = of_steps(settings.training, steps=arguments.steps, rate=rate)
    local = replace(local_settings(spec, settings), rounds=1, training=training)
    start = build.initial_weights(spec, settings.network, seed=seed)
    if backbone is not None:
        (place,) = build.layout(spec, settings.network).slices("backbone")
        start[place] = backbone
    few = few_labels(data, share=arguments.labelled, seed=seed)
    trained = start + train_network(start, {}, few, local, 1, seed)[0].update
    validating = torch.nonzero(few.fold == VALIDATION).flatten()
    held_out = torch.nonzero(data.fold == MISSING).flatten()
    return Trained(
        validation=auc(trained, data, local, validating), held_out=auc(trained, data, local, held_out)
    )


def best_rate(by_rate: Mapping[float, Sequence[Trained]]) -> float:
    """The learning rate of the best mean validation AUC."""
    return max(by_rate, key=lambda rate: statistics.mean(one.validation for one in by_rate[rate]))


def each_task(
    data: ExamTensors,
    settings: Settings,
    arguments: argparse.Namespace,
    backbones: Sequence[torch.Tensor | None],
) -> dict[str, dict[float, list[Trained]]]:
    """Task -> learning rate -> what each seed reached, from its backbone."""
    return {
        f"gt{threshold}": {
            rate: [
                learn_task(
                    data, settings, arguments, threshold=threshold, rate=rate, seed=seed, backbone=backbone
                )
                for seed, backbone in enumerate(backbones)
            ]
            for rate in arguments.rates
        }
        for threshold in arguments.thresholds
    }


def compared(
    jigsaw: Mapping[float, Sequence[Trained]], random: Mapping[float, Sequence[Trained]]
) -> dict[str, object]:
    """Both starts of one task, each at its best learning rate, on held-out patients."""
    rates = best_rate(jigsaw), best_rate(random)
    ours, theirs = (
        [one.held_out for one in by_rate[r]] for by_rate, r in zip((jigsaw, random), rates, strict=True)
    )
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return {
        "learning_rates": {"jigsaw": rates[0], "random": rates[1]},
        "auc": {"jigsaw": round(statistics.mean(ours), 4), "random": round(statistics.mean(theirs), 4)},
        "difference": {
            "mean": round(statistics.mean(differences), 4),
            "sd": round(statistics.stdev(differences), 4),
            "seeds": [round(difference, 4) for difference in differences],
        },
    }


def with_puzzles(settings: Settings, puzzles: str) -> Settings:
    """The settings with ``image px/tile px/permutations``."""
    image_px, tile_px, permutations = map(int, puzzles.split("/"))
    sizes = {"image_px": image_px, "tile_px": tile_px, "permutations": permutations}
    jigsaw = settings.rating.jigsaw.model_copy(update=sizes)
    rating = settings.rating.model_copy(update={"jigsaw": jigsaw, "pretraining": "jigsaw"})
    return settings.model_copy(update={"rating": rating})


def measured(data: ExamTensors, settings: Settings, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Each kind of puzzle, and what a start from it gives."""
    random = each_task(data, settings, arguments, [None] * arguments.seeds)
    held_out = torch.nonzero(data.fold == MISSING).flatten()
    found = []
    for puzzles in arguments.puzzles:
        right, backbones = [], []
        for seed in range(arguments.seeds):
            local, weights = solve_puzzles(
                data,
                with_puzzles(settings, puzzles),
                steps=arguments.puzzle_steps,
                rate=arguments.puzzle_rate,
                seed=seed,
            )
            right.append(accuracy(weights, data, held_out, local))
            backbones.append(build.part(local.spec, settings.network, weights, "backbone"))
        jigsaw = each_task(data, settings, arguments, backbones)
        found.append(
            {
                "puzzles": puzzles,
                "accuracy": {"mean": round(statistics.mean(right), 4), "smallest": round(min(right), 4)},
                "chance": round(1 / local.spec.target.classes, 4),
                "tasks": {task: compared(jigsaw[task], random[task]) for task in random},
            }
        )
    return found


def parsed(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="a few steps of tiny networks: to see that it runs"
    )
    parser.add_argument(
        "--cohort", type=Path, help="a cohort's folder; else one is made as the configuration says"
    )
    parser.add_argument("--puzzles", nargs="+", default=["66/18/100", "66/14/100"])
    parser.add_argument("--puzzle-steps", type=int, default=1000)
    parser.add_argument("--puzzle-rate", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-3, 4e-3, 8e-3])
    parser.add_argument("--labelled", type=float, default=1 / 8, help="share of the training patients")
    parser.add_argument("--thresholds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument(
        "--set", nargs="+", default=[], dest="overrides", help="settings of the configuration"
    )
    arguments = parser.parse_args(given)
    return (
        parser.parse_args([*SMALL, *(a for a in given if a != "--small")]) if arguments.small else arguments
    )


def main() -> None:
    torch.set_num_threads(1)
    arguments = parsed(sys.argv[1:])
    settings = load(CONFIG, overrides=arguments.overrides)
    assert settings.cohort is not None
    assert settings.cohort.phantom is not None
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.cohort or Path(temporary) / "cohort"
        if arguments.cohort is None:
            cohort.make(settings.cohort.phantom, seed=settings.seed, out=folder, workers=1)
        data = pooled(folder, settings)
    training = data.fold != MISSING
    result = {
        "benchmark": "jigsaw",
        "training_patients": len(data.patient[training].unique()),
        "held_out_patients": len(data.patient[~training].unique()),
        "labelled": arguments.labelled,
        "puzzle_steps": arguments.puzzle_steps,
        "puzzle_rate": arguments.puzzle_rate,
        "steps": arguments.steps,
        "rates": arguments.rates,
        "seeds": arguments.seeds,
        "network": settings.network.model_dump(include={"backbone", "image_px", "width"}),
        "measured": measured(data, settings, arguments),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
