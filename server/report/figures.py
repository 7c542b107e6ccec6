"""Charts as SVG, each with the data it shows as CSV. The same data give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from common.text import csv_text
from common.text.figures import INK, LINE, STYLE, element, room_in, svg
from server.report.tables import Cell, Interval

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLOURS: Mapping[str, str] = {
    "federated": "#2b7bba",
    "personal": "#2f9e77",
    "centralised": "#d9822b",
    "alone": "#8a8f98",
    "readers": "#8e63b0",
    "trivial": "#a08c4a",
    "unseen": "#c2455a",
}
"""Of middling lightness, to be seen on a light and on a dark page."""

CHART_STYLE: dict[RcKeyType, Any] = {
    **STYLE,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart.

    Attributes:
        name: stem of its files.
        caption: one sentence that says what is seen; also the text for readers who cannot see it.
        svg: a whole SVG document.
        csv: the data it shows, with a header.
    """

    name: str
    caption: str
    svg: str
    csv: str

    @property
    def inline(self) -> str:
        """The SVG element for an HTML page, its ink and lines in the page's own colours."""
        named = r'\bid="(?:figure|axes|patch|text|line2d|legend|matplotlib\.axis|[xy]tick)_?\d*"'
        return re.sub(named, "", element(self.svg)).replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)

    def save(self, folder: Path) -> None:
        """Write ``<name>.svg`` and ``<name>.csv``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{self.name}.csv").write_text(self.csv, encoding="utf-8")


def confusion(name: str, caption: str, matrix: Sequence[Sequence[int]]) -> Figure:
    """Counts by reference grade (row) and decided grade (column), shaded by the share of the row."""
    counts = np.asarray(matrix)
    grades = len(counts)
    side = 0.9 + 0.52 * max(grades, 3)
    with mpl.rc_context(CHART_STYLE):
        canvas, axes = _canvas(side, side)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (row, column), share in np.ndenumerate(shares):
            axes.add_patch(
                Rectangle((column, row), 0.95, 0.95, facecolor=(*_rgb(COLOURS["federated"]), float(share)))
            )
            axes.text(
                column + 0.475, row + 0.475, f"{counts[row, column]}", ha="center", va="center",
                color="#ffffff" if share > 0.85 else INK, fontweight="bold" if row == column else "normal",
            )  # fmt: skip
        ticks = np.arange(grades) + 0.475
        axes.set(xlim=(0, grades), ylim=(grades, 0), xlabel="decided grade", ylabel="reference grade")
        axes.set_xticks(ticks, [str(g) for g in range(grades)])
        axes.set_yticks(ticks, [str(g) for g in range(grades)])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        drawn = saved(canvas, name)
    rows = [(r, c, int(counts[r, c]), float(shares[r, c])) for r, c in np.ndindex(*counts.shape)]
    return Figure(
        name=name,
        caption=caption,
        svg=drawn,
        csv=table(("reference", "decision", "exams", "share_of_row"), rows),
    )


def intervals(name: str, caption: str, rows: Sequence[Interval], *, axis: str, percent: bool) -> Figure:
    """A dot and its 95 % interval for each row."""
    with mpl.rc_context(CHART_STYLE):
        canvas, axes = _canvas(3.9 + room_in(row.label for row in rows), 0.62 + 0.26 * len(rows))
        for place, row in enumerate(rows):
            if row.value is None:
                continue
            colour = COLOURS[row.kind]
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([row.value], [place], "o", color=colour, markersize=6)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=axis)
        low, high = _limits(rows)
        axes.set_xlim(low, high)
        if low < 0 < high:  # of differences: which side is better is the question
            axes.axvline(0, color=INK, linewidth=0.9)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        drawn = saved(canvas, name)
    data = [(row.label, row.value, row.low, row.high) for row in rows]
    return Figure(
        name=name, caption=caption, svg=drawn, csv=table(("row", "value", "ci95_low", "ci95_high"), data)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line over the rounds; ``faint`` ones are single groups behind their mean, ``stage`` stands at its end."""

    label: str
    kind: str
    points: Sequence[tuple[int, float]]
    faint: bool
    stage: str = ""


