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
    charts,
    heatmaps,
    inside,
    inside_tables,
    layers,
    numbers,
    one_exam,
    scored_tables,
    subgroups,
    tables,
)
from server.report.content import Content, Json, read
from server.report.examples import StoredExample
from server.report.figures import Figure
from server.report.scored_tables import Table, table
from server.report.tables import METRICS, NOTHING, Cell, bounds, number, signed, title

_NOT_FACTS = ("networks", "missing", "error")
"""Entries of the manifest that are shown elsewhere than among the run's facts."""


TRAINED = {
    "federated_minus_alone_mean": "Federated minus sites alone (mean)",
    "personal_minus_federated": "Each site's own networks minus federated",
    "centralised_minus_federated": "All data in one place minus federated",
}
ANSWERED = {
    "federated_minus_majority": "Federated minus its majority vote",
    "federated_minus_commonest": "Federated minus always the commonest grade",
    "federated_minus_counted_colour": "Federated minus counted colour",
    "federated_minus_readers_mean": "Federated minus mean reader",
}


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
    judged = inside.read(run)
    drawn = {figure.name: figure for figure in charts.drawn(content, judged)}
    for figure in drawn.values():
        figure.save(run / "figures")
    page = run / "report.html"
    told = {"statistics": inside_tables.statistics(run), "grades": inside_tables.grades_table(run)}
    html = render(content, drawn, judged, {name: table(one) for name, one in told.items()})
    page.write_text(html, encoding="utf-8")
    page_tables.write(page)
    header, rows = inside_tables.cases_table(run)
    if rows:
        (run / "cases.csv").write_text(csv_text.table(header, rows), encoding="utf-8")
    return page


def render(content: Content, drawn: dict[str, Figure], judged: Json, told: Mapping[str, Table | None]) -> str:
    """The page's HTML.

    Args:
        content: what the run's folder holds.
        drawn: figures by name.
        judged: what :func:`server.report.inside.read` gives.
        told: ``statistics`` of the sites' patients, ``grades`` of each site's machines, where some told them.
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
        results=scored_tables.results(content) if scored else None,
        models=tables.models(content),
        fewer_models=tables.fewer_models(content),
        run_models=tables.run_models(content),
        own=scored_tables.own_patients(content) if scored else None,
        losing=tables.losing(content, "accuracy") if scored else "",
        losing_personal=tables.losing(content, "accuracy", "personal") if scored else "",
        chosen=scored_tables.chosen(content) if scored else None,
        compared=scored_tables.compared(content) if scored else None,
        differences=scored_tables.differences(content, TRAINED) if scored else None,
        answers=scored_tables.answers(content) if scored else None,
        answer_differences=scored_tables.differences(content, ANSWERED) if scored else None,
        ties=tables.ties(content) if scored else "",
        multitude=tables.multitude(content) if scored else "",
        failures=[name for name in content.measurements if f"failures_{name}" in drawn] if scored else [],
        far=scored_tables.far_off(content) if scored else None,
        far_shown=_shown(content.far_off),
        places=scored_tables.places(content, "sites") if scored else None,
        devices=scored_tables.places(content, "devices") if scored else None,
        subgroups=table(subgroups.table(content)) if scored else None,
        fused=scored_tables.fused(content) if scored else None,
        statistics=told["statistics"],
        asks_sites=bool((content.settings.get("campaign") or {}).get("evaluation")),
        judged=table(inside_tables.table(judged)) if judged else None,
        judged_charts=[name for score in judged.get("pooled", {}) if (name := f"judged_{score}") in drawn],
        judged_grades=told["grades"],
        calibration=table(inside_tables.calibration_table({"All sites": judged["pooled"]}))
        if judged
        else None,
        calibrations=table(inside_tables.calibration_table(inside_tables.by_place(judged, judged)))
        if judged
        else None,
        judged_numbers=table(inside_tables.numbers_table(judged)) if judged else None,
        judged_cases=judged.get("cases", {}),
        kept_back=inside_tables.kept_back(judged) if judged else (),
        gains=table(inside_tables.gains_table(judged)) if judged else None,
        sets=table(inside_tables.sets_table(judged, unseen_sets)) if judged else None,
        promises=inside_tables.promises(judged, unseen_sets) if judged else (),
        split_by_image=SPLIT_BY_IMAGE if _splits_by_image(content.settings) else "",
        by_layer=table(layers.by_layer(content)),
        binary_vote=table(layers.binary_vote(content)),
        tasks=scored_tables.tasks(content) if scored else None,
        cross_site=table(tables.cross_site(content)) if scored else None,
        cross_validated=table(tables.cross_validated(content)),
        modalities=scored_tables.modality_tables(content),
        numbers=table(numbers.numbers(content)),
        folds=table(numbers.folds(content)),
        over_networks=scored_tables.over_networks(content) if scored else None,
        certainty=[
            scored_tables.certainty_table(content, measure)
            for measure in certainty.MEASURES
            if certainty.tasks(content)
        ],
        certainty_tasks=certainty.tasks(content),
        certainty_sets=certainty.sets(content),
        localised=scored_tables.localised(content),
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
        if difference := scored_tables.alike(content, name):
            yield _points(difference[primary]["accuracy"], f"{label}{each}")


def _points(difference: Json, label: str) -> Card:
    value, spread = signed(difference, scale=100, digits=1)
    return Card(value=value, label=label, interval=spread)


def _splits_by_image(settings: Json) -> bool:
    return settings.get("method") == "andersen" and (settings.get("andersen") or {}).get("split") == "image"


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
    return (
        Table(
            header=("Network", *("AUC" if column == "auc" else title(column) for column in columns)),
            rows=rows,
        )
        if rows
        else None
    )


def _missing(content: Content) -> list[str]:
    missing = content.manifest.get("missing") or {}
    return [f"{site} (in {rounds} rounds)" for site, rounds in missing.items()]
