"""The tables of a run's page: what ``metrics.json`` says of all systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.report import certainty, heatmaps, modalities, tables
from server.report.content import Content, Json
from server.report.tables import METRICS, NOTHING, Rows, bounds, number, signed, title

SYSTEM_NAMES = {
    "federated": "Federated",
    "personal": "Its own networks",
    "centralised": "All data in one place",
}

_GAINED = {"federated": "Gain", "personal": "Gain with its own networks"}


OVER_NETWORKS = {
    "auc": "AUC",
    "ppv": "PPV",
    "npv": "NPV",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}


NAMED = 5
"""Exams that are named below the number of those that are far off."""


DIFFERENCES = ("Difference", "Accuracy, points", "Linear kappa", "Wilcoxon by patient, p")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page: cells are a main text and a small one below it."""

    header: Sequence[str]
    rows: Rows


def alike(content: Content, name: str) -> Json | None:
    """A difference that says with how many models it was computed: before that was noted, some mixed two numbers."""
    difference = (content.metrics.get("differences") or {}).get(name)
    return difference if difference and "models" in difference else None


def results(content: Content) -> Table:
    """Agreement with the reference, by measurement."""
    rows = [(title(name), _metric_cells(content.metrics[name])) for name in content.measurements]
    return Table(header=("", *METRICS.values()), rows=rows)


def own_patients(content: Content) -> Table | None:
    """What each site gains on its own patients."""
    rows = []
    systems = tables.compared_with_alone(content)
    for label, block in tables.own_patients(content):
        size = (str(block["exams"]), f"{block['patients']} patients") if "exams" in block else ("", "")
        accuracy, kappa = block[content.primary]["accuracy"], block[content.primary]["kappa_linear"]
        sides = [accuracy[s] for s in ("alone", *systems)]
        shown = [(number(side["value"], "accuracy"), bounds(side, "accuracy")) for side in sides]
        gains = [
            cell
            for gain, _ in (tables.GAINS[s] for s in systems)
            for cell in (signed(accuracy[gain], scale=100, digits=1), signed(kappa[gain], digits=2))
        ]
        rows.append((label, [*gains, *shown, size]))
    gained = [f"{_GAINED[s]}, {what}" for s in systems for what in ("points", "linear kappa")]
    header = ("Patients of", *gained, "Alone", *(SYSTEM_NAMES[s] for s in systems), "Exams")
    return Table(header=header, rows=rows) if rows else None


def chosen(content: Content) -> Table | None:
    """What each site made of the networks for itself, by measurement."""
    found = tables.chosen(content)
    if not found:
        return None
    measurements = [name for name, _ in found[0][1]]
    rows = [(site, [(sentence, "") for _, sentence in choices]) for site, choices in found]
    return Table(header=("Own networks of", *map(title, measurements)), rows=rows)


def compared(content: Content) -> Table | None:
    """All systems on the patients of all sites, and the commonest grade beside them."""
    rows = [(label, _metric_cells(block[content.primary])) for label, _, block in tables.systems(content)]
    simplest = (content.metrics.get("baselines") or {}).get("commonest") or {}
    if rows and content.primary in simplest:
        rows.append((tables.TRIVIAL["commonest"], _metric_cells(simplest[content.primary])))
    return Table(header=("System", *METRICS.values()), rows=rows) if len(rows) > 1 else None


def answers(content: Content) -> Table | None:
    """Accuracy and kappa of every measurement: the run, its vote, what needs no network, readers."""
    rows = []
    for label, _, block in tables.answers(content):
        cells = []
        for metric in ("accuracy", "kappa_linear"):
            for name in content.measurements:
                entry = (block.get(name) or {}).get(metric) or {"value": None}
                cells.append(tables.cell(entry, metric))
        rows.append((label, cells))
    header = [f"{title(name)}, {what}" for what in ("accuracy", "kappa") for name in content.measurements]
    return Table(header=("", *header), rows=rows) if len(rows) > 1 else None


