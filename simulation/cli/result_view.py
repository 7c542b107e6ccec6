"""What stands on a terminal at the end of a simulation: the same tables as in the report, the main score alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.text.terminal import Console, Table
from server.report import tables
from server.report.content import Content, read

_METRICS = ("accuracy", "kappa_linear")


def show(console: Console, run: Path) -> None:
    """Print a finished run's results."""
    content = read(run)
    own = [_own_patients(content, system) for system in tables.compared_with_alone(content)]
    for table in (*own, _compared(content), _places(content)):
        if table.row_count:
            console.print(table)
    for line in _lines(content):
        console.print(line)


def _own_patients(content: Content, system: str) -> Table:
    """Each site alone against another system on that site's patients; the report has kappa too."""
    what = "accuracy on each site's own held-out patients, paired"
    own = ", networks of its own" if system == "personal" else ""
    table = _table(content, f"{what}{own}", tables.models(content))
    for title in ("alone, %", f"{'own' if own else system}, %", "gain, points"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, block in tables.own_patients(content):
        if label == "Mean over sites":
            table.add_section()
        accuracy = block[content.primary]["accuracy"]
        sides = [_percent(accuracy[side]["value"]) for side in ("alone", system)]
        gain = tables.signed(accuracy[tables.GAINS[system][0]], scale=100, digits=1)
        table.add_row(label, *sides, _with_spread(*gain))
    return table


def _percent(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{100 * value:.1f}"


def _compared(content: Content) -> Table:
    """Every system on the patients of all sites that trained."""
    table = _table(content, "held-out patients of all sites that trained", tables.models(content))
    _metric_columns(table)
    accuracies, kappas = (tables.comparison(content, content.primary, metric) for metric in _METRICS)
    for accuracy, kappa in zip(accuracies, kappas, strict=True):
        table.add_row(accuracy.label, _cell(accuracy, 100, 1), _cell(kappa, 1, 2))
    return table


def _places(content: Content) -> Table:
    """The run's ensemble at every site."""
    table = _table(content, "the federated ensemble at each site", tables.run_models(content))
    _metric_columns(table)
    accuracies, kappas = (tables.places(content, content.primary, metric) for metric in _METRICS)
    for accuracy, kappa in zip(accuracies, kappas, strict=True):
        table.add_row(accuracy.label, _cell(accuracy, 100, 1), _cell(kappa, 1, 2))
    return table


def _table(content: Content, what: str, models: str) -> Table:
    title = ", ".join(filter(None, (f"{content.primary}: {what}", models)))
    table = Table(title=title, caption="95 % intervals by bootstrap over patients")
    table.add_column("", overflow="fold")
    return table


def _metric_columns(table: Table) -> None:
    for title in ("accuracy %", "linear kappa"):
        table.add_column(title, justify="right", no_wrap=True)


def _lines(content: Content) -> Iterator[str]:
    """The trivial answers, ties and far errors, each in a sentence."""
    if losing := tables.losing(content, "accuracy"):
        yield f"On their own patients {losing}."
    if losing := tables.losing(content, "accuracy", "personal"):
        yield f"With networks of their own, made of the federation's, {losing}."
    for site, choices in tables.chosen(content):
        yield f"{site} uses for itself: {'; '.join(f'{name}: {sentence}' for name, sentence in choices)}"
    baselines = content.metrics.get("baselines") or {}
    for name, label in tables.TRIVIAL.items():
        block = baselines.get(name) or {}
        shown = [
            f"{score} {tables.number(block[score]['accuracy']['value'], 'accuracy')} "
            f"(networks {tables.number(content.metrics[score]['accuracy']['value'], 'accuracy')})"
            for score in content.measurements
            if score in block
        ]
        if shown:
            yield f"{label}: {', '.join(shown)}"
    if sentence := tables.ties(content):
        yield sentence
    far = content.metrics.get("far_off") or {}
    if far:
        counts = ", ".join(f"{score} {found['exams']}" for score, found in far.items())
        yield f"Off by two grades and more: {counts}"


def _with_spread(value: str, spread: str) -> str:
    return f"{value} ({spread})" if spread else value


def _cell(estimate: tables.Interval, scale: float | int, digits: int) -> str:
    numbers = (estimate.value, estimate.low, estimate.high)
    if any(number is None for number in numbers):
        return tables.NOTHING
    value, low, high = (f"{(number or 0.0) * scale:.{digits}f}" for number in numbers)
    return f"{value} ({low} to {high})"
