"""The networks of He et al. beside each other, static and dynamic, grey-scale and Doppler, and what the paper prints.

The figures of the abstract (He et al. 2024, Rheumatology 63:866, doi 10.1093/rheumatology/kead366) are about
patients: with those of phantoms they are comparable in their order alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.report.content import Content, Json
from server.report.tables import NOTHING, Rows, bounds

PUBLISHED: Mapping[tuple[str, str], Mapping[int, float]] = {
    ("seen", "SPD"): {0: 0.82, 2: 0.67, 3: 0.95},
    ("seen", "SGS"): {0: 0.66, 2: 0.66, 3: 0.75},
    ("unseen", "SPD"): {0: 0.89},
    ("unseen", "SGS"): {0: 0.81},
}
"""Areas of static models that the abstract gives of its first and second test cohort, by grade."""
BEST = {0: ("DPD", 0.87), 1: ("SGS", 0.95), 2: ("DGS", 0.74), 3: ("SPD", 0.95)}
"""The best model of each grade, and its area."""
COHORTS = {
    "seen": "Held-out patients of the machines that trained",
    "unseen": "A machine that nobody trained with",
}
_ICC = ("agreement", "consistency")


def cohorts(content: Content) -> list[tuple[str, Json]]:
    """Title and figures of each test cohort; none where the run has no networks of single images."""
    found = content.metrics.get("modalities") or {}
    return [
        (
            f"{title}: {found[name]['exams']} exams of {found[name]['patients']} patients",
            found[name] | {"cohort": name},
        )
        for name, title in COHORTS.items()
        if name in found
    ]


def areas(content: Content, found: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: each network's area under the ROC curve, grade against the rest; the paper's below it."""
    names = _names(content)
    grades = range(len(next(iter(found["networks"].values()))["grades"]))
    rows: list[tuple[str, Sequence[tuple[str, str]]]] = []
    for image, network in found["networks"].items():
        printed = PUBLISHED.get((found["cohort"], names[image]), {})
        cells = [_area(each) for each in (*network["grades"], network["mean"])]
        rows.append((f"{names[image]}\n{image}", cells))
        if printed:
            rows.append(
                (f"{names[image]}\nin the paper", [*(_printed(printed.get(g)) for g in grades), ("", "")])
            )
    best = [(f"{BEST[g][1]:.2f}", BEST[g][0]) if g in BEST else ("", "") for g in grades]
    rows.append(("The best\nof the paper's models", [*best, ("", "")]))
    return ("Network", *(f"Grade {grade}" for grade in grades), "Mean"), rows


def agreement(content: Content, found: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: ICC with each level of simulated readers, least to most: ICC(2,1), below it ICC(3,1)."""
    names = _names(content)
    levels = list(dict.fromkeys(map(_level, next(iter(found["networks"].values()))["icc"])))
    rows = [
        (
            names[image],
            [(_range(network, level, _ICC[0]), _range(network, level, _ICC[1])) for level in levels],
        )
        for image, network in found["networks"].items()
    ]
    return ("Network", *(f"{level} readers" for level in levels)), rows if levels else []


def cuts(content: Content, found: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: area of a grade above each cut, by networks and by the share of flow alone."""
    names = _names(content)
    above = range(len(next(iter(found["networks"].values()))["above"]))
    none = [("", "")] * len(above)
    rows: list[tuple[str, Sequence[tuple[str, str]]]] = [
        (names[image], [*map(_area, network["above"]), *none]) for image, network in found["networks"].items()
    ]
    rows += [
        (f"No network\n{name}", [_area(each) for each in (*by["above"], *by["vascularity_above"])])
        for name, by in found["without_network"].items()
    ]
    return ("", *(f"Above {cut}" for cut in above), *(f"Vascularity above {cut}" for cut in above)), rows


def pairs(content: Content, found: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: pairs of networks by patient, first minus second, with p by swaps within patients."""
    names = _names(content)
    rows = [
        (
            " - ".join(names[image] for image in pair.split(" - ")),
            [*map(_tested, by["grades"]), _tested(by["kappa_linear"])],
        )
        for pair, by in found["pairs"].items()
    ]
    grades = range(len(next(iter(found["pairs"].values()))["grades"])) if rows else ()
    return ("Pair", *(f"Grade {grade}" for grade in grades), "Linear kappa"), rows


def _names(content: Content) -> Mapping[str, str]:
    """Image -> the paper's name of its network: S or D for static or dynamic, GS or PD."""
    return {
        image: ("D" if kind.get("frames") else "S") + ("PD" if kind.get("kind") == "doppler" else "GS")
        for image, kind in content.settings.get("images", {}).items()
    }


def _level(reader: str) -> str:
    return reader.rpartition("-")[0]


def _range(network: Json, level: str, of: str) -> str:
    values = [each[of]["value"] for reader, each in network["icc"].items() if _level(reader) == level]
    known = [value for value in values if value is not None]
    return f"{min(known):.2f} to {max(known):.2f}" if known else NOTHING


def _area(estimate: Json) -> tuple[str, str]:
    value = estimate["value"]
    return (NOTHING, "") if value is None else (f"{value:.2f}", bounds(estimate, "auc"))


def _printed(area: float | None) -> tuple[str, str]:
    return ("", "") if area is None else (f"{area:.2f}", "")


def _tested(difference: Json) -> tuple[str, str]:
    value, p = difference["value"], difference["p"]
    if value is None:
        return NOTHING, ""
    return f"{value:+.2f}", "" if p is None else "p < 0.001" if p < 0.001 else f"p {p:.3f}"
