"""Does the fusion of grey-scale and Doppler score hypertrophy better than either alone? On one fixed cohort.

Prints JSON: for each set of images the mean AUC of the three binary tasks over the held-out exams of all sites,
accuracy and linear kappa, over several seeds of training.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import synofed
from common.sections.cohort import PhantomSettings
from simulation.cohorts import cohort

SEEDS = (1, 2)
IMAGES = {"fusion": ["gs", "doppler"], "gs only": ["gs"], "doppler only": ["doppler"]}
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.toml"


def main() -> None:
    results: dict[str, dict[str, list[float]]] = {name: {} for name in IMAGES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cohort"
        cohort.make(PhantomSettings(sites=4, unseen_device=False), seed=11, out=folder)
        for name, images in IMAGES.items():
            for seed in SEEDS:
                scores = _scores(images, seed, folder, Path(temporary) / "run")
                for metric, value in scores.items():
                    results[name].setdefault(metric, []).append(value)
    means = {name: {m: statistics.mean(v) for m, v in scores.items()} for name, scores in results.items()}
    print(json.dumps({"benchmark": "modalities", "seeds": SEEDS, "mean": means, "each": results}, indent=1))


def _scores(images: list[str], seed: int, folder: Path, out: Path) -> dict[str, float]:
    run = synofed.simulate(
        CONFIG,
        out=out,
        overrides=[
            f"seed={seed}",
            'validity="any"',
            f"measurements={{hypertrophy={{grades=4, images={json.dumps(images)}}}}}",
            f"cohort={{folder={json.dumps(str(folder))}}}",
            "evaluate.baselines=false",
            "federation.rounds=32",  # enough for the larger network to profit from its second image
        ],
    )
    metrics = run.metrics()
    tasks = metrics["binary"]["hypertrophy"].values()
    return {
        "mean_auc": statistics.mean(task["auc"]["value"] for task in tasks),
        "accuracy": metrics["hypertrophy"]["accuracy"]["value"],
        "kappa_linear": metrics["hypertrophy"]["kappa_linear"]["value"],
    }


if __name__ == "__main__":
    main()
