"""Puts a run's report together: figures into its folder, one self-contained ``report.html`` beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from server.report import figures, heatmaps, tables
from server.report.content import Content, Json, read
from server.report.examples import StoredExample
from server.report.figures import Curve, Figure
from server.report.tables import METRICS, NOTHING, Cell, bounds, number, title

_SYSTEM_NAMES = {"federated": "Federated", "centralised": "All data in one place"}
_NOT_FACTS = ("networks", "missing", "error")
"""Entries of the manifest that are shown elsewhere than among the run's facts."""


OVER_NETWORKS = {
    "auc": "AUC",
    "ppv": "PPV",
    "npv": "NPV",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page: cells are a main text and a small one below it."""

    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One large number at the top."""

    value: str
    label: str
    interval: str


def write(run: Path) -> Path:
    """Write ``report.html`` and ``figures/`` of a run.

    Whatever the run has not (no baselines, no examples, no evaluation yet) is left out of the page.

    Args:
        run: the run's folder.

    Returns:
        The path of ``report.html``: one file without scripts or links to anything outside it.

    Raises:
        DataError: if the folder is no run's or a file in it cannot be read.
    """
    content = read(run)
    drawn = {figure.name: figure for figure in _figures(content)}
    for figure in drawn.values():
        figure.save(run / "figures")
    page = run / "report.html"
    page.write_text(render(content, drawn), encoding="utf-8")
    return page


def render(content: Content, drawn: dict[str, Figure]) -> str:
    """The page's HTML."""
    template = files("server.report").joinpath("page.html").read_text(encoding="utf-8")
    style = files("common").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    scored = bool(content.metrics)
    examples = content.examples
    html = environment.from_string(template).render(
        content=content,
        style=Markup(style),
        status=str(content.manifest.get("status", "unknown")),
        privacy=str(content.manifest.get("privacy", "no differential privacy")),
        privacy_statement=str(content.manifest.get("privacy_statement", "")),
        phantom=tables.is_phantom(content),
        scored=scored,
        primary=title(content.primary) if scored else "",
        cards=list(_cards(content)) if scored else [],
        results=_results(content) if scored else None,
        compared=_compared(content) if scored else None,
        differences=_differences(content) if scored else None,
        places=_places(content, "sites") if scored else None,
        devices=_places(content, "devices") if scored else None,
        tasks=_tasks(content) if scored else None,
        over_networks=_over_networks(content) if scored else None,
        localised=_localised(content),
        marks_flow=heatmaps.marks_flow(content),
        outlined=_shown(content.heatmaps),
        right=_shown([e for e in examples if e.right]),
        wrong=_shown([e for e in examples if not e.right]),
        facts=_facts(content),
        networks=_networks(content),
        charts={name: (Markup(figure.inline), figure.caption) for name, figure in drawn.items()},
        participants=sorted(
            {site for line in content.rounds if line.system == "federated" for site in line.participants}
        ),
        missing=_missing(content),
    )
    return html.lstrip() + "\n"


def _figures(content: Content) -> Iterator[Figure]:
    if content.metrics:
        yield from _scored_figures(content)
    for quantity, axis in (("loss", "training loss"), ("auc", "validation AUC")):
        lines = list(_curves(content, quantity))
        if lines:
            caption = f"{axis[0].upper()}{axis[1:]} by round: every group of networks faint, the mean bold."
            yield figures.curves(f"learning_{quantity}", caption, lines, axis=f"mean {axis}")


def _scored_figures(content: Content) -> Iterator[Figure]:
    scored, primary = content.metrics, content.primary
    for name in content.measurements:
        caption = f"{title(name)}: exams by reference and decided grade, sites that trained."
        yield figures.confusion(f"confusion_{name}", caption, scored[name]["confusion"])
    if scored.get("unseen"):
        caption = f"{title(primary)}: the same on sites never trained on."
        yield figures.confusion(
            f"confusion_{primary}_unseen", caption, scored["unseen"][primary]["confusion"]
        )
    for metric in ("accuracy", "kappa_linear"):
        axis = f"{METRICS[metric].lower()}, {title(primary).lower()}"
        rows = tables.comparison(content, primary, metric)
        if len(rows) > 1:
            caption = f"{METRICS[metric]} of each system with its 95 % interval."
            yield figures.intervals(
                f"comparison_{metric}", caption, rows, axis=axis, percent=metric in tables.SHARES
            )
    caption = "Accuracy at each site with its 95 % interval; sites never trained on in red."
    rows = tables.places(content, primary, "accuracy")
    axis = f"accuracy, {title(primary).lower()}"
    yield figures.intervals("sites_accuracy", caption, rows, axis=axis, percent=True)
    tasks = [row for row, networks, _ in tables.tasks(content) if networks]
    if tasks:
        caption = "Area under the ROC curve of each binary task, mean over its networks."
        yield figures.intervals("binary_auc", caption, tasks, axis="AUC", percent=False)


def _curves(content: Content, quantity: str) -> Iterator[Curve]:
    groups = tables.curves(content.rounds, "federated", quantity)
    for group, points in groups.items():
        yield Curve(label=group, kind="federated", points=points, faint=True)
    alone: dict[str, list[tuple[int, float]]] = {}
    for system in dict.fromkeys(line.system for line in content.rounds):
        mean = tables.mean_curve(tables.curves(content.rounds, system, quantity))
        if system.startswith("alone:"):
            alone[system] = mean
        elif mean:
            kind = system if system in figures.COLOURS else "readers"
            yield Curve(label=_SYSTEM_NAMES.get(system, system), kind=kind, points=mean, faint=False)
    if any(alone.values()):
        yield Curve(label="Sites alone, mean", kind="alone", points=tables.mean_curve(alone), faint=False)


def _cards(content: Content) -> Iterator[Card]:
    primary, scored = content.primary, content.metrics
    for metric in ("accuracy", "kappa_linear"):
        entry = scored[primary][metric]
        yield Card(
            value=number(entry["value"], metric),
            label=f"{METRICS[metric].lower()}, {title(primary).lower()}",
            interval=bounds(entry, metric),
        )
    for name, label in (
        ("federated_minus_alone_mean", "points more than sites alone"),
        ("centralised_minus_federated", "points more if data were pooled"),
    ):
        if difference := (scored.get("differences") or {}).get(name):
            value, spread = _signed(difference[primary]["accuracy"], scale=100, digits=1)
            yield Card(value=value, label=label, interval=spread)


def _results(content: Content) -> Table:
    rows = [(title(name), _metric_cells(content.metrics[name])) for name in content.measurements]
    return Table(header=("", *METRICS.values()), rows=rows)


def _compared(content: Content) -> Table | None:
    rows = [(label, _metric_cells(block[content.primary])) for label, _, block in tables.systems(content)]
    return Table(header=("System", *METRICS.values()), rows=rows) if len(rows) > 1 else None


def _differences(content: Content) -> Table | None:
    names = {
        "federated_minus_alone_mean": "Federated minus sites alone (mean)",
        "federated_same_models_minus_alone_mean": "The same, with as many models",
        "centralised_minus_federated": "All data in one place minus federated",
        "centralised_minus_federated_same_models": "The same, with as many models",
        "federated_minus_majority": "Federated minus its majority vote",
        "federated_minus_readers_mean": "Federated minus mean reader",
    }
    differences = content.metrics.get("differences") or {}
    rows = []
    for name, label in names.items():
        if name in differences:
            block = differences[name][content.primary]
            shown = [
                _signed(block["accuracy"], scale=100, digits=1),
                _signed(block["kappa_linear"], digits=2),
            ]
            rows.append((label, shown))
    return Table(header=("Difference", "Accuracy, points", "Linear kappa"), rows=rows) if rows else None


def _places(content: Content, kind: str) -> Table:
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


def _tasks(content: Content) -> Table | None:
    rows = []
    for auc, networks, decision in tables.tasks(content):
        entry = {"value": auc.value, "ci95": [auc.low, auc.high]}
        rates = [decision[rate] for rate in ("sensitivity", "specificity")]
        cells = [(number(auc.value, "auc"), bounds(entry, "auc")), (str(networks), "")]
        cells += [(number(rate["value"], "accuracy"), bounds(rate, "accuracy")) for rate in rates]
        rows.append((auc.label, cells))
    header = ("Task", "AUC", "Networks", "Sensitivity", "Specificity")
    return Table(header=header, rows=rows) if rows else None


def _over_networks(content: Content) -> Table | None:
    """Each task's networks by themselves: their mean, with RATING's interval over the networks."""
    rows = [
        (label, [(number(rates[r]["value"], "auc"), bounds(rates[r], "auc")) for r in OVER_NETWORKS])
        for label, rates in tables.over_networks(content)
    ]
    return Table(header=("Task", *OVER_NETWORKS.values()), rows=rows) if rows else None


def _localised(content: Content) -> Table | None:
    rows = list(heatmaps.rows(content))
    return Table(header=heatmaps.HEADER, rows=rows) if rows else None


def _metric_cells(block: Json) -> list[tuple[str, str]]:
    return [(number(block[m]["value"], m), bounds(block[m], m)) for m in METRICS]


def _signed(estimate: Json, *, digits: int, scale: float = 1.0) -> tuple[str, str]:
    """A difference and its interval, with signs; nothing is shown as -0.0."""

    def text(value: float) -> str:
        return f"{round(scale * value, digits) + 0.0:+.{digits}f}"

    value, (low, high) = estimate["value"], estimate["ci95"]
    spread = "" if low is None or high is None else f"{text(low)} to {text(high)}"
    return (NOTHING if value is None else text(value)), spread


def _shown(examples: Sequence[StoredExample]) -> list[dict[str, object]]:
    return [
        {
            "title": f"{example.site} · {example.exam_id}",
            "pictures": [(title(name), uri) for name, uri in example.pictures.items()],
            "grades": [
                (title(name), grade, example.decision.get(name), grade == example.decision.get(name))
                for name, grade in example.reference.items()
            ],
        }
        for example in examples
    ]


def _facts(content: Content) -> list[tuple[str, str]]:
    return [
        (title(name), _fact(value))
        for name, value in content.manifest.items()
        if value not in (None, "", [], {}) and name not in _NOT_FACTS
    ]


def _fact(value: Cell | list[object] | Json) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_inner(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(_inner(item) for item in value)
    return str(value)


def _inner(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inner(item)}" for key, item in value.items())
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_inner, value)) if isinstance(value, list) else str(value)


def _networks(content: Content) -> Table | None:
    networks: dict[str, Json] = content.manifest.get("networks") or {}
    columns = list(dict.fromkeys(key for result in networks.values() for key in result))
    rows = [(name, [(_inner(result.get(key)), "") for key in columns]) for name, result in networks.items()]
    return Table(header=("Network", *map(title, columns)), rows=rows) if rows else None


def _missing(content: Content) -> list[str]:
    missing = content.manifest.get("missing") or {}
    return [f"{site} (in {rounds} rounds)" for site, rounds in missing.items()]
