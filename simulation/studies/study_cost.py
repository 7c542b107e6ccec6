"""What a study costs, row by row: a network that an earlier row trains already is not paid for again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from common.methods import groups
from common.methods.stages import networks
from common.settings import Settings
from common.text.terminal import Table
from common.training.local_settings import local_settings
from server.campaign.campaign_cost import cost_key, stages
from server.campaign.library import NetworkLibrary
from simulation.engine import engines
from simulation.engine.measure import Measured, measure_all
from simulation.runs import cost_card
from simulation.runs.cost_card import CohortSize
from simulation.studies.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCost:
    """A row under one condition, all its seeds together.

    Attributes:
        row: its name.
        column: the condition's; empty where there is one only.
        runs: one per seed.
        networks: of one run.
        trained: networks that all its runs train themselves.
        hours: of training and evaluation on this machine.
        disk_bytes: of networks, each run's own copies included.
    """

    row: str
    column: str
    runs: int
    networks: int
    trained: int
    hours: float | None
    disk_bytes: int


def card(study: Study, *, budget_s: float = 5.0) -> tuple[RowCost, ...]:
    """The cost of each row, with steps measured now, networks of one cost once.

    Args:
        study: the study.
        budget_s: about how long each cost may be measured.

    Raises:
        SynofedError: as :func:`simulation.runs.cost_card.plan`.
    """
    return tuple(_rows(study, budget_s))


def plan_table(study: Study, rows: Sequence[RowCost]) -> Table:
    """What each row costs."""
    shown = Table(title=f"What {study.file.name} will cost: {len(study.runs)} runs")
    for title in ("row", "runs", "networks per run", "trained anew", "hours", "disk"):
        shown.add_column(title, justify="left" if title == "row" else "right", no_wrap=title != "row")
    for row in rows:
        label = (study.file.rows[row.row].title or row.row) + (f", {row.column}" if row.column else "")
        hours = "-" if row.hours is None else f"{row.hours:.2f}"
        counts = (str(row.runs), str(row.networks), str(row.trained))
        shown.add_row(label, *counts, hours, f"{row.disk_bytes / 1e6:.1f} MB")
    known = [row.hours for row in rows if row.hours is not None]
    shown.add_section()
    trained = str(sum(row.trained for row in rows))
    disk = f"{sum(row.disk_bytes for row in rows) / 1e6:.1f} MB"
    shown.add_row("all", str(len(study.runs)), "", trained, f"{sum(known):.2f}" if known else "-", disk)
    return shown


def as_json(rows: tuple[RowCost, ...]) -> list[dict[str, object]]:
    """Plain values."""
    return [asdict(row) for row in rows]


def _rows(study: Study, budget_s: float) -> Iterator[RowCost]:
    measured: dict[object, Measured] = {}
    known: set[str] = set()
    for row in study.file.rows:
        for column in study.file.conditions():
            runs = [run for run in study.runs if (run.row, run.column) == (row, column)]
            settings = runs[0].settings
            cost_card.check(settings)
            size = cost_card.cohort_size(settings)
            _measure(settings, size, measured, budget_s)
            group = f"{study.file.rows[row].base or ''}{column}"
            new = [name for run in runs for name in _new(run.settings, group, known)]
            specs = [spec for stage in stages(settings) for spec in stage.networks]
            layouts = groups.layouts(specs, settings)
            yield RowCost(
                row=row,
                column=column,
                runs=len(runs),
                networks=len(specs),
                trained=len(new),
                hours=_hours(settings, size, new, len(runs), measured),
                disk_bytes=len(runs) * sum(4 * layout.size for layout in layouts.values()),
            )


def _key(settings: Settings, spec_key: str) -> object:
    return (spec_key, settings.network, settings.training.batch_size, settings.compute)


def _measure(
    settings: Settings, size: CohortSize | None, measured: dict[object, Measured], budget_s: float
) -> None:
    specs = [spec for stage in stages(settings) for spec in stage.networks]
    unknown = [spec for spec in specs if _key(settings, cost_key(spec)) not in measured]
    for found in measure_all(
        unknown,
        settings,
        batch_size=lambda spec: cost_card.exams_per_step(spec, settings, size),
        budget_s=budget_s,
    ):
        measured[_key(settings, found.key)] = found


def _new(settings: Settings, group: str, known: set[str]) -> list[str]:
    """Networks of a run that no run before it, of the same group of patients, has trained."""
    every = networks(settings)
    library = NetworkLibrary.keys_only(group)
    found = []
    for stage in stages(settings):
        for spec in stage.networks:
            key = library.key(spec, settings, every)
            if key not in known:
                known.add(key)
                found.append(spec.name)
    return found


def _hours(
    settings: Settings,
    size: CohortSize | None,
    new: list[str],
    runs: int,
    measured: dict[object, Measured],
) -> float | None:
    if size is None:
        return None
    every = networks(settings)
    workers = len(engines.devices(settings.compute))
    seconds = 0.0
    for name in new:
        spec, local = every[name], local_settings(every[name], settings)
        cost = measured[_key(settings, cost_key(spec))]
        fold = size.training_exams / settings.rating.folds if spec.fold >= 0 else 0.0
        seconds += size.sites * local.rounds * local.training.local_steps * cost.step_s
        seconds += (local.rounds + 1) * fold * cost.exam_s
    scored = sum(
        measured[_key(settings, cost_key(spec))].exam_s
        for stage in stages(settings)
        for spec in stage.networks
        if spec.scoring
    )
    return (seconds + runs * size.held_out_exams * scored) / workers / 3600
