"""Puts a run's report together: figures into its folder, one self-contained ``report.html`` beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from common.machine import page_tables
from common.sections.methods import SPLIT_BY_IMAGE
from common.text import csv_text
from server.report import (
    certainty,
    figures,
    heatmaps,
    inside,
    layers,
    modalities,
    numbers,
    one_exam,
    paper_figures,
    subgroups,
    tables,
)
from server.report.content import Content, Json, read
from server.report.examples import StoredExample
from server.report.figures import Curve, Figure
from server.report.tables import METRICS, NOTHING, Cell, Rows, bounds, number, signed, title

_SYSTEM_NAMES = {
    "federated": "Federated",
    "personal": "Its own networks",
    "centralised": "All data in one place",
}
_GAINED = {"federated": "Gain", "personal": "Gain with its own networks"}
_NOT_FACTS = ("networks", "missing", "error")
"""Entries of the manifest that are shown elsewhere than among the run's facts."""


OVER_NETWORKS = {
    "auc": "AUC",
    "ppv": "PPV",
    "npv": "NPV",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}


NAMED = 5
"""Exams that are named below the number of those that are far off."""
TRAINED = {
    "federated_minus_alone_mean": "Federated minus sites alone (mean)",
    "personal_minus_federated": "Each site's own networks minus federated",
    "centralised_minus_federated": "All data in one place minus federated",
}
DIFFERENCES = ("Difference", "Accuracy, points", "Linear kappa", "Wilcoxon by patient, p")
ANSWERED = {
    "federated_minus_majority": "Federated minus its majority vote",
    "federated_minus_commonest": "Federated minus always the commonest grade",
    "federated_minus_counted_colour": "Federated minus counted colour",
    "federated_minus_readers_mean": "Federated minus mean reader",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page: cells are a main text and a small one below it."""

    header: Sequence[str]
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One large number at the top."""

    value: str
    label: str
    interval: str


def write(run: Path) -> Path:
    """Write ``report.html``, its tables as Markdown and LaTeX, ``figures/`` and, if sites told any, ``cases.csv``.

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
    html = render(content, drawn, inside.read(run), statistics=_table(inside.statistics(run)))
    page.write_text(html, encoding="utf-8")
    page_tables.write(page)
    header, rows = inside.cases_table(run)
    if rows:
        (run / "cases.csv").write_text(csv_text.table(header, rows), encoding="utf-8")
    return page


def render(
    content: Content, drawn: dict[str, Figure], judged: Json, *, statistics: Table | None = None
) -> str:
    """The page's HTML.

    Args:
        content: what the run's folder holds.
        drawn: figures by name.
        judged: what :func:`server.report.inside.read` gives.
        statistics: of the sites' patients, where some told them.
    """
    template = files("server.report").joinpath("page.html").read_text(encoding="utf-8")
    style = files("common").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    scored = bool(content.metrics)
    examples = content.examples
    unseen_sets = content.metrics.get("sets_unseen") or {}
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
        one=one_exam.chosen(content) if scored else None,
        results=_results(content) if scored else None,
        models=tables.models(content),
        fewer_models=tables.fewer_models(content),
        run_models=tables.run_models(content),
        own=_own_patients(content) if scored else None,
        losing=tables.losing(content, "accuracy") if scored else "",
        losing_personal=tables.losing(content, "accuracy", "personal") if scored else "",
        chosen=_chosen(content) if scored else None,
        compared=_compared(content) if scored else None,
        differences=_differences(content, TRAINED) if scored else None,
        answers=_answers(content) if scored else None,
        answer_differences=_differences(content, ANSWERED) if scored else None,
        ties=tables.ties(content) if scored else "",
        multitude=tables.multitude(content) if scored else "",
        failures=[name for name in content.measurements if f"failures_{name}" in drawn] if scored else [],
        far=_far_off(content) if scored else None,
        far_shown=_shown(content.far_off),
        places=_places(content, "sites") if scored else None,
        devices=_places(content, "devices") if scored else None,
        subgroups=_table(subgroups.table(content)) if scored else None,
        fused=_fused(content) if scored else None,
        statistics=statistics,
        judged=_table(inside.table(judged)) if judged else None,
        judged_numbers=_table(inside.numbers_table(judged)) if judged else None,
        judged_cases=judged.get("cases", {}),
        kept_back=inside.kept_back(judged) if judged else (),
        gains=_table(inside.gains_table(judged)) if judged else None,
        sets=_table(inside.sets_table(judged, unseen_sets)) if judged else None,
        promises=inside.promises(judged, unseen_sets) if judged else (),
        split_by_image=SPLIT_BY_IMAGE if _splits_by_image(content.settings) else "",
        by_layer=_table(layers.by_layer(content)),
        binary_vote=_table(layers.binary_vote(content)),
        tasks=_tasks(content) if scored else None,
        cross_site=_table(tables.cross_site(content)) if scored else None,
        cross_validated=_table(tables.cross_validated(content)),
        modalities=_modalities(content),
        numbers=_table(numbers.numbers(content)),
        folds=_table(numbers.folds(content)),
        over_networks=_over_networks(content) if scored else None,
        certainty=[
            _certainty(content, measure) for measure in certainty.MEASURES if certainty.tasks(content)
        ],
        certainty_tasks=certainty.tasks(content),
        certainty_sets=certainty.sets(content),
        localised=_localised(content),
        marks_flow=heatmaps.marks_flow(content),
        region=heatmaps.region(content),
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
        yield from certainty.charts(content)
        yield from paper_figures.drawn(content)
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
            models = f", {note}" if (note := tables.models(content)) else ""
            caption = f"{METRICS[metric]} on the patients of all sites{models}; with its 95 % interval."
            yield figures.intervals(
                f"comparison_{metric}", caption, rows, axis=axis, percent=metric in tables.SHARES
            )
    if own := tables.own_patients(content):
        systems = tables.compared_with_alone(content)
        rows = [
            tables.points(
                label if system == "federated" else f"{label}, own networks",
                block[primary]["accuracy"][tables.GAINS[system][0]],
                system,
            )
            for label, block in own
            for system in systems
        ]
        what = (
            "Federated, and each site's own networks, minus alone"
            if len(systems) > 1
            else "Federated minus alone"
        )
        caption = f"{what} on each site's own patients, {tables.models(content) or 'paired'}."
        axis = f"gain in accuracy, {title(primary).lower()}, points"
        yield figures.intervals("own_patients", caption, rows, axis=axis, percent=False)
    caption = "Accuracy at each site with its 95 % interval; sites never trained on in red."
    rows = tables.places(content, primary, "accuracy")
    axis = f"accuracy, {title(primary).lower()}"
    yield figures.intervals("sites_accuracy", caption, rows, axis=axis, percent=True)
    tasks = [row for row, networks, _ in tables.tasks(content) if networks]
    if tasks:
        caption = "Area under the ROC curve of each binary task, mean over its networks."
        yield figures.intervals("binary_auc", caption, tasks, axis="AUC", percent=False)


def _curves(content: Content, quantity: str) -> Iterator[Curve]:
    """Of the federation, and of the baselines where these train as many scoring models: else the means differ."""
    groups = tables.curves(content.rounds, "federated", quantity)
    for group, points in groups.items():
        yield Curve(label=group, kind="federated", points=points, faint=True)
    alone: dict[str, list[tuple[int, float]]] = {}
    for system in dict.fromkeys(line.system for line in content.rounds):
        if system != "federated" and tables.fewer_models(content):
            continue
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
    made_of = ", ".join(filter(None, (title(primary).lower(), tables.run_models(content))))
    for metric in ("accuracy", "kappa_linear"):
        entry = scored[primary][metric]
        yield Card(
            value=number(entry["value"], metric),
            label=f"{METRICS[metric].lower()}, {made_of}",
            interval=bounds(entry, metric),
        )
    each = f", {note}" if (note := tables.models(content)) else ""
    for system in tables.compared_with_alone(content):
        gain = scored["own_patients"]["mean"][primary]["accuracy"][tables.GAINS[system][0]]
        what = "federated" if system == "federated" else "its own networks made of them"
        losing = tables.losing(content, "accuracy", system)
        yield _points(gain, f"points on a site's own patients, {what} minus alone{each}; {losing}")
    for name, label in (
        ("federated_minus_alone_mean", "points on all sites' patients, federated minus alone"),
        ("centralised_minus_federated", "points, pooled data minus federated"),
    ):
        if difference := _alike(content, name):
            yield _points(difference[primary]["accuracy"], f"{label}{each}")


def _points(difference: Json, label: str) -> Card:
    value, spread = signed(difference, scale=100, digits=1)
    return Card(value=value, label=label, interval=spread)


def _alike(content: Content, name: str) -> Json | None:
    """A difference that says with how many models it was computed: before that was noted, some mixed two numbers."""
    difference = (content.metrics.get("differences") or {}).get(name)
    return difference if difference and "models" in difference else None


def _results(content: Content) -> Table:
    rows = [(title(name), _metric_cells(content.metrics[name])) for name in content.measurements]
    return Table(header=("", *METRICS.values()), rows=rows)


def _own_patients(content: Content) -> Table | None:
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
    header = ("Patients of", *gained, "Alone", *(_SYSTEM_NAMES[s] for s in systems), "Exams")
    return Table(header=header, rows=rows) if rows else None


def _chosen(content: Content) -> Table | None:
    """What each site made of the networks for itself, by measurement."""
    found = tables.chosen(content)
    if not found:
        return None
    measurements = [name for name, _ in found[0][1]]
    rows = [(site, [(sentence, "") for _, sentence in choices]) for site, choices in found]
    return Table(header=("Own networks of", *map(title, measurements)), rows=rows)


def _compared(content: Content) -> Table | None:
    rows = [(label, _metric_cells(block[content.primary])) for label, _, block in tables.systems(content)]
    simplest = (content.metrics.get("baselines") or {}).get("commonest") or {}
    if rows and content.primary in simplest:
        rows.append((tables.TRIVIAL["commonest"], _metric_cells(simplest[content.primary])))
    return Table(header=("System", *METRICS.values()), rows=rows) if len(rows) > 1 else None


def _answers(content: Content) -> Table | None:
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


def _differences(content: Content, names: Mapping[str, str]) -> Table | None:
    rows = []
    for name, label in names.items():
        for measurement in (content.primary, *content.measurements):
            block = (_alike(content, name) or {}).get(measurement)
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


def _modalities(content: Content) -> list[tuple[str, dict[str, Table | None]]]:
    """Of each test cohort, the tables of the networks of single images."""
    parts = (modalities.areas, modalities.agreement, modalities.cuts, modalities.pairs)
    return [
        (title, {part.__name__: _table(part(content, found)) for part in parts})
        for title, found in modalities.cohorts(content)
    ]


def _splits_by_image(settings: Json) -> bool:
    return settings.get("method") == "andersen" and (settings.get("andersen") or {}).get("split") == "image"


def _fused(content: Content) -> Table | None:
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


def _far_off(content: Content) -> Table | None:
    rows = []
    for name, found in (content.metrics.get("far_off") or {}).items():
        share = number(found["share"], "accuracy")
        named = "\n".join(
            f"{e['site']} · {e['exam_id']}: {e['reference']} decided as {e['decision']}"
            for e in found["examples"][:NAMED]
        )
        rows.append((f"{title(name)}\n{named}", [(str(found["exams"]), ""), (share, "")]))
    return Table(header=("Off by two grades and more", "Exams", "Share"), rows=rows) if rows else None


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


def _table(shown: tuple[Sequence[str], Rows]) -> Table | None:
    header, rows = shown
    return Table(header=header, rows=rows) if rows else None


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


def _certainty(content: Content, measure: str) -> Table:
    header, rows = certainty.table(content, measure)
    return Table(header=header, rows=rows)


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
    return [tables.cell(block[m], m) for m in METRICS]


def _shown(examples: Sequence[StoredExample]) -> list[dict[str, object]]:
    return [
        {
            "title": f"{example.site} · {example.exam_id}",
            "pictures": one_exam.pictures(example),
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
