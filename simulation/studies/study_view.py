"""A study's table on a terminal, as Markdown, CSV, JSON and as a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from common.evaluation.bootstrap import Estimate
from common.machine import atomic
from common.networks.spec import COMBINED
from common.text.terminal import Table as RichTable
from common.version import VERSION
from server.report import figures
from server.report.tables import Interval
from simulation.studies.study import Study
from simulation.studies.study_cost import RowCost
from simulation.studies.study_table import SHOWN, Cell, StudyRow, Table

PLACES = {
    "seen": "held-out patients of the sites that trained",
    "unseen": "patients of a device never trained on",
}
NAMES = {"accuracy": "accuracy %", "kappa_linear": "linear kappa"}
SCALES = {"accuracy": (100.0, 1), "kappa_linear": (1.0, 3)}
HEADER = ("row", "score", "metric", "mean (95 % over patients)", "sd over seeds", "difference", "p (Holm)")
NOTHING = "-"


def tables(study: Study, table: Table) -> Iterator[RichTable]:
    """One table a condition and place, for a terminal: accuracy of every score, and the test of the main one."""
    for column, place in _parts(study, table):
        name = f" - {_column_title(study, column)}" if column else ""
        shown = RichTable(title=f"{study.file.title or study.file.name}{name}: {PLACES[place]}")
        rows = [row for row in table.rows if row.column == column]
        scores = _scores(rows, place)
        main = _main(scores)
        shown.add_column("accuracy %")
        shown.add_column("models, networks", justify="right")
        for score in scores:
            shown.add_column(score, justify="right")
        for title in ("sd, seeds", f"{main} minus {_reference_title(study)}", "p (Holm)"):
            shown.add_column(title, justify="right")
        for row in rows:
            cells = {score: metrics["accuracy"] for score, metrics in row.cells[place].items()}
            values = [_value(cells.get(score), "accuracy", interval=score == main) for score in scores]
            made_of = f"{row.models}, {row.networks}"
            shown.add_row(
                row.title, made_of, *values, *(_chance(cells[main], "accuracy") if main in cells else ())
            )
        yield shown


def plan_table(study: Study, rows: Sequence[RowCost]) -> RichTable:
    """What each row costs."""
    shown = RichTable(title=f"What {study.file.name} will cost: {len(study.runs)} runs")
    for title in ("row", "runs", "networks per run", "trained anew", "hours", "disk"):
        shown.add_column(title, justify="left" if title == "row" else "right", no_wrap=title != "row")
    for row in rows:
        label = (study.file.rows[row.row].title or row.row) + (f", {row.column}" if row.column else "")
        hours = NOTHING if row.hours is None else f"{row.hours:.2f}"
        counts = (str(row.runs), str(row.networks), str(row.trained))
        shown.add_row(label, *counts, hours, f"{row.disk_bytes / 1e6:.1f} MB")
    known = [row.hours for row in rows if row.hours is not None]
    shown.add_section()
    trained = str(sum(row.trained for row in rows))
    disk = f"{sum(row.disk_bytes for row in rows) / 1e6:.1f} MB"
    shown.add_row("all", str(len(study.runs)), "", trained, f"{sum(known):.2f}" if known else NOTHING, disk)
    return shown


def as_json(study: Study, table: Table) -> dict[str, object]:
    """All figures as plain values; ``None`` for what cannot be computed."""
    return {
        "study": study.file.name,
        "reference": study.file.reference,
        "exams": dict(table.exams),
        "patients": dict(table.patients),
        "missing": [run.name for run in table.missing],
        "rows": [
            {
                "row": row.row,
                "column": row.column,
                "title": row.title,
                "seeds": list(row.seeds),
                "models": row.models,
                "networks": row.networks,
                "trained": row.trained,
                "steps": row.steps,
                "devices": {
                    device: {"value": _finite(e.value), "ci95": [_finite(e.low), _finite(e.high)]}
                    for device, e in row.devices.items()
                },
                "places": {
                    place: {s: {m: _cell_json(c) for m, c in ms.items()} for s, ms in cells.items()}
                    for place, cells in row.cells.items()
                },
            }
            for row in table.rows
        ],
    }


def write(study: Study, table: Table, *, command: str) -> list[Path]:
    """Write ``table.json``, ``table.csv``, ``table.md`` and a figure into the study's folder.

    Args:
        study: the study.
        table: its table.
        command: that made it, for the report.
    """
    folder = study.folder
    atomic.write(folder / "table.json", json.dumps(as_json(study, table), indent=1).encode() + b"\n")
    atomic.write(folder / "table.csv", _csv(study, table).encode())
    atomic.write(folder / "table.md", "\n".join(_markdown(study, table, command)).encode() + b"\n")
    drawn = [_figure(study, table, column, place) for column, place in _parts(study, table)]
    for figure in drawn:
        figure.save(folder / "figures")
    names = ("table.md", "table.csv", "table.json")
    return [folder / name for name in names]


def _parts(study: Study, table: Table) -> list[tuple[str, str]]:
    columns = [c for c in (tuple(study.file.columns) or ("",)) if any(row.column == c for row in table.rows)]
    return [(column, place) for column in columns for place in PLACES if place in table.exams]


def _column_title(study: Study, column: str) -> str:
    return study.file.columns[column].title or column if column else ""


def _reference_title(study: Study) -> str:
    return study.file.rows[study.file.reference].title or study.file.reference


def _scores(rows: Sequence[StudyRow], place: str) -> list[str]:
    return list(dict.fromkeys(score for row in rows for score in row.cells[place]))


def _main(scores: Sequence[str]) -> str:
    return COMBINED if COMBINED in scores else scores[0]


def _value(cell: Cell | None, metric: str, *, interval: bool = True) -> str:
    if cell is None or math.isnan(cell.value.value):
        return NOTHING
    scale, digits = SCALES[metric]
    value, low, high = (
        f"{scale * n:.{digits}f}" for n in (cell.value.value, cell.value.low, cell.value.high)
    )
    return f"{value} ({low} to {high})" if interval else value


def _chance(cell: Cell, metric: str) -> tuple[str, str, str]:
    scale, digits = SCALES[metric]
    sd = NOTHING if math.isnan(cell.seeds_sd) else f"{scale * cell.seeds_sd:.{digits}f}"
    if cell.difference is None:
        return sd, "", ""
    value, low, high = (
        f"{scale * n:+.{digits}f}" for n in (cell.difference.value, cell.difference.low, cell.difference.high)
    )
    p = "< 0.001" if cell.p_holm < 0.001 else f"{cell.p_holm:.3f}"
    return sd, f"{value} ({low} to {high})", p


def _cell_json(cell: Cell) -> dict[str, object]:
    difference = cell.difference
    return {
        "value": _finite(cell.value.value),
        "ci95": [_finite(cell.value.low), _finite(cell.value.high)],
        "seeds_sd": _finite(cell.seeds_sd),
        "difference": None
        if difference is None
        else {
            "value": _finite(difference.value),
            "ci95": [_finite(difference.low), _finite(difference.high)],
            "p": _finite(difference.p),
            "p_holm": _finite(cell.p_holm),
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv(study: Study, table: Table) -> str:
    header = (
        "row", "column", "place", "score", "metric", "value", "ci95_low", "ci95_high", "seeds_sd",
        "difference", "difference_low", "difference_high", "p", "p_holm", "seeds", "models", "networks", "steps",
    )  # fmt: skip
    lines = []
    for row, place, score, metric, cell in _cells(table):
        d = cell.difference
        tested = (None,) * 4 if d is None else tuple(map(_finite, (d.value, d.low, d.high, d.p)))
        value = cell.value
        numbers = (value.value, value.low, value.high, cell.seeds_sd)
        made_of = (_finite(cell.p_holm), " ".join(map(str, row.seeds)), row.models, row.networks, row.steps)
        lines.append((row.row, row.column, place, score, metric, *map(_finite, numbers), *tested, *made_of))
    return figures.table(header, lines)


def _cells(table: Table) -> Iterator[tuple[StudyRow, str, str, str, Cell]]:
    for row in table.rows:
        for place, scores in row.cells.items():
            for score, metrics in scores.items():
                for metric, cell in metrics.items():
                    yield row, place, score, metric, cell


def _markdown(study: Study, table: Table, command: str) -> Iterator[str]:
    yield f"# {study.file.title or study.file.name}"
    yield ""
    today = datetime.now(UTC).date().isoformat()
    seeds = ", ".join(map(str, study.file.seeds))
    yield f"`{command}`, seeds {seeds}, synofed {VERSION}, {today}. On the phantom: no figure here is about patients."
    yield ""
    for place, exams in table.exams.items():
        yield f"* {PLACES[place]}: {exams} exams of {table.patients[place]} patients"
    yield (
        "* mean over the seeds, with a 95 % interval by bootstrap over patients; beside it the standard deviation "
        "over the seeds"
    )
    yield (
        f"* difference from {_reference_title(study)} on the same patients and seeds, with its paired bootstrap "
        "interval; p by swapping the two systems' answers within patients, Holm's correction over the rows"
    )
    if table.missing:
        yield f"* missing runs: {', '.join(run.name for run in table.missing)}"
    for column, place in _parts(study, table):
        name = f"{_column_title(study, column)}: " if column else ""
        rows = [row for row in table.rows if row.column == column]
        for metric in SHOWN:
            yield from ("", f"## {name}{PLACES[place]}, {NAMES[metric]}", "")
            yield from _markdown_table(study, rows, place, metric)
    if study.file.columns:
        yield from _matrices(study, table)
    yield from ("", "## What the rows are", "")
    for row in table.rows:
        note = study.file.rows[row.row].note
        voters = f"{row.models} model{'' if row.models == 1 else 's'} that vote"
        steps = f"{voters}, {row.networks} networks that score; {row.steps:,} local steps per site and run"
        yield f"* **{row.title}**{f' ({row.column})' if row.column else ''}: {f'{note} ' if note else ''}{steps}."


def _matrices(study: Study, table: Table) -> Iterator[str]:
    """The main score under each condition: of all rows, or of the only row by device."""
    names = tuple(dict.fromkeys(row.row for row in table.rows))
    yield from _device_matrix(study, table) if len(names) == 1 else _condition_matrix(study, table, names)


def _device_matrix(study: Study, table: Table) -> Iterator[str]:
    """Accuracy by condition and device: where one device after the other is left out, the study's matrix."""
    devices = list(dict.fromkeys(device for row in table.rows for device in row.devices))
    yield from ("", f"## {table.rows[0].title}: accuracy % of the main score by condition and device", "")
    yield f"| condition | {' | '.join(devices)} |"
    yield f"|{'---|' * (len(devices) + 1)}"
    for row in table.rows:
        values = [_percent(row.devices[device]) if device in row.devices else "" for device in devices]
        yield f"| {' | '.join([_column_title(study, row.column), *values])} |"


