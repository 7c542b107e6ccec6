"""A reader study as a chart."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from common.evaluation.readers import CONDITIONS
from common.text import csv_text
from server.report import figures
from server.report.figures import Figure
from simulation.readers.readers import Measured
from simulation.readers.readers_files import condition_value, reader_name
from simulation.readers.readings import Readings

FIGURE = "reader_accuracy"


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
        (
            readings.kind,
            name,
            reader_name(row, measured),
            *(condition_value(row, condition) for condition in CONDITIONS),
        )
        for name, measured in study.items()
        for row in measured.rows
        if row.metric == "accuracy"
    ]
    return Figure(
        name=FIGURE,
        caption=f"{readings.kind.capitalize()}: accuracy without and with assistance, each and on average.",
        svg=svg,
        csv=csv_text.table(("kind", "measurement", "reader", *CONDITIONS), rows),
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