def curves(name: str, caption: str, lines: Sequence[Curve], *, axis: str) -> Figure:
    """Lines over the rounds."""
    with mpl.rc_context(CHART_STYLE):
        canvas, axes = _canvas(3.9, 2.6)
        told: set[str] = set()
        for line in lines:
            x, y = zip(*line.points, strict=True)
            if line.stage:
                axes.annotate(
                    line.stage, (x[-1], y[-1]), xytext=(0, 5), textcoords="offset points", ha="right", size=7
                )
            axes.plot(
                x, y,
                color=COLOURS[line.kind],
                linewidth=0.8 if line.faint else 2.2,
                alpha=0.35 if line.faint else 1.0,
                linestyle="-" if line.kind == "federated" else (0, (4, 2)),
                marker="o" if len(x) == 1 else None,
                label="_" if line.faint or line.label in told else line.label,
            )  # fmt: skip
            told.add(line.label)
        axes.set(xlabel="round", ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid()
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="best")
        drawn = saved(canvas, name)
    data = [
        (", ".join(filter(None, (line.label, line.stage))), number, value)
        for line in lines
        for number, value in line.points
    ]
    return Figure(name=name, caption=caption, svg=drawn, csv=table(("line", "round", "value"), data))


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareLine:
    """A line between shares: an ROC curve, or the groups of a reliability diagram.

    Attributes:
        label: in the legend.
        kind: its colour, of :data:`COLOURS`.
        dashed: whether it is drawn so.
        points: x and y, in [0, 1].
        exams: of each point, shown by a dot's area; none: a line without dots.
        intervals: of each point's y; none: not shown.
    """

    label: str
    kind: str
    dashed: bool
    points: Sequence[tuple[float, float]]
    exams: Sequence[int] = ()
    intervals: Sequence[tuple[float, float]] = ()


def unit_square(
    name: str,
    caption: str,
    lines: Sequence[SquareLine],
    *,
    across: str,
    upwards: str,
    legend: Literal["lower right", "best"],
) -> Figure:
    """Lines in the square from (0, 0) to (1, 1), over its diagonal.

    Args:
        name: stem of its files.
        caption: what is seen.
        lines: the later ones above.
        across: label of the x-axis.
        upwards: of the y-axis.
        legend: where it stands.
    """
    with mpl.rc_context(CHART_STYLE):
        canvas, axes = _canvas(2.9, 2.9)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2, zorder=1)
        for line in lines:
            x, y = zip(*line.points, strict=True)
            colour, style = COLOURS[line.kind], (0, (3, 1.5)) if line.dashed else "-"
            axes.plot(x, y, color=colour, linewidth=1.6, linestyle=style, label=line.label)
            if line.exams:
                area = 70 * np.asarray(line.exams) / sum(line.exams)
                axes.scatter(x, y, s=4 + area, color=colour, zorder=3)
            for place, (low, high) in zip(x, line.intervals, strict=False):
                axes.plot([place, place], [low, high], color=colour, linewidth=1.1, alpha=0.55)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=across, ylabel=upwards, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc=legend, fontsize="small", handlelength=1.6, borderaxespad=0.2)
        drawn = saved(canvas, name)
    return Figure(name=name, caption=caption, svg=drawn, csv=table(_SQUARE, _square_rows(lines)))


_SQUARE = ("line", "x", "y", "exams", "ci95_low", "ci95_high")


def _square_rows(lines: Iterable[SquareLine]) -> Iterator[tuple[Cell, ...]]:
    for line in lines:
        for index, point in enumerate(line.points):
            exams = line.exams[index] if line.exams else None
            yield line.label, *point, exams, *(line.intervals[index] if line.intervals else (None, None))


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """CSV text; an empty cell for ``None``."""
    return csv_text.table(header, rows)


def _canvas(width_in: float, height_in: float) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(width_in, height_in), layout="constrained")
    return canvas, canvas.add_subplot()


def saved(canvas: Canvas, name: str) -> str:
    """A drawn chart as SVG, the same bytes for the same data."""
    # The salt makes ids, and no date makes the file, depend on nothing but the data.
    with mpl.rc_context({"svg.hashsalt": name}):
        return svg(canvas)


def _limits(rows: Sequence[Interval]) -> tuple[float, float]:
    numbers = [n for row in rows for n in (row.value, row.low, row.high) if n is not None]
    if not numbers:
        return 0.0, 1.0
    pad = 0.05 * max(max(numbers) - min(numbers), 0.2)
    return min(numbers) - pad, max(numbers) + pad


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
