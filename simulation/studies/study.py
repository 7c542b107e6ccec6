"""A study: many runs that differ in what is compared (rows), under which conditions (columns), and in their seed.

::

    name = "rating_table_small"
    base = "rating_small.toml"      # beside this file
    reference = "rating"            # the row that the others are compared with
    seeds = [1, 2]
    set = ["evaluate.bootstrap=1000"]

    [rows.rating]
    title = "RATING"

    [rows.gs_only]
    title = "GS only"
    set = ['measurements.hypertrophy.images=["gs"]']

    [primary]                       # what the study is to find out, named before it is run
    rows = ["gs_only"]
    smallest = 0.05

    [sweep]                         # every row under every value
    "federation.rounds" = [8, 16]

A study without ``reference`` has systems for rows, each with a ``base``, a ``paper`` and its ``figures``
(:mod:`simulation.studies.beside_papers`).

Every seed is a cohort, a split and a start of its own: a phantom cohort is drawn by the study's seed.

Runs share a folder of networks: one that was trained already, from the same data with the same settings and seed, is
not trained again, whatever row it was trained for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError

from common import settings as configuration
from common.errors import BusyError, CampaignError, ConfigurationError, refusal
from common.networks.spec import COMBINED
from common.sections.section import Name, Section, Seed, describe
from common.settings import Settings
from common.text import toml_text
from common.text.terminal import Console
from server.campaign.status import Status
from server.runs.run_folder import RunFolder
from simulation.engine.progress import Display

DONE = {str(Status.COMPLETE_ALL_SITES), str(Status.COMPLETE_SUBSET)}


Scalar: TypeAlias = bool | int | float | str


class Figure(Section):
    """A figure that a paper prints, and where ours stands in ``metrics.json``."""

    what: str
    printed: str = ""
    metric: str
    """Names and places, joined by dots: ``combined.accuracy``, ``folds.synovitis.spearman``."""
    percent: bool = False
    digits: Annotated[int, Field(ge=0, le=6)] = 2


class Part(Section):
    """A row or a column: what it is called and what it changes."""

    title: str = ""
    note: str = ""
    """Said below the table."""
    set: tuple[str, ...] = ()
    """``section.key=value`` pairs, as after ``--set``."""
    base: Path | None = None
    """Of a row: the configuration that its runs start from, in place of the study's."""
    paper: str = ""
    """Of a row that stands beside a paper: which."""
    figures: tuple[Figure, ...] = ()
    """Of such a row: what the paper prints."""
    differs: tuple[str, ...] = ()
    """Of such a row: what differs from the paper's methods."""


class Primary(Section):
    """The comparisons with the reference by which a study is judged, named before it is run."""

    metric: Literal["accuracy", "kappa_linear"] = "kappa_linear"
    score: Name = COMBINED
    rows: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Compared with the reference; Holm's correction is over them, under each condition."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    smallest: Annotated[float, Field(gt=0, lt=1)]
    """Difference of the metric that would matter, as a share: 0.05 are five points of accuracy."""
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    """With which it is to be found; how many seeds that needs is said beside the table."""


class StudyFile(Section):
    """A study's TOML file."""

    name: Name
    title: str = ""
    base: Path | None = None
    """Configuration that runs start from whose row has none; relative paths start at the study's file."""
    reference: Name | None = None
    """The row that the others are compared with, on the same patients; ``None``: each row is a system with patients
    of its own, and stands beside its paper."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    set: tuple[str, ...] = ()
    rows: Annotated[dict[Name, Part], Field(min_length=1)]
    columns: dict[Name, Part] = Field(default_factory=dict)
    """Conditions under which every row is run; none: one condition."""
    figures: tuple[Figure, ...] = ()
    """Further figures of each run, of what its ``metrics.json`` has, in a table of their own."""
    primary: Primary | None = None
    sweep: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """``section.key`` -> values: every combination is a condition, beside those of ``columns``."""

    def conditions(self) -> dict[str, Part]:
        """The columns under every combination of the sweep's values; one without a name where there is neither."""
        combinations = [
            dict(zip(self.sweep, values, strict=True)) for values in product(*self.sweep.values())
        ]
        return {
            "-".join(filter(None, (name, *map(_slug, swept.items())))): Part(
                title=", ".join(
                    filter(None, (part.title or name, *(f"{k} = {v}" for k, v in swept.items())))
                ),
                note=part.note,
                set=(*part.set, *(f"{key}={json.dumps(value)}" for key, value in swept.items())),
            )
            for name, part in (self.columns or {"": Part()}).items()
            for swept in combinations
        }


