"""The table of a study: every row's scores with intervals, and its difference from the reference row, seed by seed.

A seed is a cohort, a split and a start of its own. Intervals are bootstraps over seeds and, within each, over its
held-out patients. A difference is taken within each seed, on the same patients; its standard deviation over the
seeds, and its p, are those of :mod:`common.evaluation.seeds`. Holm's correction is over the primary rows, which the
study's file names beforehand; every other p is a description.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from common.errors import DataError
from common.evaluation import bootstrap, paired
from common.evaluation.agreement import METRICS
from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import Metric
from common.evaluation.seeds import OverSeeds, estimate, over_seeds, seeds_needed
from common.networks.spec import COMBINED
from server.runs.run_folder import RunFolder
from simulation.evaluation.metrics import scorer_of, scoring_models
from simulation.evaluation.scorer import Patients
from simulation.studies.study import Study, StudyRun

SHOWN = ("accuracy", "kappa_linear")
REPLICATES = 1000
"""Of the bootstrap over seeds and patients."""
BySeed = Mapping[int, tuple["_Done", Int64[np.ndarray, "patients grades grades"]]]
Drawn = Mapping[int, Float64[np.ndarray, " replicates"]]
"""Seed -> a metric of all exams as they are, then of each draw of the seed's patients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row minus the reference, on the seeds that both have.

    Attributes:
        value: mean over the seeds, with its interval over seeds and patients.
        seeds: of each seed, in the order of :attr:`StudyRow.seeds`.
        over: their spread, and p that is not corrected.
        p_holm: ``over.p_t`` corrected over the primary rows; nan where the comparison is not primary.
        seeds_needed: for the study's smallest difference; ``None`` where not primary or unknown.
    """

    value: Estimate
    seeds: tuple[float, ...]
    over: OverSeeds
    p_holm: float = math.nan
    seeds_needed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one row.

    Attributes:
        value: mean over the seeds, with its interval over seeds and patients.
        seeds_sd: standard deviation over the seeds; nan for one seed.
        difference: from the reference row; ``None`` for the reference itself, and where the two do not score the
            same thing.
    """

    value: Estimate
    seeds_sd: float
    difference: Difference | None


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

    def draws(self) -> np.random.Generator:
        """Draws its patients: alike for every row, which pairs them, and every seed that has the same patients."""
        data = json.dumps(self.manifest["fingerprints"], sort_keys=True)
        return np.random.default_rng(zlib.crc32(data.encode()))


def table(study: Study) -> Table:
    """Collect what is done.

    Raises:
        DataError: if no run is done, or runs of one condition and seed have other sites or exams than each other.
    """
    done = [_read(study, run) for run in study.runs if study.done(run)]
    missing = tuple(run for run in study.runs if not study.done(run))
    if not done:
        raise DataError(f"Expected finished runs in {study.folder / 'runs'}, there is none")
    for same in dict.fromkeys((one.run.column, one.run.seed) for one in done):
        _check_shared([one for one in done if (one.run.column, one.run.seed) == same])
    rows = [row for column in study.file.conditions() for row in _rows(study, done, column)]
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


def _check_shared(done: Sequence[_Done]) -> None:
    """All rows have the same sites and exams."""
    facts: dict[str, Callable[[_Done], object]] = {
        "sites and data": lambda one: json.dumps(one.manifest["fingerprints"], sort_keys=True),
        "held-out exams": lambda one: tuple(zip(one.frame["site"], one.frame["exam_id"], strict=True)),
    }
    for what, fact in facts.items():
        odd = [one.run.name for one in done if fact(one) != fact(done[0])]
        if odd:
            raise DataError(
                f"Expected the same {what} in all runs of a seed, {', '.join(odd)} differ from {done[0].run.name}: "
                "rows of one table are compared on the same patients"
            )


