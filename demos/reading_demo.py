"""A reading room on this machine: ``make reading-demo``.

Phantom hospitals train a small ensemble together (about a minute, once: it is kept by what it is made of), and one of
them opens its reading room with it, for patients that no network has seen. What is done here by functions is said as
the command that people would type.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from common import settings as configuration
from common.text.terminal import Console
from common.version import VERSION
from simulation.cli import command_line
from simulation.cohorts import cohort
from simulation.engine.progress import Display
from simulation.runs.simulate import simulate

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.toml"
SMALL = (
    "cohort.phantom.sites=3", "cohort.phantom.patients=20", "cohort.phantom.exams_per_patient=6",
    "cohort.phantom.unseen_device=false", "cohort.phantom.ungraded_per_graded=1", "rating.folds=2",
    "name=reading-demo", "federation.rounds=8", "rating.head.rounds=4", "evaluate.baselines=false",
    "evaluate.heatmaps=0",
)  # fmt: skip
FOLDER = Path("runs") / "reading-demo"


def main() -> None:
    """Train what is not there yet, and say how the reading room is opened."""
    console = Console()
    settings = configuration.load(CONFIG, overrides=SMALL).model_copy(update={"personal": None})
    key = hashlib.sha256((settings.model_dump_json() + VERSION).encode()).hexdigest()[:12]
    run, site = FOLDER / f"ensemble-{key}", FOLDER / "site-a"
    if not run.exists():
        console.print("Three phantom hospitals train an ensemble (synofed simulate); this is done once.")
        with Display(Console(stderr=True)) as display:
            simulate(settings, out=run, resume=False, display=display)
    if not site.exists():
        assert settings.cohort is not None, "of the configuration"
        assert settings.cohort.phantom is not None, "likewise"
        patients = settings.cohort.phantom.model_copy(
            update={"sites": 1, "patients": 8, "ungraded_per_graded": 0}
        )
        made = cohort.make(patients, seed=settings.seed + 1, out=FOLDER / "patients")
        shutil.copytree(made.sites[0].folder, site)
    command = ["synofed", "serve", str(site), "--ensemble", str(run)]
    console.print(f"$ {' '.join(command)}")
    sys.argv = command
    command_line.run()


if __name__ == "__main__":
    main()
