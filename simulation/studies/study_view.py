"""A study's table on a terminal, as Markdown, LaTeX, CSV, JSON and as a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from common.evaluation.bootstrap import Estimate
from common.machine import atomic
from common.networks.spec import COMBINED
from common.text import csv_text, table_forms
from common.text.json_values import number
from common.text.table_forms import PlainTable
from common.text.terminal import Table as RichTable
from common.version import VERSION
from server.report import figures
from server.report.tables import Interval
from simulation.studies.beside_papers import SYSTEMS, beside_papers
from simulation.studies.study import Study
from simulation.studies.study_table import SHOWN, Cell, StudyRow, Table

PLACES = {
    "seen": "held-out patients of the sites that trained",
    "unseen": "patients of a device never trained on",
}
NAMES = {"accuracy": "accuracy %", "kappa_linear": "linear kappa"}
SCALES = {"accuracy": (100.0, 1), "kappa_linear": (1.0, 3)}
NOTHING = "-"
_P = ("p (Holm)", "p, not corrected")


def tables(study: Study, table: Table) -> Iterator[RichTable]:
    """One table a condition and place, for a terminal: accuracy of every score, and the test of the main one."""
    for column, place in _parts(study, table):
        name = f" - {_column_title(study, column)}" if column else ""
        shown = RichTable(title=f"{study.file.title or study.file.name}{name}: {PLACES[place]}")
        rows = [row for row in table.rows if row.column == column]
        scores = _scores(rows, place)
        main = _main(scores)
        shown.add_column("accuracy %")
        shown.add_column("models, networks, steps", justify="right")
        for score in scores:
            shown.add_column(score, justify="right")
        for title in ("sd, seeds", f"{main} minus {_reference_title(study)}", "its sd", *_P):
            shown.add_column(title, justify="right")
        for row in rows:
            cells = {score: metrics["accuracy"] for score, metrics in row.cells[place].items()}
            values = [_value(cells.get(score), "accuracy", interval=score == main) for score in scores]
            made_of = _made_of(row)
            shown.add_row(
                row.title, made_of, *values, *(_chance(cells[main], "accuracy") if main in cells else ())
            )
        yield shown


def as_json(study: Study, table: Table) -> dict[str, object]:
    """All figures as plain values; ``None`` for what cannot be computed."""
    return {
        "study": study.file.name,
        "reference": study.reference,
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
                "devices": {device: _estimate_json(e) for device, e in row.devices.items()},
                "places": {
                    place: {s: {m: _cell_json(c) for m, c in ms.items()} for s, ms in cells.items()}
                    for place, cells in row.cells.items()
                },
            }
            for row in table.rows
        ],
    }


def write(study: Study, table: Table, *, command: str) -> list[Path]:
    """Write ``table.json``, ``table.csv``, ``table.md``, ``table.tex`` and a figure into the study's folder.

    Args:
        study: the study.
        table: its table.
        command: that made it, for the report.
    """
    folder = study.folder
    atomic.write(folder / "table.json", json.dumps(as_json(study, table), indent=1).encode() + b"\n")
    atomic.write(folder / "table.csv", _csv(study, table).encode())
    atomic.write(folder / "table.md", "\n".join(_markdown(study, table, command)).encode() + b"\n")
    latex = "\n\n".join(map(table_forms.latex, plain_tables(study, table)))
    atomic.write(folder / "table.tex", latex.encode() + b"\n")
    drawn = [_figure(study, table, column, place) for column, place in _parts(study, table)]
    for figure in drawn:
        figure.save(folder / "figures")
    names = ("table.md", "table.tex", "table.csv", "table.json")
    return [folder / name for name in names]


def _parts(study: Study, table: Table) -> list[tuple[str, str]]:
    columns = [c for c in study.file.conditions() if any(row.column == c for row in table.rows)]
    return [(column, place) for column in columns for place in PLACES if place in table.exams]


def _column_title(study: Study, column: str) -> str:
    return study.file.conditions()[column].title or column if column else ""


def _reference_title(study: Study) -> str:
    return study.file.rows[study.reference].title or study.reference


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


def _chance(cell: Cell, metric: str) -> tuple[str, str, str, str, str]:
    """Spread over the seeds, difference and its spread, p of a primary comparison, p of any other."""
    scale, digits = SCALES[metric]
    sd = _scaled(cell.seeds_sd, metric)
    if cell.difference is None:
        return sd, "", "", "", ""
    estimate, over = cell.difference.value, cell.difference.over
    value, low, high = (f"{scale * n:+.{digits}f}" for n in (estimate.value, estimate.low, estimate.high))
    primary = math.isfinite(cell.difference.p_holm)
    p = (_p(cell.difference.p_holm), "") if primary else ("", _p(over.p_t))
    return sd, f"{value} ({low} to {high})", _scaled(over.sd, metric), *p


def _scaled(value: float, metric: str) -> str:
    scale, digits = SCALES[metric]
    return f"{scale * value:.{digits}f}" if math.isfinite(value) else NOTHING


def _p(p: float) -> str:
    if not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _made_of(row: StudyRow) -> str:
    return f"{row.models}, {row.networks}, {row.steps:,}"


def power(study: Study, table: Table) -> Iterator[str]:
    """What was named beforehand, and how many seeds each primary comparison needs, by its spread so far."""
    primary = study.file.primary
    if primary is None:
        yield (
            "No comparison was named beforehand ([primary] in the study's file): all p are descriptions and not "
            "corrected"
        )
        return
    main = _reference_title(study)
    yield (
        f"Named beforehand: {NAMES[primary.metric].removesuffix(' %')} of the {primary.score} score against {main}, "
        f"rows {', '.join(primary.rows)}, {PLACES['seen']}, by a paired t test over the seeds at {primary.alpha:g} "
        f"with Holm's correction over these {len(primary.rows)}; every other p is not corrected and a description"
    )
    for row in table.rows:
        cell = row.cells["seen"].get(primary.score, {}).get(primary.metric)
        if row.row not in primary.rows or cell is None or cell.difference is None:
            continue
        difference = cell.difference
        where = f"{row.title}{f' ({_column_title(study, row.column)})' if row.column else ''}"
        more = "needs no known number of seeds yet"
        if difference.seeds_needed is not None:
            more = f"needs {difference.seeds_needed} seeds"
        yield (
            f"{where}: sd of the difference {_scaled(difference.over.sd, primary.metric)} over "
            f"{len(difference.seeds)} seeds; to find {_scaled(primary.smallest, primary.metric)} with power "
            f"{primary.power:g} at Holm's first step {more}; p of signs {_p(difference.over.p_signs)}"
        )


def unequal(study: Study, table: Table) -> Iterator[str]:
    """Rows that have other networks or steps than the reference: their difference is not of the method alone."""
    for column in dict.fromkeys(row.column for row in table.rows):
        rows = [row for row in table.rows if row.column == column]
        reference = next((row for row in rows if row.row == study.reference), None)
        if reference is None:
            continue
        own = (reference.networks, reference.steps)
        odd = [
            f"{row.title} ({row.networks}, {row.steps:,})" for row in rows if (row.networks, row.steps) != own
        ]
        if odd:
            yield (
                f"Other networks or steps than {reference.title} ({own[0]}, {own[1]:,}): {', '.join(odd)}; such a "
                "difference is not of the method alone"
            )


def _cell_json(cell: Cell) -> dict[str, object]:
    difference = cell.difference
    return {
        **_estimate_json(cell.value),
        "seeds_sd": number(cell.seeds_sd),
        "difference": None
        if difference is None
        else {
            **_estimate_json(difference.value),
            "seeds": list(map(number, difference.seeds)),
            "sd": number(difference.over.sd),
            "p_t": number(difference.over.p_t),
            "p_signs": number(difference.over.p_signs),
            "p_holm": number(difference.p_holm),
            "seeds_needed": difference.seeds_needed,
        },
    }


def _estimate_json(estimate: Estimate) -> dict[str, object]:
    return {"value": number(estimate.value), "ci95": [number(estimate.low), number(estimate.high)]}


def _csv(study: Study, table: Table) -> str:
    header = (
        "row", "column", "place", "score", "metric", "value", "ci95_low", "ci95_high", "seeds_sd",
        "difference", "difference_low", "difference_high", "difference_sd", "p_t", "p_signs", "p_holm",
        "seeds_needed", "difference_by_seed", "seeds", "models", "networks", "steps",
    )  # fmt: skip
    lines = []
    for row, place, score, metric, cell in _cells(table):
        value, d = cell.value, cell.difference
        numbers = (value.value, value.low, value.high, cell.seeds_sd)
        tested: tuple[csv_text.Cell, ...] = (None,) * 9
        if d is not None:
            over = (d.value.value, d.value.low, d.value.high, d.over.sd, d.over.p_t, d.over.p_signs, d.p_holm)
            tested = (*map(number, over), d.seeds_needed, " ".join(f"{one:.6f}" for one in d.seeds))
        made_of = (" ".join(map(str, row.seeds)), row.models, row.networks, row.steps)
        lines.append((row.row, row.column, place, score, metric, *map(number, numbers), *tested, *made_of))
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
    cohort = study.runs[0].settings.cohort
    drawn = cohort is not None and cohort.drawn is not None
    yield (
        f"* every seed is {'a cohort, a split and' if drawn else 'of the same patients,'} a start of its own; mean "
        "over the seeds, with a 95 % interval by bootstrap over seeds and their patients; beside it the standard "
        "deviation over the seeds"
    )
    yield (
        f"* difference from {_reference_title(study)} within each seed, on the same patients: its mean with the same "
        "interval, its standard deviation over the seeds, p of a paired t test over the seeds"
    )
    yield from (f"* {line}" for line in (*power(study, table), *unequal(study, table)))
    if table.missing:
        yield f"* missing runs: {', '.join(run.name for run in table.missing)}"
    for plain in plain_tables(study, table):
        yield from ("", f"## {plain.title}", "", table_forms.markdown(replace(plain, title="")))
    yield from ("", "## What the rows are", "")
    for row in table.rows:
        note = study.file.rows[row.row].note
        voters = f"{row.models} model{'' if row.models == 1 else 's'} that vote"
        steps = f"{voters}, {row.networks} networks that score; {row.steps:,} local steps per site and run"
        yield f"* **{row.title}**{f' ({row.column})' if row.column else ''}: {f'{note} ' if note else ''}{steps}."


def plain_tables(study: Study, table: Table) -> Iterator[PlainTable]:
    """Every table of the study: of each condition, place and metric, then those over the conditions."""
    for column, place in _parts(study, table):
        name = f"{_column_title(study, column)}: " if column else ""
        rows = [row for row in table.rows if row.column == column]
        for metric in SHOWN:
            yield _metric_table(study, rows, place, metric, title=f"{name}{PLACES[place]}, {NAMES[metric]}")
    if any(study.file.conditions()):
        yield from _matrices(study, table)
    if study.file.figures:
        yield _figure_table(study)


def _figure_table(study: Study) -> PlainTable:
    """What else the study's file asks of each run, of all that it trained."""
    asked, lines = study.file.figures, []
    for one in beside_papers(study):
        title = ", ".join(filter(None, (one.row.title or one.run.row, _column_title(study, one.run.column))))
        cells = zip(*(one.cells(figure) for figure in asked), strict=True)
        for system, of_system in zip(SYSTEMS, cells, strict=True):
            if system in one.measured:
                lines.append([title, str(one.run.seed), SYSTEMS[system], *of_system])
    return _plain("further figures of each run", ["", "seed", "trained", *(f.what for f in asked)], lines)


