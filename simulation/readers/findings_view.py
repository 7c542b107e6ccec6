"""What a study finds beside each reader's own figures, on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich import box

from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import Comparison
from common.text.terminal import Table
from server.report.tables import NOTHING
from simulation.readers import findings as parts
from simulation.readers.findings import AVERAGE, DIFFERENCE, FIXED, RANDOM, Finding
from simulation.readers.readers import Measured
from simulation.readers.readings import Readings

_EACH = ("without", "with", DIFFERENCE)


def tables(name: str, readings: Readings, measured: Measured) -> Iterator[Table]:
    """Of one measurement: over readers and patients, against the ensemble, habits; those that there are."""
    ways = {parts.CROSSED: _crossed, parts.AGAINST: _against, parts.HABITS: _habits}
    for part, table in ways.items():
        found = of(measured.findings, part)
        if found:
            yield table(name, readings, found)


def times(found: Sequence[Finding], readings: Readings) -> Table:
    """Seconds of a reading by reader and condition."""
    both = len(readings.conditions) > 1
    table = _table(f"Seconds per reading of {readings.kind}: median (quartiles)")
    for title in (*readings.conditions, *(("with / without", "p") if both else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for reader in dict.fromkeys(one.reader for one in found):
        mine = {(one.metric, one.condition): one for one in found if one.reader == reader}
        cells = [_seconds(mine.get(("seconds_median", condition))) for condition in readings.conditions]
        ratio = mine.get(("seconds_ratio", DIFFERENCE))
        table.add_row(
            reader, *cells, *((interval(ratio), p_value(ratio.p)) if ratio else ("", "") if both else ())
        )
    return table


def lines(
    readings: Readings, measurements: Mapping[str, Measured], timed: Sequence[Finding]
) -> Iterator[str]:
    """How these figures are made, and which could not be."""
    found = [one for measured in measurements.values() for one in measured.findings]
    if of(found, parts.BETWEEN):
        yield "kappa between: linear, mean over pairs of readers; within: of a reader's own two sessions"
    if readings.sessions > 1:
        yield "Sessions: the first in which a reader graded an exam counts; the second is for kappa within alone"
    if of(found, parts.CROSSED):
        exams = [
            f"{name} {crossed[0].exams}"
            for name, measured in measurements.items()
            if (crossed := of(measured.findings, parts.CROSSED))
        ]
        yield (
            f"Over readers and patients, on exams that all graded ({', '.join(exams)}): Obuchowski and Rockette's "
            "analysis, Hillis' degrees of freedom; random: of other readers too, fixed: of these readers"
        )
    if of(found, parts.AGAINST):
        yield "Against the ensemble: p of each reader corrected (Holm), of the average not"
    if of(found, parts.HABITS):
        yield "Habit: grades above the readers' average; noise: spread of one reading; found without the reference"
    for name, measured in measurements.items():
        for reason in dict.fromkeys(measured.refused.values()):
            which = " and ".join(_PARTS[part] for part, why in measured.refused.items() if why == reason)
            yield f"Not computed, {name}, {which}: {reason}"
    if timed:
        yield f"with / without: ratio of times by {readings.unit}, with Wilcoxon's signed rank test"
    for one in (one for one in timed if one.metric == "hidden_share" and one.reader == AVERAGE and one.value):
        yield f"Hidden pages, {one.condition}: {100 * one.value:.1f} % of the time, not counted in seconds"


_PARTS = {parts.CROSSED: "over readers and patients", parts.HABITS: "habits"}


def of(found: Sequence[Finding], part: str) -> list[Finding]:
    """Those of one part."""
    return [one for one in found if one.part == part]


def agreement(measured: Measured, conditions: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Rows for the table of the average: kappa between readers and of each with himself, by condition."""
    for title, part in (("kappa between", parts.BETWEEN), ("kappa within", parts.WITHIN)):
        mean = {one.condition: one for one in of(measured.findings, part) if one.reader == AVERAGE}
        if mean:
            places = (*conditions, *((DIFFERENCE,) if len(conditions) > 1 else ()))
            yield title, *(interval(mean[place]) if place in mean else "" for place in places)


