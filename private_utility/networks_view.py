"""Which networks give more for the same epsilon, and who pays for the noise: the comparison and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.evaluation.bootstrap import Estimate
from common.networks.spec import COMBINED
from private_utility.utility_view import Measure, interval, short

GOAL, STRETCH = 0.02, 0.04
"""Of weighted kappa that other networks should gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Heads of one design.

    Attributes:
        name: of the design.
        encoders: hash of their weights.
        made: the name of the configuration that they are pretrained with.
        start: of the heads: ``random``, or at the ``encoder``'s own.
        members: of the ensemble.
        weights: numbers that are trained.
        rate: learning rate that the rehearsal chose.
        scores: by measurement, and the combined score; the loss is of the same heads without privacy.
        gained: kappa less that of the first design, on the same patients.
    """

    name: str
    encoders: str
    made: str
    start: str
    members: int
    weights: int
    rate: float
    scores: dict[str, Measure]
    gained: dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """What the noise costs some exams.

    Attributes:
        design: which heads.
        score: measurement, or the combined score.
        group: a grade, or a site with its machine.
        exams: of the group.
        patients: who have one.
        open: mean distance to the true grade without privacy.
        private: the same with.
        more: the second less the first.
    """

    design: str
    score: str
    group: str
    exams: int
    patients: int
    open: float
    private: float
    more: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Designs that spend the same epsilon on the same patients.

    Attributes:
        patients: that train, at all sites.
        sites: over which they are spread.
        epsilon: of a patient.
        delta: of the budget.
        rounds: of each campaign.
        noise_multiplier: of each round.
        draws: campaigns per design.
        exams: held out.
        tested: patients held out.
        designs: today's first.
        payers: of each design, by grade and by site.
    """

    patients: int
    sites: int
    epsilon: float
    delta: float
    rounds: int
    noise_multiplier: float
    draws: int
    exams: int
    tested: int
    designs: tuple[Compared, ...]
    payers: tuple[Payer, ...]


def text(found: Comparison, *, by: str, cost: str) -> Iterator[str]:
    """The comparison in Markdown."""
    first, *others = found.designs
    yield "## Other networks for the same epsilon"
    yield ""
    yield (
        f"*{by}.* Epsilon {found.epsilon:g} at delta {short(found.delta)}, {found.patients:,} patients at "
        f"{found.sites} sites under secure aggregation, {found.rounds} rounds of the whole cohort (sigma "
        f"{found.noise_multiplier:.2f}), all members clipped as one vector; {found.draws} campaigns a design; "
        f"{found.exams} held-out exams of {found.tested} patients. Rates were chosen on the rehearsal's phantoms. "
        f"Gained: kappa less that of {first.name} on the same patients, with 95 % intervals by bootstrap over "
        f"patients. Each design's encoders are made by `synofed pretrain` with the configuration that is named."
    )
    yield ""
    for one in others:
        gained = one.gained[COMBINED]
        reached = [f"{goal}" for goal in (GOAL, STRETCH) if gained.value >= goal]
        beyond = "its interval lies above zero" if gained.low > 0 else "its interval holds zero"
        said = f"reaches {' and '.join(reached)}" if reached else f"does not reach {GOAL}"
        yield f"* **{one.name}** gains {interval(gained)} of the combined score's kappa: {said}; {beyond}."
    yield ""
    yield from _designs(found)
    yield ""
    yield from _payers(found)
    if cost:
        yield ""
        yield f"Made with {cost}."


def _designs(found: Comparison) -> Iterator[str]:
    scores = list(found.designs[0].scores)
    header = [
        "heads",
        "encoders",
        "start",
        "members",
        "numbers",
        "rate",
        *scores,
        "sd over campaigns (combined)",
    ]
    header += [f"gained, {score}" for score in scores] + ["loss of the same heads to privacy, combined"]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for one in found.designs:
        cells = [
            one.name, f"{one.made} (`{one.encoders[:12]}`)", one.start, f"{one.members}",
            f"{one.weights:,}", f"{one.rate:g}",
            *(f"{m.kappa.value:.3f} ({m.kappa.low:.3f} to {m.kappa.high:.3f})" for m in one.scores.values()),
            f"{one.scores[COMBINED].draws_sd:.3f}",
            *("" if one is found.designs[0] else interval(gain) for gain in one.gained.values()),
            interval(one.scores[COMBINED].loss),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _payers(found: Comparison) -> Iterator[str]:
    yield "### Who pays for the noise"
    yield ""
    yield (
        "Mean distance between the ensemble's grade and the true one, in grades, without and with privacy, and how "
        "much more it is with (95 % interval over patients). A site has one machine."
    )
    yield ""
    names = [one.name for one in found.designs]
    header = [
        "score",
        "exams of",
        "exams (patients)",
        *(f"{name}: {what}" for name in names for what in _WHAT),
    ]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    groups = dict.fromkeys((payer.score, payer.group) for payer in found.payers)
    known = {(p.score, p.group, p.design): p for p in found.payers}
    for score, group in groups:
        of_all = [known[score, group, name] for name in names]
        cells = [f"{p.open:.2f} -> {p.private:.2f} | {interval(p.more)}" for p in of_all]
        yield f"| {score} | {group} | {of_all[0].exams} ({of_all[0].patients}) | {' | '.join(cells)} |"
    yield ""
    for name in names:
        worst = max((p for p in found.payers if p.design == name), key=lambda p: p.more.value)
        yield (
            f"* {name}: most is paid by {worst.score}, {worst.group} ({worst.exams} exams): {interval(worst.more)} "
            f"grades."
        )


_WHAT = ("error", "more")
