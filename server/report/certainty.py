"""How far the probabilities of a run's networks can be trusted, from ``calibration`` in ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from server.report import figures
from server.report.content import Content, Json
from server.report.figures import Figure, SquareLine
from server.report.tables import NOTHING, title

SETS: Mapping[str, str] = {
    "validation": "validation",
    "federated": "held out",
    "centralised": "pooled",
    "personal": "own networks",
    "personal_tempered": "own, at a temperature",
}
"""Sets of exams and systems -> what they are called."""
MEASURES = {"ece": "Calibration error, points", "brier": "Brier score"}
DRAWN = ("validation", "centralised", "federated")
"""From below upwards. A site's own networks are in the table alone: four lines hide each other."""


def tasks(content: Content) -> list[tuple[str, list[str]]]:
    """Measurement, as words, and the ends of its charts' names, one a cut."""
    return [(title(name), [f"{name}_{cut}" for cut in cuts]) for name, cuts in _tasks(content).items()]


def sets(content: Content) -> list[str]:
    """Those of :data:`SETS` that any task has."""
    return [
        key
        for key in SETS
        if any(key in found for cuts in _tasks(content).values() for found in cuts.values())
    ]


def charts(content: Content) -> Iterator[Figure]:
    """ROC curve and reliability diagram of each task."""
    for name, cuts in _tasks(content).items():
        for cut, found in cuts.items():
            task = f"{title(name)} > {cut.removeprefix('gt')}"
            shown = [key for key in DRAWN if key in found]
            curves = [_curve(key, found[key]) for key in shown if found[key]["roc"][0]]
            if curves:
                yield figures.unit_square(
                    f"roc_{name}_{cut}",
                    f"{task}: ROC curve; the area under it in the legend.",
                    curves,
                    across="1 - specificity",
                    upwards="sensitivity",
                    legend="lower right",
                )
            yield figures.unit_square(
                f"reliability_{name}_{cut}",
                f"{task}: reliability.",
                [_groups(key, found[key]) for key in shown],
                across="mean probability",
                upwards="exams above the cut",
                legend="best",
            )


def table(content: Content, measure: str) -> tuple[Sequence[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Header and rows, one a task: a measure of every set.

    Args:
        content: the run's.
        measure: ``ece``, in percentage points and with what chance gives, or ``brier``.
    """
    shown = sets(content)
    rows = []
    for name, cuts in _tasks(content).items():
        for cut, found in cuts.items():
            cells = [_cell((found.get(key) or {}).get(measure), measure) for key in shown]
            if measure == "ece":
                chance = (found.get("federated") or {}).get("ece_by_chance")
                cells.append(_cell({"value": chance}, measure))
            rows.append((f"{title(name)} > {cut.removeprefix('gt')}", cells))
    names = [SETS[key] for key in shown] + (["by chance"] if measure == "ece" else [])
    return (MEASURES[measure], *(name.capitalize() for name in names)), rows


def _tasks(content: Content) -> Mapping[str, Mapping[str, Json]]:
    found: Json = content.metrics.get("calibration") or {}
    tasks: Mapping[str, Mapping[str, Json]] = found.get("tasks") or {}
    return tasks


def _curve(key: str, shown: Json) -> SquareLine:
    area = shown["auc"]["value"]
    return SquareLine(
        label=SETS[key] if area is None else f"{SETS[key]} {area:.2f}",
        kind=_kind(key),
        dashed=key == "validation",
        points=list(zip(*shown["roc"], strict=True)),
    )


def _groups(key: str, shown: Json) -> SquareLine:
    groups = shown["reliability"]
    return SquareLine(
        label=SETS[key],
        kind=_kind(key),
        dashed=key == "validation",
        points=[(group["score"], group["share"]) for group in groups],
        exams=[group["exams"] for group in groups],
        intervals=[(group["low"], group["high"]) for group in groups] if key == "federated" else [],
    )


def _kind(key: str) -> str:
    return "federated" if key == "validation" else key


def _cell(estimate: Json | None, measure: str) -> tuple[str, str]:
    """A value and its interval."""
    scale, digits = (100, 1) if measure == "ece" else (1, 3)
    value = (estimate or {}).get("value")
    low, high = (estimate or {}).get("ci95") or (None, None)
    spread = ""
    if low is not None and high is not None:
        spread = f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
    return (NOTHING if value is None else f"{scale * value:.{digits}f}"), spread
