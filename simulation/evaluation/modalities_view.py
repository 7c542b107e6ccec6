"""The tables of :mod:`simulation.evaluation.modalities`, our figures beside those of the paper's abstract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.settings import ImageSettings, Settings

Block = Mapping[str, Any]
PUBLISHED: Mapping[tuple[str, str], Mapping[int, float]] = {
    ("seen", "SPD"): {0: 0.82, 2: 0.67, 3: 0.95},
    ("seen", "SGS"): {0: 0.66, 2: 0.66, 3: 0.75},
    ("unseen", "SPD"): {0: 0.89},
    ("unseen", "SGS"): {0: 0.81},
}
"""Areas of static models that the abstract gives of its first and second test cohort, by grade."""
BEST = {0: ("DPD", 0.87), 1: ("SGS", 0.95), 2: ("DGS", 0.74), 3: ("SPD", 0.95)}
"""The best model of each grade, and its area."""
AGREEMENT = (0.239, 0.756)
"""Range of the intraclass correlation with 12 radiologists, whichever of its forms."""
COHORTS = {"seen": "held-out patients, machines that trained", "unseen": "a machine that nobody trained with"}


def short(image: ImageSettings) -> str:
    """The paper's name of the network of an image: S or D for static or dynamic, GS or PD."""
    return ("S" if image.frames is None else "D") + ("PD" if image.kind == "doppler" else "GS")


def markdown(block: Block, settings: Settings) -> str:
    """All tables.

    Args:
        block: of :func:`simulation.evaluation.modalities.measured`.
        settings: of the run.
    """
    names = {image: short(settings.images[image]) for image in settings.images}
    lines = [
        "# Static and dynamic, grey-scale and Doppler",
        "",
        "On phantoms, beside the abstract of He et al. 2024 (Rheumatology 63:866, doi 10.1093/rheumatology/kead366), "
        "which is about patients: the two are not comparable but in their order.",
        "",
        f"Readers: {block['readers']}.",
    ]
    for cohort, title in COHORTS.items():
        if cohort in block:
            lines += ["", f"## {title}", "", *_cohort(block[cohort], cohort, names)]
    return "\n".join(lines) + "\n"


def _cohort(found: Block, cohort: str, names: Mapping[str, str]) -> Iterator[str]:
    yield f"{found['exams']} exams of {found['patients']} patients. Area under the ROC curve, grade against the rest:"
    yield ""
    grades = range(len(next(iter(found["networks"].values()))["grades"]))
    yield from _table(
        ["", *(f"grade {grade}" for grade in grades), "mean"],
        [
            *(
                [
                    f"{names[image]} ({image})",
                    *(
                        _value(each) + _beside(cohort, names[image], grade)
                        for grade, each in enumerate(networks["grades"])
                    ),
                    _value(networks["mean"]),
                ]
                for image, networks in found["networks"].items()
            ),
            [
                "the paper's best",
                *(f"{BEST[g][1]:.2f} ({BEST[g][0]})" if g in BEST else "" for g in grades),
                "",
            ],
        ],
    )
    yield "In brackets the interval over patients; after a dash the abstract's figure of that model and cohort."
    yield ""
    yield from _agreement(found, names)
    yield ""
    yield "Area of a grade above a cut, by networks and by the share of flow alone:"
    yield ""
    cuts = [f"above {cut}" for cut in range(len(grades) - 1)]
    yield from _table(
        ["", *cuts, *(f"vascularity {cut}" for cut in cuts)],
        [
            *(
                [names[image], *map(_value, network["above"]), *[""] * len(cuts)]
                for image, network in found["networks"].items()
            ),
            *(
                [
                    f"no network: {name}",
                    *map(_value, areas["above"]),
                    *map(_value, areas["vascularity_above"]),
                ]
                for name, areas in found["without_network"].items()
            ),
        ],
    )
    yield "Pairs by patient, first minus second: area of each grade, linear kappa; p by swaps within patients."
    yield ""
    yield from _table(
        ["", *(f"grade {grade}" for grade in grades), "linear kappa"],
        [
            [
                " - ".join(names[image] for image in pair.split(" - ")),
                *(_tested(each) for each in values["grades"]),
                _tested(values["kappa_linear"]),
            ]
            for pair, values in found["pairs"].items()
        ],
    )


def _agreement(found: Block, names: Mapping[str, str]) -> Iterator[str]:
    readers = list(next(iter(found["networks"].values()))["icc"])
    if not readers:
        yield "No simulated readers: they need the truth of hypertrophy and vascularity."
        return
    levels = list(dict.fromkeys(reader.rpartition("-")[0] for reader in readers))
    yield (
        f"Intraclass correlation with each reader, from lowest to highest, ICC(2,1) / ICC(3,1); the paper, with "
        f"its 12: {AGREEMENT[0]} to {AGREEMENT[1]}."
    )
    yield ""
    yield from _table(
        ["", *levels],
        [
            [
                names[image],
                *(" / ".join(_range(network["icc"], level, of) for of in _FORMS) for level in levels),
            ]
            for image, network in found["networks"].items()
        ],
    )


_FORMS = ("agreement", "consistency")


def _range(icc: Block, level: str, of: str) -> str:
    values = [each[of]["value"] for reader, each in icc.items() if reader.rpartition("-")[0] == level]
    known = [value for value in values if value is not None]
    return f"{min(known):.2f} to {max(known):.2f}" if known else "-"


def _beside(cohort: str, name: str, grade: int) -> str:
    published = PUBLISHED.get((cohort, name), {}).get(grade)
    return "" if published is None else f" - {published:.2f}"


def _value(estimate: Block) -> str:
    if estimate["value"] is None:
        return "-"
    low, high = estimate["ci95"]
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{estimate['value']:.2f}{interval}"


def _tested(difference: Block) -> str:
    p = difference["p"]
    shown = "" if p is None else ", p < 0.001" if p < 0.001 else f", p {p:.3f}"
    return _value(difference) + shown


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
