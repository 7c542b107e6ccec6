"""The charts of a run's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from server.report import certainty, figures, paper_figures, tables
from server.report.content import Content, Json
from server.report.figures import Curve, Figure
from server.report.scored_tables import SYSTEM_NAMES
from server.report.tables import METRICS, title

Points: TypeAlias = list[tuple[int, float]]


def drawn(content: Content, judged: Json) -> Iterator[Figure]:
    """All charts of a run's page, whose names the page knows.

    Args:
        content: what the run's folder holds.
        judged: what :func:`server.report.inside.read` gives.
    """
    if content.metrics:
        yield from _scored_figures(content)
        yield from certainty.charts(content)
        yield from paper_figures.drawn(content)
    for score, entry in judged.get("pooled", {}).items():
        caption = (
            f"{title(score)}: exams by reference and decided grade, as the sites that trained counted them."
        )
        yield figures.confusion(f"judged_{score}", caption, entry["confusion"])
    for quantity, axis in (("loss", "training loss"), ("auc", "validation AUC")):
        lines = list(_curves(content, quantity))
        if lines:
            several = any(line.stage for line in lines)
            mean = (
                "the mean of each stage bold; stages have rounds of their own" if several else "the mean bold"
            )
            caption = f"{axis[0].upper()}{axis[1:]} by round: every group of networks faint, {mean}."
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
    stage_of = {line.group: line.stage for line in content.rounds}
    several = len({stage_of[group] for group in groups}) > 1
    alone: dict[str, dict[str, Points]] = {}
    for system in dict.fromkeys(line.system for line in content.rounds):
        if system != "federated" and tables.fewer_models(content):
            continue
        for stage, of_stage in _by_stage(tables.curves(content.rounds, system, quantity), stage_of).items():
            mean, name = tables.mean_curve(of_stage), stage if several else ""
            if system.startswith("alone:"):
                alone.setdefault(name, {})[system] = mean
            else:
                kind = system if system in figures.COLOURS else "readers"
                label = SYSTEM_NAMES.get(system, system)
                yield Curve(label=label, kind=kind, points=mean, faint=False, stage=name)
    for name, means in alone.items():
        mean = tables.mean_curve(means)
        yield Curve(label="Sites alone, mean", kind="alone", points=mean, faint=False, stage=name)


def _by_stage(groups: Mapping[str, Points], stage_of: Mapping[str, str]) -> dict[str, dict[str, Points]]:
    """Groups by the stage that they train in; a mean over stages would jump where the shorter one ends."""
    stages: dict[str, dict[str, Points]] = {}
    for group, points in groups.items():
        stages.setdefault(stage_of[group], {})[group] = points
    return stages
