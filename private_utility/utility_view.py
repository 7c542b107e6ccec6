"""The study of what privacy costs, as a table, a text, a figure, and the table that plans are made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.evaluation.bootstrap import Estimate
from common.networks.spec import COMBINED
from common.privacy.planning import noise_ratio, utility
from common.text.figures import HASH_SALT, INK, LINE, STYLE, svg
from common.version import VERSION
from server.report import figures

NAME = "private_utility"
GOAL = noise_ratio.GOAL_KAPPA
"""Of weighted kappa that noise may cost."""
MUST = ((8.0, 450), (3.0, 1500))
"""Epsilon, and from how many patients on the goal is set for it."""
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


def write(found: Study, folder: Path) -> None:
    """Write ``private_utility`` as ``.csv``, ``.md`` and ``.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.csv").write_text(numbers(found), encoding="utf-8")
    (folder / f"{NAME}.md").write_text("\n".join(text(found)) + "\n", encoding="utf-8")
    (folder / f"{NAME}.svg").write_text(chart(found), encoding="utf-8")


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
            f"{row.epsilon:g}", _short(found.delta), row.patients, row.sites, "yes" if row.secure else "no",
            found.weights, 1, row.rounds, row.noise_multiplier, round(worst(row).value, 4), name_of(row), VERSION,
        )
        for row in found.rows
        if row.epsilon is not None and row.frozen
    ]  # fmt: skip
    return figures.table(utility.COLUMNS, lines)


def worst(row: CellResult) -> Estimate:
    """The largest loss among a cell's scores."""
    return max((m.loss for m in row.scores.values()), key=lambda loss: loss.value)


def text(found: Study) -> Iterator[str]:
    """The report."""
    today = datetime.now(UTC).date().isoformat()
    frozen = [row for row in found.rows if row.frozen]
    several = [row for row in frozen if row.sites > 1]
    draws = max(m.draws for row in frozen if row.epsilon is not None for m in row.scores.values())
    yield "# What differential privacy costs in weighted kappa"
    yield ""
    command = "python -m private_utility.utility_study"
    yield f"`{command}`, synofed {VERSION}, {today}. On the phantom: no figure here is about patients."
    yield ""
    yield f"![Loss of weighted kappa against epsilon]({NAME}.svg)"
    yield ""
    yield "## What it says"
    yield ""
    yield from _goals(several)
    yield from _alone([row for row in frozen if row.sites == 1])
    yield from _gap(found)
    yield ""
    yield "## How it was measured"
    yield ""
    yield (
        f"* Linear heads ({found.weights} numbers in all) on frozen encoders (`{found.encoders[:12]}`), which "
        f"`synofed pretrain` made from phantoms of another seed and of other machines. Five sites with a machine "
        f"each; training patients spread evenly, three exams each; {found.exams} held-out exams of {found.patients} "
        f"patients at the same sites, scored against the phantoms' true grades."
    )
    yield (
        f"* {max(row.rounds for row in frozen)} rounds of the whole cohort; epsilon is a patient's, for one patient "
        f"added or removed, at delta {_short(found.delta)}. A cell is the mean over {draws} campaigns: noise comes "
        f"from the operating system's entropy and cannot be had twice, so **these numbers move from run to run**, a "
        f"single campaign's by about the standard deviation in the table."
    )
    yield (
        "* Own noise is the production step at each site. Under secure aggregation each of five sites adds the share "
        "that suffices if one of them tells the centre its own (U = 5, t = 1), drawn in whole numbers as in "
        "production. Patients' gradients are not rounded to its grid: the noise has thousands of its steps."
    )
    yield (
        "* The learning rate of each cell was chosen on a rehearsal: another cohort of phantoms (another seed, five "
        "drawn machines) with the same numbers of patients, scored on its own held-out patients. That costs no "
        "privacy, and anybody can do it before a campaign. Without privacy it was chosen in the same way."
    )
    yield (
        "* Loss: kappa of the same heads trained without clipping and noise, less that with. In parentheses 95 % "
        "intervals by bootstrap over held-out patients, paired."
    )
    yield ""
    yield "## Frozen encoders, linear weighted kappa"
    yield ""
    yield from _markdown(frozen)
    whole = [row for row in found.rows if not row.frozen]
    if whole:
        yield ""
        yield "## All weights trained, without privacy, all exams pooled"
        yield ""
        yield from _whole(whole)
    yield ""
    yield (
        f"All numbers: `{NAME}.csv`. Plans read `common/privacy/planning/utility.csv`: of each cell the score "
        f"that loses most."
    )


