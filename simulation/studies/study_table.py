"""The table of a study: every row's scores with intervals, and its difference from the reference row.

Two kinds of chance are kept apart. *Patients*: intervals are bootstraps over the held-out patients, of the mean
over the seeds, and a difference is tested by swapping the two systems' answers within patients
(:mod:`common.evaluation.paired`). *Seeds*: the standard deviation of the same figure over the seeds, which says how
much it owes to luck in training.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Int64

from common.errors import DataError
from common.evaluation import paired
from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import Comparison, Metric
from common.networks.spec import COMBINED
from common.settings import Settings
from server.runs.run_folder import RunFolder
from simulation.evaluation.metrics import scorer_of, scoring_models
from simulation.evaluation.scorer import METRICS, Patients
from simulation.studies.study import Study, StudyRun

SHOWN = ("accuracy", "kappa_linear")
Stack = Int64[np.ndarray, "seeds patients grades grades"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one row.

    Attributes:
        value: mean over the seeds, with its interval over patients.
        seeds_sd: standard deviation over the seeds; nan for one seed.
        difference: from the reference row, on the same patients and seeds; ``None`` for the reference itself, and
            where the two do not score the same thing.
        p_holm: its p, corrected over the rows of the column.
    """

    value: Estimate
    seeds_sd: float
    difference: Comparison | None
    p_holm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A row under one condition.

    Attributes:
        row: its name.
        column: the condition's name; empty where there is one only.
        title: for people.
        seeds: that are done.
        models: that vote, in each run: a row with other than the reference's is no comparison of methods alone.
        networks: that score, in each run.
        trained: networks that its runs trained themselves; the others were taken from earlier runs.
        steps: of local training at each site, of all networks of one run.
        cells: place (``seen`` or ``unseen``) -> score -> metric -> figure.
        devices: device -> accuracy of the main score on its held-out patients, mean over the seeds.
    """

    row: str
    column: str
    title: str
    seeds: tuple[int, ...]
    models: int
    networks: int
    trained: int
    steps: int
    cells: Mapping[str, Mapping[str, Mapping[str, Cell]]]
    devices: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A study's table.

    Attributes:
        rows: that have a run, in the study's order.
        missing: runs that are not done.
        exams: place -> held-out exams per run.
        patients: place -> their patients.
    """

    rows: tuple[StudyRow, ...]
    missing: tuple[StudyRun, ...]
    exams: Mapping[str, int]
    patients: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A run that is done."""

    run: StudyRun
    manifest: Mapping[str, object]
    frame: pd.DataFrame


def table(study: Study) -> Table:
    """Collect what is done.

    Raises:
        DataError: if no run is done, or runs of one condition have other sites, exams or steps than each other.
    """
    done = [_read(study, run) for run in study.runs if study.done(run)]
    missing = tuple(run for run in study.runs if not study.done(run))
    if not done:
        raise DataError(f"Expected finished runs in {study.folder / 'runs'}, there is none")
    for column in dict.fromkeys(one.run.column for one in done):
        _check_shared([one for one in done if one.run.column == column])
    rows = [row for column in (tuple(study.file.columns) or ("",)) for row in _rows(study, done, column)]
    places = {place: part for place, part in _places(done[0].frame).items() if len(part)}
    return Table(
        rows=tuple(rows),
        missing=missing,
        exams={place: len(part) for place, part in places.items()},
        patients={place: len(Patients.of(part)) for place, part in places.items()},
    )


def _read(study: Study, run: StudyRun) -> _Done:
    folder = study.run_folder(run)
    frame = pd.read_parquet(folder / "predictions.parquet").sort_values(
        ["site", "exam_id"], ignore_index=True
    )
    return _Done(run=run, manifest=RunFolder(folder).manifest(), frame=frame)


def budget(settings: Settings) -> str:
    """Fingerprint of what every row of a study has alike: rounds, steps, exams per step, folds, held-out patients."""
    training = settings.training
    alike = [
        settings.federation.rounds,
        training.local_steps,
        training.batch_size,
        settings.rating.folds,
        settings.evaluate.held_out,
    ]
    return hashlib.sha256(json.dumps(alike).encode()).hexdigest()


def _check_shared(done: Sequence[_Done]) -> None:
    """All rows have the same sites and exams, and the same budget of steps."""
    facts: dict[str, Callable[[_Done], object]] = {
        "sites and data": lambda one: json.dumps(one.manifest["fingerprints"], sort_keys=True),
        "held-out exams": lambda one: tuple(zip(one.frame["site"], one.frame["exam_id"], strict=True)),
        "rounds, steps and folds": lambda one: budget(one.run.settings),
    }
    for what, fact in facts.items():
        odd = [one.run.name for one in done if fact(one) != fact(done[0])]
        if odd:
            raise DataError(
                f"Expected the same {what} in all runs, {', '.join(odd)} differ from {done[0].run.name}: rows of one "
                f"table are compared on the same patients after as many steps"
            )


def _places(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    trained = frame["trained_site"].astype(bool)
    return {"seen": frame[trained], "unseen": frame[~trained]}


def _rows(study: Study, done: Sequence[_Done], column: str) -> Iterator[StudyRow]:
    """The rows of one condition; p is corrected over them."""
    by_row = {
        row: [one for one in done if (one.run.row, one.run.column) == (row, column)]
        for row in study.file.rows
    }
    reference = by_row[study.file.reference]
    found = {
        row: {place: _cells(runs, reference, place) for place in ("seen", "unseen")}
        for row, runs in by_row.items()
        if runs
    }
    for row, cells in _corrected(found).items():
        runs = by_row[row]
        title = study.file.rows[row].title or row
        yield StudyRow(
            row=row,
            column=column,
            title=title,
            seeds=tuple(one.run.seed for one in runs),
            models=scoring_models(runs[0].frame) or 1,
            networks=sum(str(c).startswith("p:") and not _later_class(str(c)) for c in runs[0].frame.columns),
            trained=sum(_count(one.manifest, "trained_networks") for one in runs),
            steps=_count(runs[0].manifest, "steps"),
            cells=cells,
            devices=_by_device(runs),
        )


def _later_class(column: str) -> bool:
    return ":" in column.removeprefix("p:") and not column.endswith(":0")


def _count(manifest: Mapping[str, object], key: str) -> int:
    value = manifest.get(key, 0)
    return value if isinstance(value, int) else 0


Cells = dict[str, dict[str, Cell]]


def _cells(runs: Sequence[_Done], reference: Sequence[_Done], place: str) -> Cells:
    """Score -> metric -> figure of one row at one place; p is not corrected yet."""
    first = _places(runs[0].frame)[place]
    if not len(first):
        return {}
    patients = Patients.of(first)
    at_place = partial(_at_place, place=place)
    own = _stacks(runs, at_place, patients)
    seeds = [one.run.seed for one in runs]
    shared = [one for one in reference if one.run.seed in seeds]
    compared = bool(shared) and reference[0].run.row != runs[0].run.row
    other = _stacks(shared, at_place, patients) if compared else {}
    weights = scorer_of(runs[0].frame, runs[0].run.settings).weights(patients)
    cells: Cells = {}
    for score, stack in own.items():
        cells[score] = {}
        for name in SHOWN:
            metric = METRICS[name]
            cells[score][name] = Cell(
                value=paired.estimate(metric, stack, weights),
                seeds_sd=_sd(metric, stack),
                difference=_difference(metric, stack, seeds, other.get(score), shared, weights),
                p_holm=math.nan,
            )
    return cells


def _by_device(runs: Sequence[_Done]) -> dict[str, Estimate]:
    found = {}
    for device, part in runs[0].frame.groupby("device"):
        patients = Patients.of(part)
        weights = scorer_of(runs[0].frame, runs[0].run.settings).weights(patients)
        stacks = _stacks(runs, partial(_of_device, device=device), patients)
        main = COMBINED if COMBINED in stacks else next(iter(stacks))
        found[str(device)] = paired.estimate(METRICS["accuracy"], stacks[main], weights)
    return found


def _at_place(frame: pd.DataFrame, *, place: str) -> pd.DataFrame:
    return _places(frame)[place]


def _of_device(frame: pd.DataFrame, *, device: object) -> pd.DataFrame:
    return frame[frame["device"] == device]


def _stacks(
    runs: Sequence[_Done], part: Callable[[pd.DataFrame], pd.DataFrame], patients: Patients
) -> dict[str, Stack]:
    """Score -> confusion matrices by seed and patient, of a part of the exams."""
    tallies = []
    for one in runs:
        scorer = scorer_of(one.frame, one.run.settings)
        tallies.append(scorer.tally(part(one.frame), patients))
    return {score: np.stack([tally[score] for tally in tallies]) for score in tallies[0]}


def _sd(metric: Metric, stack: Stack) -> float:
    if len(stack) < 2:
        return math.nan
    return float(np.std(np.asarray(metric(stack.sum(axis=1))), ddof=1))


def _difference(
    metric: Metric,
    stack: Stack,
    seeds: Sequence[int],
    other: Stack | None,
    shared: Sequence[_Done],
    weights: Int64[np.ndarray, "replicates patients"],
) -> Comparison | None:
    """On the seeds that both have."""
    if other is None:
        return None
    mine = stack[[seeds.index(one.run.seed) for one in shared]]
    return paired.compare(metric, mine, other, weights=weights, generator=np.random.default_rng(0))


def _corrected(found: Mapping[str, Mapping[str, Cells]]) -> dict[str, dict[str, Cells]]:
    """Holm's correction over the rows, for each place, score and metric."""
    result = {
        row: {p: {s: dict(m) for s, m in c.items()} for p, c in cells.items()} for row, cells in found.items()
    }
    places = {
        (p, s, m) for cells in found.values() for p, c in cells.items() for s, ms in c.items() for m in ms
    }
    for place, score, metric in sorted(places):
        tested = [
            (row, cell)
            for row, cells in found.items()
            if (cell := cells[place].get(score, {}).get(metric)) is not None and cell.difference is not None
        ]
        corrected = paired.holm([cell.difference.p for _, cell in tested if cell.difference is not None])
        for (row, cell), p in zip(tested, corrected, strict=True):
            result[row][place][score][metric] = Cell(
                value=cell.value, seeds_sd=cell.seeds_sd, difference=cell.difference, p_holm=float(p)
            )
    return result