def _plain(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> PlainTable:
    return PlainTable(title=title, header=header, rows=rows, right=[False, *[True] * (len(header) - 1)])


def _matrices(study: Study, table: Table) -> Iterator[PlainTable]:
    """The main score under each condition: of all rows, or of the only row by device."""
    names = tuple(dict.fromkeys(row.row for row in table.rows))
    if len(names) == 1:
        yield _device_matrix(study, table)
    else:
        yield from _condition_matrices(study, table, names)


def _device_matrix(study: Study, table: Table) -> PlainTable:
    """Accuracy by condition and device: where one device after the other is left out, the study's matrix."""
    devices = list(dict.fromkeys(device for row in table.rows for device in row.devices))
    rows = [
        [
            _column_title(study, row.column),
            *(_percent(row.devices[device]) if device in row.devices else "" for device in devices),
        ]
        for row in table.rows
    ]
    title = f"{table.rows[0].title}: accuracy % of the main score by condition and device"
    return _plain(title, ["condition", *devices], rows)


def _condition_matrices(study: Study, table: Table, names: Sequence[str]) -> Iterator[PlainTable]:
    """Accuracy by row and condition."""
    found = {(row.row, row.column): row for row in table.rows}
    titles = {row.row: row.title for row in table.rows}
    conditions = list(dict.fromkeys(column for column, _ in _parts(study, table) if column))
    for place in dict.fromkeys(place for _, place in _parts(study, table)):
        rows = [
            [titles[name], *(_main_accuracy(found.get((name, column)), place) for column in conditions)]
            for name in names
        ]
        title = f"{PLACES[place]}, accuracy % of the main score by condition"
        yield _plain(title, ["", *(_column_title(study, column) for column in conditions)], rows)


def _main_accuracy(row: StudyRow | None, place: str) -> str:
    if row is None or place not in row.cells:
        return "missing"
    cell = row.cells[place].get(_main(_scores([row], place)), {}).get("accuracy")
    return "" if cell is None else _percent(cell.value)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _metric_table(
    study: Study, rows: Sequence[StudyRow], place: str, metric: str, *, title: str
) -> PlainTable:
    scores = _scores(rows, place)
    main = _main(scores)
    header = [
        "",
        "models, networks, steps",
        *scores,
        f"sd over seeds ({main})",
        f"{main} - {_reference_title(study)}",
        "its sd",
        *_P,
    ]
    lines = []
    for row in rows:
        cells = row.cells[place]
        cell = cells.get(main, {}).get(metric)
        last = ("",) * 5 if cell is None else _chance(cell, metric)
        values = [_value(cells.get(score, {}).get(metric), metric) for score in scores]
        lines.append([row.title, _made_of(row), *values, *last])
    return _plain(title, header, lines)


def _figure(study: Study, table: Table, column: str, place: str) -> figures.Figure:
    rows = [row for row in table.rows if row.column == column]
    main = _main(_scores(rows, place))
    drawn = []
    for row in rows:
        cell = row.cells[place].get(main, {}).get("accuracy")
        if cell is not None:
            kind = "federated" if row.row == study.reference else "alone"
            value = cell.value
            drawn.append(
                Interval(
                    label=row.title,
                    kind=kind,
                    value=number(value.value),
                    low=number(value.low),
                    high=number(value.high),
                )
            )
    name = "-".join(filter(None, ("accuracy", column, place)))
    caption = f"Accuracy of the {main} score by row, {PLACES[place]}, with 95 % intervals over patients"
    return figures.intervals(name, caption, drawn, axis=f"accuracy of the {main} score", percent=True)
