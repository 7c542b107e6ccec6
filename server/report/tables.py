"""The rows that tables and charts show, from ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from server.report.content import Content, Json, Round

METRICS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "kappa_linear": "Linear kappa",
    "kappa_quadratic": "Quadratic kappa",
    "balanced_accuracy": "Balanced accuracy",
}
SHARES = ("accuracy", "balanced_accuracy")
"""Metrics that are shown in percent."""

NOTHING = "n/a"
"""Shown for what could not be computed."""

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A labelled number with its 95 % interval.

    Attributes:
        label: of the row.
        kind: which colour it is drawn in: ``federated``, ``centralised``, ``alone``, ``readers``, ``unseen``.
        value: ``None`` if it could not be computed.
        low: lower end.
        high: upper end.
    """

    label: str
    kind: str
    value: float | None
    low: float | None
    high: float | None


def interval(label: str, kind: str, estimate: Json | None) -> Interval:
    """A row from an entry ``{"value", "ci95"}``."""
    low, high = (estimate or {}).get("ci95") or (None, None)
    return Interval(label=label, kind=kind, value=(estimate or {}).get("value"), low=low, high=high)


def systems(content: Content) -> Iterator[tuple[str, str, Json]]:
    """The run and what it is compared with: label, kind, and the block of its metrics."""
    baselines = content.metrics.get("baselines") or {}
    yield "Federated", "federated", content.metrics
    if block := baselines.get("federated_same_models"):
        yield "Federated, fewer models", "federated", block
    if block := baselines.get("majority"):
        yield "Federated, majority vote", "federated", block
    if block := baselines.get("centralised"):
        yield "All data in one place", "centralised", block
    if block := baselines.get("alone_mean"):
        yield "Sites alone, mean", "alone", block
    for site, block in (baselines.get("alone") or {}).items():
        yield f"{site} alone", "alone", block
    readers = baselines.get("readers") or {}
    if block := readers.get("mean"):
        yield _readers_word(content), "readers", block


def comparison(content: Content, measurement: str, metric: str) -> list[Interval]:
    """One metric of every system."""
    return [interval(label, kind, block[measurement][metric]) for label, kind, block in systems(content)]


def places(content: Content, measurement: str, metric: str) -> list[Interval]:
    """One metric at each site, then of sites that trained and of sites that never did."""
    rows = []
    for site, block in content.metrics["sites"].items():
        label = f"{site} · {', '.join(block['devices_used'])}"
        rows.append(
            interval(label, "federated" if block["trained"] else "unseen", block[measurement][metric])
        )
    rows.append(interval("Sites that trained", "federated", content.metrics["seen"][measurement][metric]))
    if content.metrics.get("unseen"):
        unseen = content.metrics["unseen"]
        rows.append(interval("Never trained on", "unseen", unseen[measurement][metric]))
    return rows


def tasks(content: Content) -> list[tuple[Interval, int, Json]]:
    """Each binary task: AUC, number of networks, and the rates of the decision at the same cut."""
    rows = []
    for measurement, cuts in (content.metrics.get("binary") or {}).items():
        for cut, task in cuts.items():
            label = f"{title(measurement)} > {cut.removeprefix('gt')}"
            rows.append((interval(label, "federated", task["auc"]), task["networks"], task["decision"]))
    return rows


def over_networks(content: Content) -> list[tuple[str, Json]]:
    """Each binary task with the figures of its networks, where there are any."""
    return [
        (f"{title(measurement)} > {cut.removeprefix('gt')}", task["over_networks"])
        for measurement, cuts in (content.metrics.get("binary") or {}).items()
        for cut, task in cuts.items()
        if task.get("over_networks")
    ]


def curves(rounds: Sequence[Round], system: str, quantity: str) -> dict[str, list[tuple[int, float]]]:
    """``loss`` or ``auc`` by round of each group of a system."""
    groups: dict[str, list[tuple[int, float]]] = {}
    for line in rounds:
        value = getattr(line, quantity)
        if line.system == system and value is not None:
            groups.setdefault(line.group, []).append((line.number, float(value)))
    return groups


def mean_curve(groups: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean over groups, round by round."""
    by_round: dict[int, list[float]] = {}
    for points in groups.values():
        for number, value in points:
            by_round.setdefault(number, []).append(value)
    return [(number, sum(values) / len(values)) for number, values in sorted(by_round.items())]


def title(name: str) -> str:
    """A name of the settings, as words."""
    # Two letters are an abbreviation: GS.
    return name.upper() if len(name) <= 2 else name.replace("_", " ").capitalize()


def number(value: Any, metric: str) -> str:
    """A metric's value for reading: percent for shares, two decimals otherwise, ``NOTHING`` for none."""
    if value is None:
        return NOTHING
    return f"{100 * value:.1f} %" if metric in SHARES else f"{value:.2f}"


def bounds(estimate: Json | None, metric: str) -> str:
    """An interval for reading."""
    low, high = (estimate or {}).get("ci95") or (None, None)
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}" if metric in SHARES else f"{low:.2f} to {high:.2f}"


def is_phantom(content: Content) -> bool:
    """Whether the study's patients are simulated."""
    cohort = content.settings.get("cohort") or {}
    return "phantom" in cohort or content.metrics.get("reference") == "truth"


def _readers_word(content: Content) -> str:
    return "Simulated readers, mean" if is_phantom(content) else "Readers, mean"
