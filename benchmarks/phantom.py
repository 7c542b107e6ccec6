"""Phantom pairs per second at 224 px on two processes, without and with writing PNG files."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.sections.cohort import PhantomSettings
from simulation.cohorts import cohort
from simulation.phantom.devices import FITTED
from simulation.phantom.patients import make_patient

WORKERS, PATIENTS, EXAMS = 2, 120, 8


def _make(index: int) -> int:
    patient = make_patient(1, "site-a", index, FITTED[index % len(FITTED)], exams=EXAMS)
    return len(patient.exams.grey)


def main() -> None:
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(_make, range(4)))  # both processes have imported everything and made their textures
        start = time.perf_counter()
        pairs = sum(pool.map(_make, range(PATIENTS), chunksize=2))
        made = time.perf_counter() - start
    settings = PhantomSettings(sites=5, patients=16, unseen_device=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cohort.make(settings, seed=1, out=Path(folder) / "cohort", workers=WORKERS)
        written = time.perf_counter() - start
    result = {
        "pairs_per_s": round(pairs / made, 1),
        "pairs_per_s_with_png_and_start_up": round(settings.sites * settings.patients * EXAMS / written, 1),
        "goal_pairs_per_s": 100,
        "workers": WORKERS,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