def _places(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    trained = frame["trained_site"].astype(bool)
    return {"seen": frame[trained], "unseen": frame[~trained]}


def _rows(study: Study, done: Sequence[_Done], column: str) -> Iterator[StudyRow]:
    """The rows of one condition; p is corrected over the primary ones."""
    by_row = {
        row: [one for one in done if (one.run.row, one.run.column) == (row, column)]
        for row in study.file.rows
    }
    reference = by_row[study.reference]
    found = {
        row: {place: _cells(runs, reference, place) for place in ("seen", "unseen")}
        for row, runs in by_row.items()
        if runs
    }
    for row, cells in _corrected(study, found).items():
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
    at_place = partial(_at_place, place=place)
    compared = bool(reference) and reference[0].run.row != runs[0].run.row
    own, other = _tallies(runs, at_place), _tallies(reference, at_place) if compared else {}
    cells: Cells = {}
    for score, by_seed in own.items():
        cells[score] = {}
        for name in SHOWN:
            mine = _drawn(METRICS[name], by_seed)
            theirs = _drawn(METRICS[name], other.get(score, {}))
            values = np.array([drawn[0] for drawn in mine.values()])
            cells[score][name] = Cell(
                value=_summary(mine),
                seeds_sd=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                difference=_difference(mine, theirs),
            )
    return cells


def _by_device(runs: Sequence[_Done]) -> dict[str, Estimate]:
    found = {}
    for device in sorted({str(device) for one in runs for device in one.frame["device"].unique()}):
        tallies = _tallies(runs, partial(_of_device, device=device))
        main = COMBINED if COMBINED in tallies else next(iter(tallies))
        found[device] = _summary(_drawn(METRICS["accuracy"], tallies[main]))
    return found


def _at_place(frame: pd.DataFrame, *, place: str) -> pd.DataFrame:
    return _places(frame)[place]


def _of_device(frame: pd.DataFrame, *, device: str) -> pd.DataFrame:
    return frame[frame["device"].astype(str) == device]


def _tallies(
    runs: Sequence[_Done], part: Callable[[pd.DataFrame], pd.DataFrame]
) -> dict[str, dict[int, tuple[_Done, Int64[np.ndarray, "patients grades grades"]]]]:
    """Score -> seed -> confusion matrices by patient, of a part of the exams; seeds without any are left out."""
    found: dict[str, dict[int, tuple[_Done, Int64[np.ndarray, "patients grades grades"]]]] = {}
    for one in runs:
        frame = part(one.frame)
        if len(frame):
            tally = scorer_of(one.frame, one.run.settings).tally(frame, Patients.of(frame))
            for score, matrices in tally.items():
                found.setdefault(score, {})[one.run.seed] = (one, matrices)
    return found


def _drawn(metric: Metric, by_seed: BySeed) -> Drawn:
    found = {}
    for seed, (one, matrices) in by_seed.items():
        weights = bootstrap.resamples(len(matrices), replicates=REPLICATES, generator=one.draws())
        replicates = bootstrap.replicate_confusions(matrices, weights)
        every = np.concatenate([matrices.sum(axis=0)[None], replicates])
        found[seed] = np.asarray(metric(every), dtype=np.float64)
    return found


def _summary(drawn: Drawn) -> Estimate:
    """The mean over the seeds, and its interval: in every replicate seeds are drawn, and their patients."""
    return estimate(np.stack(list(drawn.values())))


def _difference(mine: Drawn, theirs: Drawn) -> Difference | None:
    """On the seeds that both have."""
    both = {seed: drawn - theirs[seed] for seed, drawn in mine.items() if seed in theirs}
    if not both:
        return None
    values = np.array([drawn[0] for drawn in both.values()])
    return Difference(value=_summary(both), seeds=tuple(values.tolist()), over=over_seeds(values))


def _corrected(study: Study, found: Mapping[str, Mapping[str, Cells]]) -> dict[str, Mapping[str, Cells]]:
    """With Holm's correction over the primary rows, at the sites that trained, and the seeds that they need."""
    primary = study.file.primary
    if primary is None:
        return dict(found)
    tested = {
        row: difference
        for row in primary.rows
        if (cell := found.get(row, {}).get("seen", {}).get(primary.score, {}).get(primary.metric)) is not None
        and (difference := cell.difference) is not None
    }
    # A row without a run yet counts: the correction is what was named beforehand.
    absent = [1.0] * (len(primary.rows) - len(tested))
    holm = paired.holm([*(difference.over.p_t for difference in tested.values()), *absent])
    result = {row: {place: {**cells} for place, cells in places.items()} for row, places in found.items()}
    for (row, difference), p in zip(tested.items(), holm, strict=False):
        needed = seeds_needed(
            difference.over.sd,
            smallest=primary.smallest,
            alpha=primary.alpha / len(primary.rows),
            power=primary.power,
        )
        cell = result[row]["seen"][primary.score][primary.metric]
        judged = replace(cell, difference=replace(difference, p_holm=float(p), seeds_needed=needed))
        metrics = {**result[row]["seen"][primary.score], primary.metric: judged}
        result[row]["seen"][primary.score] = metrics
    return dict(result)
