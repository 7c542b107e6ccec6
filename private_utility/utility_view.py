"""The study of what privacy costs: its cells, as a table, a figure, and the table that plans are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.evaluation.bootstrap import Estimate
from common.privacy.planning import noise_ratio, utility
from common.text.figures import HASH_SALT, INK, LINE, STYLE, svg
from common.version import VERSION
from server.report import figures

NAME = "private_utility"
GOAL = noise_ratio.GOAL_KAPPA
"""Of weighted kappa that noise may cost."""
COLOURS = ("#c2455a", "#d9822b", "#2b7bba", "#2c8a57")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One score of a cell.

    Attributes:
        kappa: linear weighted kappa, mean over the draws.
        loss: of the same heads without privacy, less that.
        draws: campaigns that were trained.
        draws_sd: standard deviation of kappa over them.
    """

    kappa: Estimate
    loss: Estimate
    draws: int
    draws_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """A cell.

    Attributes:
        patients: at all sites.
        sites: over which they are spread.
        epsilon: ``None``: no privacy.
        secure: noise added once for all sites.
        frozen: ``False``: all weights were trained.
        rounds: of the heads.
        noise_multiplier: of each.
        rate: learning rate that the rehearsal chose.
        scores: by measurement, and the combined score.
    """

    patients: int
    sites: int
    epsilon: float | None
    secure: bool
    frozen: bool
    rounds: int
    noise_multiplier: float | None
    rate: float
    scores: dict[str, Measure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All cells.

    Attributes:
        rows: the cells.
        exams: held out.
        patients: held out.
        weights: numbers that a frozen cell trains.
        delta: of every budget.
        encoders: hash of their weights.
    """

    rows: tuple[CellResult, ...]
    exams: int
    patients: int
    weights: int
    delta: float
    encoders: str


def line(row: CellResult) -> str:
    """A cell in a line."""
    kappas = ", ".join(
        f"{name} {m.kappa.value:.3f} (loss {m.loss.value:+.3f})" for name, m in row.scores.items()
    )
    return f"{name_of(row)}: rate {row.rate:g}, {kappas}"


def name_of(row: CellResult) -> str:
    """Of a cell, for the plan's table."""
    budget = "open" if row.epsilon is None else f"eps{row.epsilon:g}"
    kind = "" if row.epsilon is None else ("-secure" if row.secure else "-own")
    where = "-1site" if row.sites == 1 else ""
    return f"{NAME}/{'' if row.frozen else 'whole-'}n{row.patients}{where}-{budget}{kind}"


def numbers(found: Study) -> str:
    """Every score of every cell as CSV."""
    header = (
        "encoder", "patients", "sites", "epsilon", "delta", "secure_aggregation", "noise_multiplier", "rounds",
        "learning_rate", "draws", "score", "kappa", "kappa_low", "kappa_high", "kappa_sd_over_draws", "loss",
        "loss_low", "loss_high",
    )  # fmt: skip
    lines = []
    for row in found.rows:
        for score, m in row.scores.items():
            kind = "frozen" if row.frozen else "trained"
            secure = "" if row.epsilon is None else ("yes" if row.secure else "no")
            delta = None if row.epsilon is None else found.delta
            lines.append(
                (
                    kind, row.patients, row.sites, row.epsilon, delta, secure, row.noise_multiplier, row.rounds,
                    row.rate, m.draws, score,
                    *(round(v, 4) for v in (
                        m.kappa.value, m.kappa.low, m.kappa.high, m.draws_sd, m.loss.value, m.loss.low, m.loss.high,
                    )),
                )
            )  # fmt: skip
    return figures.table(header, lines)


def table(found: Study) -> str:
    """The table of :mod:`common.privacy.planning.utility`: one private cell per row, the loss of its worst score."""
    lines = [
        (
            f"{row.epsilon:g}", short(found.delta), row.patients, row.sites, "yes" if row.secure else "no",
            found.weights, 1, row.rounds, row.noise_multiplier, round(worst(row).value, 4), name_of(row), VERSION,
        )
        for row in found.rows
        if row.epsilon is not None and row.frozen
    ]  # fmt: skip
    return figures.table(utility.COLUMNS, lines)


def worst(row: CellResult) -> Estimate:
    """The largest loss among a cell's scores."""
    return max((m.loss for m in row.scores.values()), key=lambda loss: loss.value)


def short(delta: float) -> str:
    """``1e-5`` rather than ``1e-05``."""
    return f"{delta:g}".replace("e-0", "e-")


def interval(found: Estimate) -> str:
    """A difference with its sign."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def chart(found: Study) -> str:
    """Loss against epsilon as SVG, one panel per score, one line per number of patients."""
    rows = [row for row in found.rows if row.frozen and row.sites > 1 and row.epsilon is not None]
    scores = list(rows[0].scores)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 3.3), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
        for axes, score in zip(panels, scores, strict=True):
            _panel(axes, rows, score)
        panels[0].set_ylabel("loss of weighted kappa")
        figure.legend(handles=_keys(rows), loc="outside lower center", ncols=6, frameon=False)
        return svg(figure)


def _keys(rows: Sequence[CellResult]) -> list[Line2D]:
    """Colours stand for patients, dashes for who adds noise."""
    counts = sorted({row.patients for row in rows})
    shown = [
        Line2D([], [], color=COLOURS[place % len(COLOURS)], linewidth=3, label=f"{patients:,} patients")
        for place, patients in enumerate(counts)
    ]
    return [
        *shown,
        Line2D([], [], color=INK, marker="o", markersize=4, label="secure aggregation"),
        Line2D(
            [],
            [],
            color=INK,
            marker="s",
            markersize=4,
            markerfacecolor="white",
            linestyle="--",
            label="own noise",
        ),
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 2)), label=f"goal, {GOAL}"),
    ]


def _panel(axes: Axes, rows: Sequence[CellResult], score: str) -> None:
    epsilons = sorted({row.epsilon for row in rows if row.epsilon is not None})
    counts = sorted({row.patients for row in rows})
    axes.axhline(0, color=LINE, linewidth=0.8)
    axes.axhline(GOAL, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    for place, patients in enumerate(counts):
        for secure in (True, False):
            drawn = {row.epsilon: row for row in rows if row.patients == patients and row.secure is secure}
            at = [epsilon for epsilon in epsilons if epsilon in drawn]
            losses = [drawn[epsilon].scores[score].loss for epsilon in at]
            shift = 1.03 ** (2 * (place - (len(counts) - 1) / 2) + (0.5 if secure else -0.5))
            axes.errorbar(
                [epsilon * shift for epsilon in at],
                [loss.value for loss in losses],
                yerr=[
                    [max(0.0, loss.value - loss.low) for loss in losses],
                    [max(0.0, loss.high - loss.value) for loss in losses],
                ],
                color=COLOURS[place % len(COLOURS)],
                linestyle="-" if secure else "--",
                marker="o" if secure else "s",
                markerfacecolor=COLOURS[place % len(COLOURS)] if secure else "white",
                markersize=4,
                linewidth=1.4,
                elinewidth=0.8,
            )
    axes.set_xscale("log")
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.minorticks_off()
    axes.set_xlim(max(epsilons) * 1.35, min(epsilons) / 1.35)
    axes.set_xlabel("epsilon of a patient")
    axes.set_title(score, fontsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.5)


_STYLE: dict[Any, Any] = {
    **STYLE,
    "svg.hashsalt": HASH_SALT,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