def differences(content: Content, names: Mapping[str, str]) -> Table | None:
    """Paired differences: ``names`` has those of ``metrics.json`` that are shown, and their labels."""
    rows = []
    for name, label in names.items():
        for measurement in (content.primary, *content.measurements):
            block = (alike(content, name) or {}).get(measurement)
            if block:  # of the primary score where both have it, else of the first that both have
                p = block.get("p_signed_rank")
                shown = [
                    signed(block["accuracy"], scale=100, digits=1),
                    signed(block["kappa_linear"], digits=2),
                    (NOTHING if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001", ""),
                ]
                rows.append((f"{label}\n{title(measurement)}", shown))
                break
    return Table(header=DIFFERENCES, rows=rows) if rows else None


def modality_tables(content: Content) -> list[tuple[str, dict[str, Table | None]]]:
    """Of each test cohort, the tables of the networks of single images."""
    parts = (modalities.areas, modalities.agreement, modalities.cuts, modalities.pairs)
    return [
        (title, {part.__name__: table(part(content, found)) for part in parts})
        for title, found in modalities.cohorts(content)
    ]


def fused(content: Content) -> Table | None:
    """Each image alone beside fusion, of measurements that are fused of several."""
    rows = []
    for name, images in (content.metrics.get("single_images") or {}).items():
        fused = content.metrics[name]
        rows.append((f"{title(name)}\nboth, fused", [*_metric_cells(fused), ("", ""), ("", "")]))
        for image, block in images.items():
            counts = [(str(block[what]), "") for what in ("helped", "hurt")]
            rows.append((f"{title(name)}\n{title(image)} alone", [*_metric_cells(block), *counts]))
    header = ("", *METRICS.values(), "Fusion right, it wrong", "Fusion wrong, it right")
    return Table(header=header, rows=rows) if rows else None


def far_off(content: Content) -> Table | None:
    """Exams that are off by two grades and more, the first of them by name."""
    rows = []
    for name, found in (content.metrics.get("far_off") or {}).items():
        share = number(found["share"], "accuracy")
        named = "\n".join(
            f"{e['site']} · {e['exam_id']}: {e['reference']} decided as {e['decision']}"
            for e in found["examples"][:NAMED]
        )
        rows.append((f"{title(name)}\n{named}", [(str(found["exams"]), ""), (share, "")]))
    return Table(header=("Off by two grades and more", "Exams", "Share"), rows=rows) if rows else None


def places(content: Content, kind: str) -> Table:
    """Agreement at each of ``kind``: ``sites`` or ``devices``."""
    parts = dict(content.metrics[kind])
    if kind == "sites":
        parts["Sites that trained"] = content.metrics["seen"]
        if content.metrics.get("unseen"):
            parts["Never trained on"] = content.metrics["unseen"]
    rows = []
    for name, block in parts.items():
        contested = block.get("contested")
        share = NOTHING if contested is None else f"{100 * contested:.0f} %"
        size = (f"{block['exams']}", f"{block['patients']} patients")
        where = ", ".join(block["devices_used"]) if kind == "sites" else ""
        where += "" if block["trained"] else " · not trained on"
        rows.append(
            (f"{name}\n{where.strip(' ·')}", [size, *_metric_cells(block[content.primary]), (share, "")])
        )
    return Table(header=(title(kind[:-1]), "Exams", *METRICS.values(), "Contested"), rows=rows)


def table(shown: tuple[Sequence[str], Rows]) -> Table | None:
    """Header and rows as a table; ``None`` where there are no rows."""
    header, rows = shown
    return Table(header=header, rows=rows) if rows else None


def tasks(content: Content) -> Table | None:
    """AUC and the decision's rates of each binary task."""
    rows = []
    for auc, networks, decision in tables.tasks(content):
        entry = {"value": auc.value, "ci95": [auc.low, auc.high]}
        rates = [decision[rate] for rate in ("sensitivity", "specificity")]
        cells = [(number(auc.value, "auc"), bounds(entry, "auc")), (str(networks), "")]
        cells += [(number(rate["value"], "accuracy"), bounds(rate, "accuracy")) for rate in rates]
        rows.append((auc.label, cells))
    header = ("Task", "AUC", "Networks", "Sensitivity", "Specificity")
    return Table(header=header, rows=rows) if rows else None


def certainty_table(content: Content, measure: str) -> Table:
    """One of :data:`server.report.certainty.MEASURES`, of each task and set."""
    header, rows = certainty.table(content, measure)
    return Table(header=header, rows=rows)


def over_networks(content: Content) -> Table | None:
    """Each task's networks by themselves: their mean, with RATING's interval over the networks."""
    rows = [
        (label, [(number(rates[r]["value"], "auc"), bounds(rates[r], "auc")) for r in OVER_NETWORKS])
        for label, rates in tables.over_networks(content)
    ]
    return Table(header=("Task", *OVER_NETWORKS.values()), rows=rows) if rows else None


def localised(content: Content) -> Table | None:
    """How much of heatmaps lies inside the region."""
    rows = list(heatmaps.rows(content))
    return Table(header=heatmaps.HEADER, rows=rows) if rows else None


def _metric_cells(block: Json) -> list[tuple[str, str]]:
    return [tables.cell(block[m], m) for m in METRICS]