def _condition_matrix(study: Study, table: Table, names: Sequence[str]) -> Iterator[str]:
    """Accuracy by row and condition."""
    found = {(row.row, row.column): row for row in table.rows}
    columns = [column for column, _ in dict.fromkeys(_parts(study, table)) if column]
    for place in dict.fromkeys(place for _, place in _parts(study, table)):
        yield from ("", f"## {PLACES[place]}, accuracy % of the main score by condition", "")
        conditions = list(dict.fromkeys(columns))
        yield f"| | {' | '.join(_column_title(study, column) for column in conditions)} |"
        yield f"|{'---|' * (len(conditions) + 1)}"
        for name in names:
            rows = [found.get((name, column)) for column in conditions]
            title = next(row.title for row in rows if row is not None)
            yield f"| {' | '.join([title, *(_main_accuracy(row, place) for row in rows)])} |"


def _main_accuracy(row: StudyRow | None, place: str) -> str:
    if row is None or place not in row.cells:
        return "missing"
    cell = row.cells[place].get(_main(_scores([row], place)), {}).get("accuracy")
    return "" if cell is None else _percent(cell.value)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _markdown_table(study: Study, rows: Sequence[StudyRow], place: str, metric: str) -> Iterator[str]:
    scores = _scores(rows, place)
    main = _main(scores)
    header = [
        "",
        "models, networks",
        *scores,
        f"sd over seeds ({main})",
        f"{main} - {_reference_title(study)}",
        "p (Holm)",
    ]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        cells = row.cells[place]
        cell = cells.get(main, {}).get(metric)
        last = ("", "", "") if cell is None else _chance(cell, metric)
        values = [_value(cells.get(score, {}).get(metric), metric) for score in scores]
        yield f"| {' | '.join([row.title, f'{row.models}, {row.networks}', *values, *last])} |"


def _figure(study: Study, table: Table, column: str, place: str) -> figures.Figure:
    rows = [row for row in table.rows if row.column == column]
    main = _main(_scores(rows, place))
    drawn = []
    for row in rows:
        cell = row.cells[place].get(main, {}).get("accuracy")
        if cell is not None:
            kind = "federated" if row.row == study.file.reference else "alone"
            value = cell.value
            drawn.append(
                Interval(
                    label=row.title,
                    kind=kind,
                    value=_finite(value.value),
                    low=_finite(value.low),
                    high=_finite(value.high),
                )
            )
    name = "-".join(filter(None, ("accuracy", column, place)))
    caption = f"Accuracy of the {main} score by row, {PLACES[place]}, with 95 % intervals over patients"
    return figures.intervals(name, caption, drawn, axis=f"accuracy of the {main} score", percent=True)
