"""The rows that tables and charts show, from ``metrics.json``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from common.evaluation.agreement import in_words
from server.report.content import Content, Json, Round

METRICS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "kappa_linear": "Linear kappa",
    "kappa_quadratic": "Quadratic kappa",
    "balanced_accuracy": "Balanced accuracy",
}
SHARES = ("accuracy", "balanced_accuracy")
"""Metrics that are shown in percent."""

TRIVIAL: Mapping[str, str] = {
    "commonest": "Always the commonest grade",
    "counted_colour": "Counted colour",
}
"""Answers that need no network."""

NOTHING = "n/a"
"""Shown for what could not be computed."""

Cell: TypeAlias = str | int | float | None
Rows: TypeAlias = Sequence[tuple[str, Sequence[tuple[str, str]]]]
"""Of a table: label, its second line small, and cells, each a main text and a small one below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A labelled number with its 95 % interval.

    Attributes:
        label: of the row.
        kind: which colour it is drawn in: ``federated``, ``personal``, ``centralised``, ``alone``, ``readers``,
            ``trivial`` or ``unseen``.
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


def points(label: str, difference: Json, kind: str = "federated") -> Interval:
    """A row from a difference of shares, in percentage points."""
    scaled = [None if n is None else 100 * n for n in (difference["value"], *difference["ci95"])]
    return Interval(label=label, kind=kind, value=scaled[0], low=scaled[1], high=scaled[2])


def models(content: Content) -> str:
    """How many scoring models each system has that was trained beside the federation, in words to follow a comma."""
    compared = ((content.metrics.get("baselines") or {}).get("federated") or {}).get("models")
    run = content.metrics.get("models")
    if compared is None:
        return ""
    if compared != run:
        return f"with {compared} of {run} scoring models each"
    return f"with {compared} scoring model{'' if compared == 1 else 's'} each"


def fewer_models(content: Content) -> bool:
    """Whether the settings ask for baselines of fewer scoring models than the run has."""
    rating = content.settings.get("rating") or {}
    fewer = (content.settings.get("evaluate") or {}).get("baseline_models")
    most = rating.get("models") or rating.get("folds")
    return fewer is not None and most is not None and fewer < most


def run_models(content: Content) -> str:
    """How many scoring models the run has, in words."""
    count = content.metrics.get("models")
    return "" if count is None else f"{count} scoring model{'' if count == 1 else 's'}"


def systems(content: Content) -> Iterator[tuple[str, str, Json]]:
    """What was trained side by side, all with as many scoring models: label, kind, and the block of its metrics."""
    baselines = content.metrics.get("baselines") or {}
    if "federated" not in baselines:
        return
    yield "Federated", "federated", baselines["federated"]
    if block := baselines.get("personal"):
        yield "Each site's own networks", "personal", block
    if block := baselines.get("centralised"):
        yield "All data in one place", "centralised", block
    if block := baselines.get("alone_mean"):
        yield "Sites alone, mean", "alone", block
    for site, block in (baselines.get("alone") or {}).items():
        yield f"{site} alone", "alone", block


def answers(content: Content) -> Iterator[tuple[str, str, Json]]:
    """The run as it is beside what needs no other training: label, kind, and the block of its metrics."""
    baselines = content.metrics.get("baselines") or {}
    yield "Federated", "federated", content.metrics
    if block := baselines.get("majority"):
        yield "Federated, majority vote", "federated", block
    for name, label in TRIVIAL.items():
        if block := baselines.get(name):
            yield label, "trivial", block
    if block := (baselines.get("readers") or {}).get("mean"):
        yield _readers_word(content), "readers", block


def comparison(content: Content, measurement: str, metric: str) -> list[Interval]:
    """One metric of every system that was trained side by side, and of the commonest grade."""
    rows = [interval(label, kind, block[measurement][metric]) for label, kind, block in systems(content)]
    simplest = (content.metrics.get("baselines") or {}).get("commonest") or {}
    if rows and measurement in simplest:
        rows.append(interval(TRIVIAL["commonest"], "trivial", simplest[measurement][metric]))
    return rows


GAINS: Mapping[str, tuple[str, str]] = {
    "federated": ("gain", "losing"),
    "personal": ("gain_personal", "losing_personal"),
}
"""What is compared with a site alone -> its gain among a metric's values, and its number of sites that lose."""


def compared_with_alone(content: Content) -> list[str]:
    """Those of :data:`GAINS` that the run has: ``personal`` where sites made networks of their own."""
    own = content.metrics.get("own_patients")
    if not own:
        return []
    return [system for system in GAINS if system in own["mean"][content.primary]["accuracy"]]


def own_patients(content: Content) -> list[tuple[str, Json]]:
    """Each site's own system beside the federation on that site's patients, then the mean over the sites.

    Returns:
        Label and block, ``sites.<name>`` or ``mean`` of ``metrics.json``'s ``own_patients``; none without them.
    """
    own = content.metrics.get("own_patients") or {}
    rows: list[tuple[str, Json]] = list((own.get("sites") or {}).items())
    return [*rows, ("Mean over sites", own["mean"])] if rows else []