def _crossed(name: str, readings: Readings, found: Sequence[Finding]) -> Table:
    both = len(readings.conditions) > 1
    what = DIFFERENCE if both else readings.conditions[0]
    table = _table(
        f"{name}: {readings.kind}, over readers and patients, " + ("with - without" if both else what)
    )
    titles = ("readers\nrandom", "F", "df", "p", "readers\nfixed", "p") if both else ("random", "df", "fixed")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for metric in dict.fromkeys(one.metric for one in found):
        random, fixed = (
            next(one for one in found if (one.metric, one.reader, one.condition) == (metric, kind, what))
            for kind in (RANDOM, FIXED)
        )
        spread = interval(fixed, metric).partition(" ")[2] or NOTHING
        cells = (
            (
                interval(random, metric), _number(random.statistic), _number(random.df, 1), p_value(random.p),
                spread, p_value(fixed.p),
            )
            if both
            else (interval(random, metric), _number(random.df, 1), spread)
        )  # fmt: skip
        table.add_row(title_of(metric), *cells)
    return table


def _against(name: str, readings: Readings, found: Sequence[Finding]) -> Table:
    table = _table(f"{name}: {readings.kind} minus ensemble, accuracy %")
    for condition in readings.conditions:
        for title in (condition, "p"):
            table.add_column(title, justify="right", no_wrap=True)
    accuracy = [one for one in found if one.metric == "accuracy"]
    names = [name for name in dict.fromkeys(one.reader for one in accuracy) if name != AVERAGE]
    for reader in (*names, AVERAGE):
        mine = {one.condition: one for one in accuracy if one.reader == reader}
        if reader == AVERAGE:
            table.add_section()
        cells = []
        for one in (mine.get(condition) for condition in readings.conditions):
            cells += ["", ""] if one is None else [
                interval(one, "accuracy"), p_value(one.p if reader == AVERAGE else one.p_holm),
            ]  # fmt: skip
        table.add_row(reader, *cells)
    return table


def _habits(name: str, readings: Readings, found: Sequence[Finding]) -> Table:
    table = _table(f"{name}: {readings.kind}, habit and noise in grades")
    for condition in readings.conditions:
        table.add_column(f"habit\n{condition}", justify="right", no_wrap=True)
        table.add_column("noise", justify="right", no_wrap=True)
    for reader in dict.fromkeys(one.reader for one in found):
        mine = {(one.metric, one.condition): one for one in found if one.reader == reader}
        cells = []
        for condition in readings.conditions:
            habit, noise = (mine.get((metric, condition)) for metric in ("habit", "noise"))
            cells += ["", ""] if habit is None or noise is None else [_signed(habit), _number(noise.value)]
        table.add_row(reader, *cells)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    return table


def shown(value: float, metric: str) -> str:
    """A figure for reading: accuracy in percent, others with two decimals."""
    if not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.2f}"


def interval(one: Finding | Estimate | Comparison, metric: str = "") -> str:
    """Value and interval."""
    if not math.isfinite(one.value):
        return NOTHING
    value, low, high = (shown(number, metric) for number in (one.value, one.low, one.high))
    return f"{value} ({low}, {high})"


def _signed(one: Finding) -> str:
    return f"{one.value:+.2f} ({one.low:+.2f}, {one.high:+.2f})"


def _seconds(one: Finding | None) -> str:
    return "" if one is None else f"{one.value:.1f} ({one.low:.1f}, {one.high:.1f})"


def _number(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else NOTHING


def p_value(p: float) -> str:
    """A p for reading."""
    if not math.isfinite(p):
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def title_of(metric: str) -> str:
    """What a metric is called in tables."""
    titles = {
        "accuracy": "accuracy %",
        "kappa_linear": "linear kappa",
        "spearman": "Spearman",
        "icc": "ICC(2,1)",
    }
    return titles.get(metric, metric.replace("youden_", "Youden ").replace("auc_", "AUC "))
