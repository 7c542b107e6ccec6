"""A reader study as JSON, as CSV and as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import PERMUTATIONS, Comparison
from common.evaluation.readers import CONDITIONS, ReaderMetric
from server.report import figures
from server.report.figures import Figure
from server.report.tables import Cell
from simulation.readers.readers import REPLICATES, Measured
from simulation.readers.readers_view import AVERAGE, notices
from simulation.readers.readings import Readings

FIGURE = "reader_accuracy"
_COLUMNS = (
    "kind", "measurement", "metric", "reader", "exams", "patients",
    *(f"{part}_{end}" for part in (*CONDITIONS, "difference") for end in ("value", "low", "high")),
    "p", "p_holm",
)  # fmt: skip


def content(readings: Readings, study: Mapping[str, Measured]) -> dict[str, object]:
    """A study as JSON values; ``None`` for what cannot be computed."""
    return {
        "kind": readings.kind,
        "notice": notices(readings),
        "unit": readings.unit,
        "conditions": list(readings.conditions),
        "measurements": {name: _block(measured) for name, measured in study.items()},
        "left_out": {
            "impossible": list(readings.impossible),
            "without_reference": list(readings.unreferenced),
            "one_condition_only": {
                name: {reader: list(exams) for reader, exams in measured.unpaired.items()}
                for name, measured in study.items()
            },
        },
        "replicates": REPLICATES,
        "permutations": PERMUTATIONS,
    }


def csv(readings: Readings, study: Mapping[str, Measured]) -> str:
    """One row per measurement, metric and reader; the first of each metric is the average."""
    return figures.table(
        _COLUMNS,
        (
            (readings.kind, name, *_cells(row, measured))
            for name, measured in study.items()
            for row in measured.rows
        ),
    )


def figure(readings: Readings, study: Mapping[str, Measured]) -> Figure:
    """Accuracy of each reader without and with assistance, one panel per measurement."""
    with mpl.rc_context(figures._STYLE):
        canvas, whole = figures._canvas(1.9 * len(study) + 0.9, 3.0)
        whole.remove()
        panels = canvas.subplots(1, len(study), sharey=True, squeeze=False)[0]
        for axes, (name, measured) in zip(panels, study.items(), strict=True):
            _slopes(axes, readings, measured)
            axes.set_title(name, fontsize=8.5)
        panels[0].set_ylabel("accuracy")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        canvas.suptitle(f"{readings.kind.capitalize()}: each, and their average", fontsize=9)
        svg = figures._svg(canvas, FIGURE)
    rows = [
        (readings.kind, name, _reader(row, measured), *(_value(row, condition) for condition in CONDITIONS))
        for name, measured in study.items()
        for row in measured.rows
        if row.metric == "accuracy"
    ]
    return Figure(
        name=FIGURE,
        caption=f"{readings.kind.capitalize()}: accuracy without and with assistance, each and on average.",
        svg=svg,
        csv=figures.table(("kind", "measurement", "reader", *CONDITIONS), rows),
    )


def _slopes(axes: Axes, readings: Readings, measured: Measured) -> None:
    places = np.arange(len(readings.conditions))
    for row in (row for row in measured.rows if row.metric == "accuracy"):
        mean = row.reader is None
        values = [row.conditions[condition].value for condition in readings.conditions]
        axes.plot(
            places, values, "o-",
            color=figures.COLOURS["readers" if mean else "alone"],
            linewidth=2.4 if mean else 0.9,
            markersize=6 if mean else 3,
            alpha=1.0 if mean else 0.7,
            zorder=3 if mean else 2,
        )  # fmt: skip
        if mean:
            _label(axes, places[0], values[0], side=-1)
            _label(axes, places[-1], values[-1], side=1)
    axes.set_xticks(places, list(readings.conditions))
    axes.set(xlim=(-0.7, len(places) - 0.3), xlabel="assistance")
    axes.grid(axis="y")
    axes.tick_params(length=0)


def _label(axes: Axes, place: float, value: float, *, side: int) -> None:
    """The average's figure beside its end of the line: -1 left, 1 right."""
    axes.annotate(
        f"{100 * value:.0f} %", (place, value), xytext=(9 * side, -3), textcoords="offset points",
        ha="left" if side > 0 else "right", fontweight="bold",
    )  # fmt: skip


def _block(measured: Measured) -> dict[str, object]:
    average = {row.metric: _entry(row) for row in measured.rows if row.reader is None}
    each = {
        name: {row.metric: _entry(row) for row in measured.rows if row.reader == index}
        for index, name in enumerate(measured.readers)
    }
    exams = dict(zip(measured.readers, measured.exams, strict=True))
    return {"patients": measured.patients, "exams": exams, "average": average, "readers": each}


def _entry(row: ReaderMetric) -> dict[str, object]:
    entry: dict[str, object] = {condition: _json(value) for condition, value in row.conditions.items()}
    if row.difference is None:
        return entry
    corrected = {} if row.reader is None else {"p_holm": _plain(row.p_holm)}
    return entry | {"difference": _json(row.difference) | {"p": _plain(row.difference.p)} | corrected}


def _json(estimate: Estimate | Comparison) -> dict[str, object]:
    return {"value": _plain(estimate.value), "ci95": [_plain(estimate.low), _plain(estimate.high)]}


def _cells(row: ReaderMetric, measured: Measured) -> tuple[Cell, ...]:
    exams = sum(measured.exams) if row.reader is None else measured.exams[row.reader]
    parts = (*(row.conditions.get(condition) for condition in CONDITIONS), row.difference)
    p = None if row.difference is None else row.difference.p
    numbers = (number for part in parts for number in _numbers(part))
    return (
        row.metric,
        _reader(row, measured),
        exams,
        measured.patients,
        *map(_plain, (*numbers, p, row.p_holm)),
    )


def _numbers(estimate: Estimate | Comparison | None) -> tuple[float | None, ...]:
    return (None,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)


def _reader(row: ReaderMetric, measured: Measured) -> str:
    return AVERAGE if row.reader is None else measured.readers[row.reader]


def _value(row: ReaderMetric, condition: str) -> float | None:
    return _plain(row.conditions[condition].value) if condition in row.conditions else None


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
