"""One configuration with several seeds: a study of one row, in which patients, split and start are new each time.

All that is drawn follows from the seed: the phantom cohort (unless ``cohort.phantom.seed`` or a folder fixes that),
which patients are held out, and where networks start. The standard deviation over the seeds says how far a figure
moves when all of it is drawn again.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import settings as configuration
from common.errors import BusyError, CampaignError, ConfigurationError, DataError, SynofedError
from common.machine import atomic
from common.sections.section import LAST_SEED
from common.settings import Settings
from common.text.terminal import Console
from server.runs.run_folder import RunFolder
from simulation.engine.progress import Display
from simulation.studies import study as studies
from simulation.studies.study import Part, Study, StudyFile, StudyRun

NAME = "seeds.json"
ROW = "run"
RUN = re.compile(r"s\d+-[0-9a-f]{8}(\.\d+)?")
"""A run's folder, or one that was moved aside."""
SEED = re.compile(r"[0-9]{1,20}")
METRICS = ("accuracy", "kappa_linear")
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of every run.

    Attributes:
        what: ``seen`` or ``unseen`` (the federated ensemble on held-out patients of sites that trained, or of one
            that never did), ``gain`` or ``gain_personal`` (the federation's, or each site's own networks, over
            training alone on the site's own patients), or a difference of ``metrics.json``.
        score: a measurement or the combined score.
        metric: ``accuracy`` or ``kappa_linear``.
        values: seed -> value; seeds for which it cannot be computed are left out.
        mean: over the seeds.
        sd: their standard deviation, divided by seeds - 1; nan with fewer than two.
    """

    what: str
    score: str
    metric: str
    values: Mapping[int, float]
    mean: float
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the runs that are done have in common.

    Attributes:
        name: of the configuration.
        seeds: that are done.
        missing: that are not.
        same_patients: whether all of them had the same sites and exams, so that only training was drawn anew.
        figures: in the order of ``metrics.json``.
    """

    name: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    same_patients: bool
    figures: tuple[Figure, ...]


def parse(text: str) -> tuple[int, ...]:
    """Seeds separated by commas.

    Raises:
        ConfigurationError: for anything else, a seed out of range or given twice, or fewer than two.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not SEED.fullmatch(part) or int(part) > LAST_SEED]
    if wrong:
        raise ConfigurationError(
            f"Expected --seeds as whole numbers from 0 to {LAST_SEED} with commas between them, as 1,2,3; got "
            f"{', '.join(map(repr, wrong))}"
        )
    seeds = tuple(map(int, parts))
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ConfigurationError(
            f"Expected each seed of --seeds once, got {', '.join(map(str, twice))} again"
        )
    if len(seeds) < 2:
        raise ConfigurationError(
            f"Expected two seeds or more after --seeds, got {text}: for one, use --set seed={text}"
        )
    return seeds


def study(config: Path, seeds: Sequence[int], *, overrides: Sequence[str] = (), out: Path | None) -> Study:
    """The runs of a configuration, one a seed.

    Args:
        config: of all of them.
        seeds: of the runs.
        overrides: ``section.key=value`` pairs.
        out: holds ``runs/``, ``networks/`` and :data:`NAME`; ``runs/<name>-seeds`` by default.

    Raises:
        ConfigurationError: if the configuration cannot be used, or sets the seed itself; if something else lies in
            the folder, or runs there that are done had another cohort or were evaluated in another way.
    """
    if any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise ConfigurationError("Expected --seeds or --set seed=..., got both: leave --set seed=... out")
    settings = {seed: configuration.load(config, overrides=[*overrides, f"seed={seed}"]) for seed in seeds}
    name = settings[seeds[0]].name
    found = Study(
        file=StudyFile(name=name, base=config, reference=ROW, seeds=tuple(seeds), rows={ROW: Part()}),
        folder=out or Path("runs") / f"{name}-seeds",
        runs=tuple(
            StudyRun(name=f"s{seed}-{one.plan_hash()[:8]}", row=ROW, column="", seed=seed, settings=one)
            for seed, one in settings.items()
        ),
    )
    _check_folder(found.folder)
    for run in found.runs:
        if found.done(run):
            _check_done(found.run_folder(run), run.settings)
    return found


def run_all(found: Study, *, console: Console) -> dict[int, SynofedError]:
    """Do the runs one after the other; what cannot go on costs its own seed, and is told.

    Returns:
        Seed -> why its run failed.

    Raises:
        SynofedError: of the first, if no run is done.
    """
    failed: dict[int, SynofedError] = {}
    for number, run in enumerate(found.runs, start=1):
        with Display(console) as display:
            display.line(f"run {number} of {len(found.runs)}: seed {run.seed}")
            try:
                studies.run_one(found, run, display=display)
            except (BusyError, CampaignError, DataError) as error:
                failed[run.seed] = error
                display.line(f"seed {run.seed} failed: {error}")
    if failed and not any(map(found.done, found.runs)):
        raise next(iter(failed.values()))
    return failed


def write(found: Study) -> Summary:
    """Write :func:`summary` to ``seeds.json`` in the study's folder.

    Raises:
        DataError: if no run is done.
    """
    told = summary(found)
    atomic.write(found.folder / NAME, json.dumps(as_json(told), indent=1).encode() + b"\n")
    return told


def summary(found: Study) -> Summary:
    """Mean and standard deviation over the runs that are done.

    Raises:
        DataError: if none is.
    """
    done = {run.seed: found.run_folder(run) for run in found.runs if found.done(run)}
    if not done:
        raise DataError(f"Expected finished runs in {found.folder / 'runs'}, there is none")
    metrics = {seed: json.loads((path / "metrics.json").read_bytes()) for seed, path in done.items()}
    data = {json.dumps(RunFolder(path).manifest()["fingerprints"], sort_keys=True) for path in done.values()}
    figures: dict[tuple[str, str, str], dict[int, float]] = {}
    for seed, of_seed in metrics.items():
        for key, value in _figures(of_seed):
            figures.setdefault(key, {})[seed] = value
    return Summary(
        name=found.file.name,
        seeds=tuple(done),
        missing=tuple(run.seed for run in found.runs if run.seed not in done),
        same_patients=len(data) == 1 and len(done) > 1,
        figures=tuple(_figure(*key, values) for key, values in figures.items()),
    )


def as_json(found: Summary) -> dict[str, object]:
    """Plain values; ``None`` for what cannot be computed."""
    figures = [asdict(figure) for figure in found.figures]
    return asdict(found) | {
        "figures": [f | {"sd": None if math.isnan(f["sd"]) else f["sd"]} for f in figures]
    }


def _figure(what: str, score: str, metric: str, values: Mapping[int, float]) -> Figure:
    each = list(values.values())
    sd = statistics.stdev(each) if len(each) > 1 else math.nan
    return Figure(what=what, score=score, metric=metric, values=values, mean=statistics.fmean(each), sd=sd)


def _figures(metrics: Json) -> Iterator[tuple[tuple[str, str, str], float]]:
    """What, score and metric -> value, of those that could be computed."""
    own = (metrics.get("own_patients") or {}).get("mean") or {}
    blocks: dict[str, Json] = {"seen": metrics["seen"], "unseen": metrics.get("unseen") or {}}
    for gain in ("gain", "gain_personal"):
        blocks[gain] = {s: {m: own[s][m].get(gain) for m in METRICS} for s in metrics["grades"] if s in own}
    blocks |= metrics.get("differences") or {}
    for what, block in blocks.items():
        for score in metrics["grades"]:
            for metric in METRICS:
                value = ((block.get(score) or {}).get(metric) or {}).get("value")
                if value is not None:
                    yield (what, score, metric), float(value)


def _check_folder(folder: Path) -> None:
    """Nothing is there but what earlier seeds left."""
    inside, runs = _names(folder) - {"runs", "networks", NAME}, _names(folder / "runs")
    others = sorted(inside | {f"runs/{name}" for name in runs if not RUN.fullmatch(name)})
    if others or folder.is_file():
        raise ConfigurationError(
            f"Expected a new folder for --seeds, or that of earlier seeds, at {folder}; "
            f"{f'there is {others[0]} in it' if others else 'it is a file'}: name another one with --out"
        )


def _names(folder: Path) -> set[str]:
    found = folder.iterdir() if folder.is_dir() else ()
    return {path.name for path in found if not path.name.startswith(".")}


def _check_done(folder: Path, settings: Settings) -> None:
    """The plan's hash is in the folder's name; what is in no plan may differ."""
    before = RunFolder(folder).settings()
    parts = ("cohort", "evaluate", "personal")
    differ = [key for key in parts if getattr(before, key) != getattr(settings, key)]
    if differ:
        raise ConfigurationError(
            f"The run in {folder} was done with another [{differ[0]}] than the configuration has now: name another "
            f"folder with --out, or take up that run by itself (synofed simulate --out {folder} --resume)"
        )
