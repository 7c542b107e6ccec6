"""A reader study on a terminal: tables, and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box

from common.evaluation.paired import PERMUTATIONS
from common.text.terminal import Table
from simulation.readers import findings, findings_view
from simulation.readers.findings import AVERAGE
from simulation.readers.findings_view import interval, p_value, shown, title_of
from simulation.readers.readers import REPLICATES, Measured, Study
from simulation.readers.readings import ENSEMBLE, Readings

AMONG = "among each other"
_EACH = ("accuracy", "kappa_linear", "youden")
"""How the names of metrics begin that have room in the table of each reader."""


def notices(readings: Readings) -> list[str]:
    """What must be said beside every figure of a study."""
    said: list[str] = []
    if "simulated" in readings.kind:
        from simulation.readers.simulated_readers import NOTICE  # noqa: PLC0415  phantoms, which need scipy

        said += NOTICE
    if readings.unit == "exam":
        said.append(
            "No patient_id: exams were taken for independent. If patients have several, intervals are too narrow "
            "and p too small."
        )
    return said


def tables(readings: Readings, study: Study) -> Iterator[Table]:
    """For each measurement the readers, their average with intervals and tests, and what else was found."""
    for name, measured in study.measurements.items():
        yield _each(name, readings, measured)
        yield _average(name, readings, measured)
        yield from findings_view.tables(name, readings, measured)
    if study.times:
        yield findings_view.times(study.times, readings)


def lines(readings: Readings, study: Study) -> Iterator[str]:
    """What was left out, and how figures were made."""
    for pair in readings.impossible:
        yield f"Left out, cannot be: {pair}"
    if readings.unreferenced:
        yield f"Left out, no reference: {', '.join(readings.unreferenced)}"
    for name, measured in study.measurements.items():
        for reader, exams in measured.unpaired.items():
            yield f"Left out, {name} read in one condition only by {reader}: {', '.join(exams)}"
    for name, measured in study.measurements.items():
        yield f"Scored, {name}: {measured.patients} {readings.unit}s, {_span(measured.exams)} exams per reader"
    yield f"Intervals: 95 %, {REPLICATES} bootstrap draws of {readings.unit}s; readers are taken as they are"
    if len(readings.conditions) > 1:
        yield (
            f"p: readings of a {readings.unit} swapped at random ({PERMUTATIONS} times, or all ways if fewer), and "
            "with one exam more that speaks against the difference; p Holm: corrected over the readers"
        )
        for name, measured in study.measurements.items():
            p = next(row.p_signed_rank for row in measured.rows if row.p_signed_rank is not None)
            yield f"Wilcoxon's signed rank test of average accuracy by {readings.unit}, {name}: p {p_value(p)}"
    for name, measured in study.measurements.items():
        if measured.icc:
            yield (
                f"ICC of readers, {name}: ICC(2,1) among each other, on {measured.shared} exams that all graded; "
                "the others are against the reference"
            )
    yield from findings_view.lines(readings, study.measurements, study.times)
    yield from notices(readings)


def _each(name: str, readings: Readings, measured: Measured) -> Table:
    both = len(readings.conditions) > 1
    how = "without → with assistance" if both else f"{readings.conditions[0]} assistance"
    table = Table(
        title=f"{name}: {readings.kind}, {how}", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    rows = [row for row in measured.rows if row.metric.startswith(_EACH)]
    for metric in dict.fromkeys(row.metric for row in rows):
        table.add_column(title_of(metric).replace(" ", "\n"), justify="right", no_wrap=True)
        if both and metric == "accuracy":
            table.add_column("p\nHolm", justify="right", no_wrap=True)
    for reader in (*range(len(measured.readers)), None):
        cells = []
        for row in (row for row in rows if row.reader == reader):
            cells.append("→".join(shown(row.conditions[c].value, row.metric) for c in readings.conditions))
            if both and row.metric == "accuracy":
                cells.append("" if row.p_holm is None else p_value(row.p_holm))
        if reader is None:
            table.add_section()
        table.add_row(AVERAGE if reader is None else measured.readers[reader], *cells)
    alone = {one.metric: one for one in findings_view.of(measured.findings, findings.ALONE)}
    if alone:
        cells = []
        for metric in dict.fromkeys(row.metric for row in rows):
            cells += [shown(alone[metric].value, metric), *([""] if both and metric == "accuracy" else [])]
        table.add_row(ENSEMBLE, *cells)
    return table


def _average(name: str, readings: Readings, measured: Measured) -> Table:
    table = Table(
        title=f"{name}: average of {readings.kind}",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for title in (*readings.conditions, *(("difference", "p") if len(readings.conditions) > 1 else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for row in (row for row in measured.rows if row.reader is None):
        cells = [interval(row.conditions[c], row.metric) for c in readings.conditions]
        if row.difference is not None:
            cells += [interval(row.difference, row.metric), p_value(row.difference.p)]
        table.add_row(title_of(row.metric), *cells)
    if measured.icc:
        table.add_section()
        table.add_row("ICC of readers", *(interval(measured.icc[c], "icc") for c in readings.conditions))
    for kappas in findings_view.agreement(measured, readings.conditions):
        table.add_row(*kappas)
    return table


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
