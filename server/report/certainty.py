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
    "personal_tempered": "own, at their temperature",
}
"""Sets of exams and systems -> what they are called."""
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


def table(content: Content) -> tuple[Sequence[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Header and rows, one a task: ECE of every set, then Brier's score."""
    found = [
        (f"{title(name)} > {cut.removeprefix('gt')}", of_sets)
        for name, cuts in _tasks(content).items()
        for cut, of_sets in cuts.items()
    ]
    shown = sets(content)
    header = [
        "Task",
        *(f"ECE, {SETS[key]}" for key in shown),
        "ECE by chance",
        *(f"Brier, {SETS[key]}" for key in shown),
    ]
    rows = [
        (
            label,
            [
                *(_points(of_sets.get(key, {}).get("ece")) for key in shown),
                _points({"value": of_sets.get("federated", {}).get("ece_by_chance")}),
                *(_number(of_sets.get(key, {}).get("brier")) for key in shown),
            ],
        )
        for label, of_sets in found
    ]
    return header, rows


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


def _points(estimate: Json | None) -> tuple[str, str]:
    """Percentage points, and their interval."""
    value = (estimate or {}).get("value")
    low, high = (estimate or {}).get("ci95") or (None, None)
    spread = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    return (NOTHING if value is None else f"{100 * value:.1f}"), spread


def _number(estimate: Json | None) -> tuple[str, str]:
    value = (estimate or {}).get("value")
    low, high = (estimate or {}).get("ci95") or (None, None)
    spread = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return (NOTHING if value is None else f"{value:.3f}"), spread