def _goals(rows: Sequence[CellResult]) -> Iterator[str]:
    for epsilon, least in MUST:
        for secure in (True, False):
            asked = [r for r in rows if r.epsilon == epsilon and r.patients >= least and r.secure is secure]
            if not asked:
                continue
            met = all(worst(row).value <= GOAL for row in asked)
            how = "with secure aggregation" if secure else "with each site's own noise"
            parts = ", ".join(f"{_interval(worst(row))} with {row.patients:,} patients" for row in asked)
            yield (
                f"* Epsilon {epsilon:g}, at least {least:,} patients, {how}: the goal (at most {GOAL}) is "
                f"**{'met' if met else 'not met'}**: of its scores the one that loses most loses {parts}."
            )
    others = [
        row
        for row in rows
        if row.epsilon is not None and not any(row.epsilon == e and row.patients >= n for e, n in MUST)
    ]
    within = [row for row in others if worst(row).value <= GOAL]
    beyond = [row for row in others if worst(row).value > GOAL]
    for found, said in ((within, "lose at most"), (beyond, "lose more than")):
        if found:
            yield f"* Where no goal was set, these {said} {GOAL}: {'; '.join(map(_brief, found))}."


def _brief(row: CellResult) -> str:
    how = "secure" if row.secure else "own noise"
    return f"epsilon {row.epsilon:g}, {row.patients:,}, {how} ({worst(row).value:+.3f})"


def _alone(rows: Sequence[CellResult]) -> Iterator[str]:
    private = [row for row in rows if row.epsilon is not None]
    if private:
        parts = ", ".join(f"{_interval(worst(row))} at epsilon {row.epsilon:g}" for row in private)
        failed = [f"{row.epsilon:g}" for row in private if worst(row).value > GOAL]
        said = (
            f"More than {GOAL} at epsilon {' and '.join(failed)}" if failed else f"Nowhere more than {GOAL}"
        )
        yield (
            f"* **One site of {private[0].patients} patients by itself** (mean of the five, and the deviation over "
            f"campaigns is over sites, too) loses {parts}, of the kappa that the same site has without privacy. "
            f"{said}."
        )


def _gap(found: Study) -> Iterator[str]:
    for row in found.rows:
        if not row.frozen:
            gained = row.scores[COMBINED].loss
            yield (
                f"* Frozen against trained, {row.patients:,} patients, no privacy: training all weights changes the "
                f"combined score's kappa by {-gained.value:+.3f} ({-gained.high:+.3f} to {-gained.low:+.3f})."
            )


def _markdown(rows: Sequence[CellResult]) -> Iterator[str]:
    scores = list(rows[0].scores)
    header = [
        "patients",
        "sites",
        "epsilon",
        "noise",
        "sigma",
        "rate",
        *scores,
        "sd over campaigns (combined)",
    ]
    header += [f"loss, {score}" for score in scores]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        private = row.epsilon is not None
        yield (
            " | ".join(
                (
                    f"| {row.patients:,}",
                    f"{row.sites}",
                    f"{row.epsilon:g}" if private else "none",
                    ("secure" if row.secure else "own") if private else "none",
                    f"{row.noise_multiplier:.2f}" if private else "",
                    f"{row.rate:g}",
                    *(
                        f"{m.kappa.value:.3f} ({m.kappa.low:.3f} to {m.kappa.high:.3f})"
                        for m in row.scores.values()
                    ),
                    f"{row.scores[COMBINED].draws_sd:.3f}" if private else "",
                    *(_interval(m.loss) if private else "" for m in row.scores.values()),
                )
            )
            + " |"
        )


def _whole(rows: Sequence[CellResult]) -> Iterator[str]:
    scores = list(rows[0].scores)
    header = ["patients", *scores, *(f"trained - frozen, {score}" for score in scores)]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        found = row.scores.values()
        gained = [Estimate(value=-m.loss.value, low=-m.loss.high, high=-m.loss.low) for m in found]
        cells = [f"{m.kappa.value:.3f} ({m.kappa.low:.3f} to {m.kappa.high:.3f})" for m in found]
        yield f"| {row.patients:,} | {' | '.join([*cells, *map(_interval, gained)])} |"


def _short(delta: float) -> str:
    """``1e-5`` rather than ``1e-05``."""
    return f"{delta:g}".replace("e-0", "e-")


def _interval(found: Estimate) -> str:
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