def _slug(setting: tuple[str, Scalar]) -> str:
    """``federation.rounds`` and 8 as ``rounds_8``, a part of the names of files."""
    key, value = setting
    return re.sub(r"[^a-z0-9]+", "_", f"{key.rpartition('.')[2]}_{value}".lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run of a study.

    Attributes:
        name: row, column, seed and the beginning of the configuration's hash.
        row: its name.
        column: its name; empty where the study has no columns.
        seed: of cohort, split and training.
        settings: the configuration.
    """

    name: str
    row: str
    column: str
    seed: int
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study and where its runs lie.

    Attributes:
        file: what was read.
        folder: holds ``runs/``, ``networks/`` and the tables.
        runs: in the order rows, columns, seeds: their index is that of an array job.
    """

    file: StudyFile
    folder: Path
    runs: tuple[StudyRun, ...]

    @property
    def reference(self) -> str:
        """The row that the others are compared with, of a study that has one."""
        assert self.file.reference is not None, "each row stands beside its paper"
        return self.file.reference

    def run_folder(self, run: StudyRun) -> Path:
        """Where a run lies."""
        return self.folder / "runs" / run.name

    def done(self, run: StudyRun) -> bool:
        """Whether a run has ended well."""
        folder = self.run_folder(run)
        return (folder / "manifest.json").exists() and RunFolder(folder).manifest()["status"] in DONE


def is_study(path: Path) -> bool:
    """Whether a TOML file is a study rather than the configuration of one run."""
    try:
        return "rows" in toml_text.read(path.read_bytes(), source=str(path))
    except (OSError, ConfigurationError):
        return False  # whoever reads it as a configuration says what is wrong


def load(path: Path, *, out: Path | None = None) -> Study:
    """Read a study, every configuration of it included.

    Args:
        path: the TOML file.
        out: the study's folder; ``runs/<name>`` by default.

    Raises:
        ConfigurationError: if the file, or any run's configuration, cannot be used.
    """
    try:
        document = toml_text.read(path.read_bytes(), source=str(path))
        if "rows" not in document and "measurements" in document:
            raise ConfigurationError(
                f"Expected a study of several runs in {path}, got the configuration of one: synofed simulate {path}"
            )
        file = StudyFile.model_validate(document)
    except OSError as error:
        raise ConfigurationError(f"Expected a study at {path}: {refusal(error)}") from None
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=str(path), kind=StudyFile)) from None
    bare = [name for name, row in file.rows.items() if row.base is None and file.base is None]
    if bare:
        raise ConfigurationError(f"{path}: expected a base for the study, or one of row {bare[0]}")
    if file.reference is None and (
        file.primary is not None or not all(r.figures for r in file.rows.values())
    ):
        raise ConfigurationError(
            f"{path}: expected a reference row, or a study whose rows each have figures of a paper, and no [primary]"
        )
    if file.reference is None and file.figures:
        raise ConfigurationError(f"{path}: expected figures in each row of a study without a reference row")
    if file.reference is not None and file.reference not in file.rows:
        raise ConfigurationError(
            f"{path}: reference is {file.reference!r}, the rows are {', '.join(file.rows)}"
        )
    primary = () if file.primary is None else file.primary.rows
    unknown = [row for row in primary if row not in file.rows or row == file.reference]
    if unknown:
        raise ConfigurationError(
            f"{path}: primary.rows names {', '.join(unknown)}, expected rows other than the reference: "
            f"{', '.join(row for row in file.rows if row != file.reference)}"
        )
    if len(set(file.seeds)) < len(file.seeds):
        raise ConfigurationError(f"{path}: seeds names one twice, expected each once")
    return Study(file=file, folder=out or Path("runs") / file.name, runs=tuple(_expand(file, path.parent)))


def _expand(file: StudyFile, folder: Path) -> Iterator[StudyRun]:
    for row, changes in file.rows.items():
        base = changes.base or file.base
        assert base is not None, "checked before"
        for column, condition in file.conditions().items():
            for seed in file.seeds:
                overrides = (*file.set, *condition.set, *changes.set, f"seed={seed}")
                settings = _drawn_by(seed, configuration.load(folder / base, overrides=overrides))
                parts = [row, *([column] if column else []), f"s{seed}", settings.plan_hash()[:8]]
                yield StudyRun(name="-".join(parts), row=row, column=column, seed=seed, settings=settings)


def _drawn_by(seed: int, settings: Settings) -> Settings:
    """With a phantom cohort of this seed."""
    if settings.cohort is None:
        return settings
    return settings.model_copy(update={"cohort": settings.cohort.drawn_of(seed)})


def run_one(study: Study, run: StudyRun, *, display: Display) -> Path:
    """Do one run, or go on with it; one that is done is left as it is.

    Returns:
        The run's folder.
    """
    from simulation.runs.simulate import simulate  # noqa: PLC0415  torch, flwr: a study is read without

    folder = study.run_folder(run)
    if study.done(run):
        display.line(f"{run.name}: done before")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = (folder / "manifest.json").exists()
    path, _ = simulate(
        run.settings,
        out=folder,
        resume=begun,
        display=display,
        networks_folder=study.folder / "networks",
    )
    return path


def run_all(study: Study, runs: Sequence[StudyRun], *, console: Console, go_on: bool) -> None:
    """Do runs one after the other.

    Args:
        study: the study.
        runs: of it.
        console: shows progress.
        go_on: a campaign that cannot go on costs its own run, not those after it.

    Raises:
        SynofedError: of a run, as :func:`simulation.runs.simulate.simulate` has it.
    """
    for number, run in enumerate(runs, start=1):
        with Display(console) as display:
            display.line(f"run {number} of {len(runs)}: {run.name}")
            try:
                run_one(study, run, display=display)
            except (CampaignError, BusyError) as error:
                if not go_on:
                    raise
                display.line(f"{run.name} {'is left' if isinstance(error, BusyError) else 'failed'}: {error}")