def losing(content: Content, metric: str, system: str = "federated") -> str:
    """How many sites lose on their own patients with a system, in words; empty without such a comparison."""
    if system not in compared_with_alone(content):
        return ""
    found = content.metrics["own_patients"]["mean"][content.primary][metric]
    key = GAINS[system][1]
    clearly = f", {found[key.replace('losing', 'losing_clearly')]} beyond chance" if found[key] else ""
    return f"{found[key]} of {found['sites']} sites lose{clearly}"


def chosen(content: Content) -> list[tuple[str, list[tuple[str, str]]]]:
    """Site -> measurement and what the site's validation patients chose for it; none without personal networks."""
    sites: Json = content.metrics.get("personal") or {}
    return [
        (site, [(name, str(c["sentence"])) for name, c in found.items()]) for site, found in sites.items()
    ]


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


def cross_site(content: Content) -> tuple[Sequence[str], Rows]:
    """Header and rows: accuracy of the headline score, systems by the sites that they are judged at."""
    matrix = ((content.metrics.get("cross_site") or {}).get("scores") or {}).get(content.primary) or {}
    sites = sorted({site for of in matrix.values() for site in of})
    rows = []
    for system, of in matrix.items():
        own = system.removeprefix("alone:")
        label = {"federated": "All sites together", "centralised": "All data in one place"}.get(system, own)
        cells = [
            (
                number((of.get(site) or {}).get("accuracy"), "accuracy"),
                "its own patients" if site == own else "",
            )
            for site in sites
        ]
        rows.append((label, cells))
    return ("Trained at", *sites), rows


def cross_validated(content: Content) -> tuple[Sequence[str], Rows]:
    """Header and rows: each task's AUC on the patients that its networks were not trained on, over the folds."""
    folds: dict[str, dict[str, list[float]]] = {}
    for name, result in (content.manifest.get("networks") or {}).items():
        parts = name.split("/")
        auc = result.get("auc")
        if len(parts) >= 4 and parts[1].startswith("fold") and parts[3].startswith("gt") and auc is not None:
            label = f"{title(parts[2])} > {parts[3].removeprefix('gt')}"
            folds.setdefault(label, {}).setdefault(parts[1], []).append(float(auc))
    rows = []
    for label, of in folds.items():
        means = [sum(aucs) / len(aucs) for aucs in of.values() if not math.isnan(sum(aucs))]
        if len(means) > 1:
            spread = f"({statistics.stdev(means):.3f})"
            each = ", ".join(f"{mean:.3f}" for mean in means)
            rows.append(
                (label, [(f"{statistics.mean(means):.3f} {spread}", f"{len(means)} folds"), (each, "")])
            )
    return ("Task", "AUC, mean (SD) over folds", "Each fold"), rows


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


def cell(estimate: Json | None, metric: str) -> tuple[str, str]:
    """A metric for a table: its value, and small its interval; of a kappa what it is called, too."""
    value = (estimate or {}).get("value")
    word = in_words(value) if metric.startswith("kappa") else ""
    return number(value, metric), " · ".join(filter(None, (bounds(estimate, metric), word)))


def bounds(estimate: Json | None, metric: str) -> str:
    """An interval for reading."""
    low, high = (estimate or {}).get("ci95") or (None, None)
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}" if metric in SHARES else f"{low:.2f} to {high:.2f}"


def ties(content: Content) -> str:
    """How many answers were ties, and how many of those right, in a sentence; empty where that was not noted."""
    ties = content.metrics.get("ties")
    if not ties or ties["share"] is None:
        return ""
    right = ties[content.primary]["accuracy"]
    share = f"{100 * ties['share']:.1f} % of the answers are ties that a rule settled"
    if not ties["exams"]:
        return f"{share}."
    return f"{share}; {number(right['value'], 'accuracy')} of those ({bounds(right, 'accuracy')}) are right."


def multitude(content: Content) -> str:
    """What MULTITUDE had to do, in a sentence; empty where votes were not noted or every combination can be."""
    majority = (content.metrics.get("baselines") or {}).get("majority")
    share = content.metrics.get("impossible_votes")
    if share is None or majority is None:
        return ""
    exams, pairs = content.metrics["exams"], majority["invalid_pairs"]
    what = "pair" if len(content.settings.get("measurements") or "12") == 2 else "combination"
    votes = f"A single model votes a {what} that cannot be in {100 * share:.1f} % of the exams"
    together = f"the majorities of all together make one in {100 * pairs / exams:.1f} % ({pairs} of {exams})"
    return f"{votes}, {together}: only there can MULTITUDE answer otherwise."


def signed(estimate: Json, *, digits: int, scale: float = 1.0) -> tuple[str, str]:
    """A difference and its interval, with signs; nothing is shown as -0.0."""

    def text(value: float) -> str:
        return f"{round(scale * value, digits) + 0.0:+.{digits}f}"

    value, (low, high) = estimate["value"], estimate["ci95"]
    spread = "" if low is None or high is None else f"{text(low)} to {text(high)}"
    return (NOTHING if value is None else text(value)), spread


def is_phantom(content: Content) -> bool:
    """Whether the study's patients are simulated."""
    cohort = content.settings.get("cohort") or {}
    return "phantom" in cohort or content.metrics.get("reference") == "truth"


def _readers_word(content: Content) -> str:
    return "Simulated readers, mean" if is_phantom(content) else "Readers, mean"
