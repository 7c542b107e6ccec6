"""A reader study as a chart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from common.evaluation.readers import CONDITIONS
from common.text import csv_text
from server.report import figures
from server.report.figures import Figure
from server.report.tables import Interval
from simulation.readers import findings
from simulation.readers.findings import Finding
from simulation.readers.readers import Measured, Study
from simulation.readers.readers_files import condition_value, reader_name
from simulation.readers.readings import ENSEMBLE, Readings

FIGURE, GAIN = "reader_accuracy", "reader_gain"


def figure(readings: Readings, study: Study) -> Figure:
    """Accuracy of each reader without and with assistance, and the ensemble's; one panel per measurement."""
    with mpl.rc_context(figures.CHART_STYLE):
        canvas, whole = figures._canvas(1.9 * len(study.measurements) + 0.9, 3.0)
        whole.remove()
        panels = canvas.subplots(1, len(study.measurements), sharey=True, squeeze=False)[0]
        for axes, (name, measured) in zip(panels, study.measurements.items(), strict=True):
            _slopes(axes, readings, measured)
            axes.set_title(name, fontsize=8.5)
        panels[0].set_ylabel("accuracy")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        canvas.suptitle(f"{readings.kind.capitalize()}: each, and their average", fontsize=9)
        svg = figures.saved(canvas, FIGURE)
    rows = [
        (
            readings.kind,
            name,
            reader_name(row, measured),
            *(condition_value(row, condition) for condition in CONDITIONS),
        )
        for name, measured in study.measurements.items()
        for row in measured.rows
        if row.metric == "accuracy"
    ]
    rows += [
        (
            readings.kind,
            name,
            ENSEMBLE,
            *(one.value if c in readings.conditions else None for c in CONDITIONS),
        )
        for name, measured in study.measurements.items()
        for one in _ensemble(measured)
    ]
    return Figure(
        name=FIGURE,
        caption=f"{readings.kind.capitalize()}: accuracy without and with assistance, each and on average.",
        svg=svg,
        csv=csv_text.table(("kind", "measurement", "reader", *CONDITIONS), rows),
    )


def _slopes(axes: Axes, readings: Readings, measured: Measured) -> None:
    places = [float(place) for place in range(len(readings.conditions))]
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
    for one in _ensemble(measured):
        axes.axhline(
            one.value, color=figures.COLOURS["federated"], linewidth=1.4, linestyle=(0, (4, 2)), zorder=1
        )
        axes.annotate(
            f"{ENSEMBLE} {100 * one.value:.0f} %", (0.02, one.value), xycoords=("axes fraction", "data"),
            xytext=(0, 2), textcoords="offset points", fontsize=6.5, color=figures.COLOURS["federated"],
        )  # fmt: skip
    axes.set_xticks(places, list(readings.conditions))
    axes.set(xlim=(-0.7, len(places) - 0.3), xlabel="assistance")
    axes.grid(axis="y")
    axes.tick_params(length=0)


def _ensemble(measured: Measured) -> list[Finding]:
    return [one for one in measured.findings if (one.part, one.metric) == (findings.ALONE, "accuracy")]


def gain(readings: Readings, study: Study) -> Figure | None:
    """What assistance changed in accuracy: of each reader, of these on average, and of other readers.

    Returns:
        ``None`` for a study of one condition.
    """
    rows = [row for name, measured in study.measurements.items() for row in _gains(name, measured)]
    if not rows:
        return None
    caption = (
        f"{readings.kind.capitalize()}: accuracy with minus without assistance. Of each reader and of these readers "
        "on average, for other patients; of other readers and other patients (Obuchowski and Rockette)."
    )
    axis = f"accuracy of {readings.kind}, with minus without"
    drawn = figures.intervals(GAIN, caption, rows, axis=axis, percent=True)
    cells = [(readings.kind, row.label, row.value, row.low, row.high) for row in rows]
    return replace(drawn, csv=csv_text.table(("kind", "row", "value", "ci95_low", "ci95_high"), cells))


def _gains(name: str, measured: Measured) -> Iterator[Interval]:
    for row in sorted(measured.rows, key=lambda row: row.reader is None):  # each, and then all of them
        if row.metric == "accuracy" and row.difference is not None:
            whose = "these readers" if row.reader is None else reader_name(row, measured)
            kind = "readers" if row.reader is None else "alone"
            yield _interval(
                f"{name}: {whose}", kind, row.difference.value, row.difference.low, row.difference.high
            )
    for one in measured.findings:
        if (one.metric, one.reader, one.condition) == ("accuracy", findings.RANDOM, findings.DIFFERENCE):
            yield _interval(f"{name}: other readers", "federated", one.value, one.low, one.high)


def _interval(label: str, kind: str, *numbers: float) -> Interval:
    value, low, high = (number if math.isfinite(number) else None for number in numbers)
    return Interval(label=label, kind=kind, value=value, low=low, high=high)


def _label(axes: Axes, place: float, value: float, *, side: int) -> None:
    """The average's figure beside its end of the line: -1 left, 1 right."""
    axes.annotate(
        f"{100 * value:.0f} %", (place, value), xytext=(9 * side, -3), textcoords="offset points",
        ha="left" if side > 0 else "right", fontweight="bold",
    )  # fmt: skip
