"""What a run's end is worth, as tables of texts: the same rows as in its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from server.report import content, inside, inside_tables, tables
from server.report.content import Content, Json
from server.report.tables import METRICS, Interval, Rows

SHOWN = ("accuracy", "kappa_linear")
REPORT = "report.html"
ReportTable: TypeAlias = dict[str, object]


def of(run: Path) -> dict[str, object]:
    """``cards``: the ensemble's scores; ``tables``; ``networks``: name -> best round, AUC and threshold.

    Raises:
        DataError: if the folder cannot be read.
    """
    found = content.read(run, rounds=())
    judged = inside.read(run)
    networks = found.manifest.get("networks") or {}
    return {
        "cards": list(_cards(found)) if found.metrics else [],
        "tables": [*(_compared(found) if found.metrics else ()), *(_judged(judged) if judged else ())],
        "networks": [{"name": name, **facts} for name, facts in networks.items()],
    }


def _cards(found: Content) -> Iterator[dict[str, str]]:
    models = tables.run_models(found)
    for name in found.measurements:
        for metric in SHOWN:
            entry = found.metrics[name][metric]
            label = f"{METRICS[metric].lower()}, {tables.title(name).lower()}"
            value = tables.number(entry["value"], metric)
            yield {"value": value, "label": label, "small": tables.bounds(entry, metric), "made_of": models}


def _compared(found: Content) -> Iterator[ReportTable]:
    """Every system on the patients of all sites, and the run's ensemble at each site."""
    note = "held-out patients; 95 % intervals by bootstrap over patients"
    for title, rows in (
        ("Beside each other", [tables.comparison(found, found.primary, metric) for metric in SHOWN]),
        ("By site", [tables.places(found, found.primary, metric) for metric in SHOWN]),
    ):
        if rows[0]:
            header = ["", *(METRICS[metric] for metric in SHOWN)]
            what = f"{title}: {tables.title(found.primary).lower()}, {note}"
            yield _table(what, header, list(_merged(rows)))


def _merged(of_metrics: Sequence[Sequence[Interval]]) -> Iterator[tuple[str, Sequence[tuple[str, str]]]]:
    for intervals in zip(*of_metrics, strict=True):
        yield (
            intervals[0].label,
            [
                (tables.number(one.value, metric), tables.bounds({"ci95": (one.low, one.high)}, metric))
                for one, metric in zip(intervals, SHOWN, strict=True)
            ],
        )


def _judged(judged: Json) -> Iterator[ReportTable]:
    for title, (header, rows) in (
        ("As the sites judged it, on held-out patients", inside_tables.table(judged)),
        ("Numbers, by sums of the sites", inside_tables.numbers_table(judged)),
        ("Together minus alone, on a site's own patients", inside_tables.gains_table(judged)),
    ):
        if rows:
            yield _table(title, header, rows)


def _table(title: str, header: Sequence[str], rows: Rows) -> ReportTable:
    return {
        "title": title,
        "header": list(header),
        "rows": [[label, *map(list, cells)] for label, cells in rows],
    }
