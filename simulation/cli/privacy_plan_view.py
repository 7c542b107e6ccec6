"""A private campaign's plan on a terminal and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.text import Text

from common.privacy.planning import utility
from common.privacy.planning.budget_plan import DesignCost, Plan
from common.privacy.planning.dpia import odds_in_words, section
from common.privacy.planning.noise_ratio import MEANING
from common.settings import Settings
from common.text.terminal import Table

COLOURS = {"no protection": "red", "hopeless": "red", "doubtful": "yellow", "worth a trial": "green"}
WAYS = {False: "each site", True: "together"}
"""Who adds the noise: each site all of it, or all together under secure aggregation."""
NO_RUNS = "no phantom runs committed for this size"


def table(name: str, plan: Plan) -> Table:
    """All designs of the configuration of a name, the configured one marked."""
    given = plan.budget
    what = (
        f"epsilon {given.epsilon:g}"
        if given.epsilon is not None
        else f"noise multiplier {given.noise_multiplier:g}"
    )
    several = "" if plan.cohort.sites == 1 else f" over {plan.cohort.sites} sites"
    title = (
        f"{name}: {what}, delta {given.delta:g}, {_patients(plan.cohort.patients)}{several}, "
        f"sample rate {given.sample_rate:g}"
    )
    found = Table(title=title)
    found.add_column("design", min_width=16)
    found.add_column("sigma", justify="right", no_wrap=True)
    found.add_column("epsilon", justify="right", no_wrap=True)
    found.add_column("noise / signal", justify="right", no_wrap=True)
    measured = any(row.loss is not None for row in plan.rows)
    if measured:
        found.add_column("kappa lost", justify="right", no_wrap=True)
    found.add_column("verdict", no_wrap=True)
    for _, rows in groupby(plan.rows, key=lambda row: row.design):
        cells = list(_cells(list(rows), plan))
        found.add_row(*(cells if measured else [*cells[:4], cells[5]]), end_section=True)
    return found


def lines(settings: Settings, plan: Plan) -> Iterator[str]:
    """The plan in words."""
    row, then = plan.chosen, plan.consequences
    if not settings.private:
        yield "The configuration trains without differential privacy; this is what it would be with it."
    yield sentence(plan)
    yield f"Epsilon {row.epsilon:.3g}: {odds_in_words(row.epsilon)}."
    yield (
        f"A round that is computed again makes it {then.round_again:.3f}, the whole campaign started anew "
        f"{then.campaign_again:.3f}; a patient who takes part at two sites has {then.two_sites:.3f}."
    )
    if then.one_dropout is not None:
        yield (
            f"Were noise shared among all {plan.cohort.sites} sites, one dropout would make it "
            f"{then.one_dropout:.3f}: so shares are made for fewer survivors, and a round with less is given up."
        )
    if then.onlookers is not None:
        yield then.onlookers.sentence
        needed, sites = plan.cohort.needed, plan.cohort.sites
        yield (
            f"Each sum needs {needed} of {sites} sites, so that {sites - needed or 'none'} may drop out of a round; "
            f"with three sites none may, with four one."
        )
    if row.loss is None:
        yield f"Loss of kappa: {NO_RUNS if row.design.heads and not row.design.norms else 'measured for heads only'}."
    for design in {design.cost: design for design in (one.design for one in plan.rows)}.values():
        yield f"A step of {'heads' if design.heads else 'whole networks'}: {design.cost}."
    if row.verdict in ("hopeless", "doubtful"):
        yield (
            f"At this epsilon, {plan.patients_for_goal:,} patients over as many sites would have no more noise than "
            f"the goal allows."
        )
    heads = [one for one in plan.rows if one.design.key == "heads" and one.verdict != "hopeless"]
    if row.verdict == "hopeless" and heads:
        yield (
            f'Instead, method "probe": {heads[0].design.title}, noise {_times(heads[0].noise_to_signal)} the '
            f"clipping norm at epsilon {heads[0].epsilon:.3f}, {heads[0].verdict}."
        )
    if plan.budget.delta * plan.cohort.patients >= 1:
        yield (
            f"Delta {plan.budget.delta:g} is not smaller than one in {plan.cohort.patients:,} patients: it permits "
            f"to publish one of them. Choose a smaller one."
        )
    privacy = settings.privacy
    if privacy is not None and privacy.patients != round(plan.cohort.a_site):
        yield (
            f"The configuration divides by {privacy.patients} patients per site, this plan has "
            f"{plan.cohort.a_site:.4g}: that scales the steps, not the privacy."
        )
    if not settings.private or (privacy is not None and row.noise_multiplier != privacy.noise_multiplier):
        yield f"Write into the configuration:\n{section(plan)}"


def sentence(plan: Plan) -> str:
    """The configured design, in one sentence."""
    row = plan.chosen
    steps = "every patient" if plan.budget.sample_rate == 1 else f"a share of {plan.budget.sample_rate:g}"
    kappa = ""
    if row.loss is not None:
        phantoms = f"phantoms of version {utility.PHANTOM_VERSION}"
        kappa = f"; noise like this cost {row.loss.kappa:.3f} kappa on {phantoms}"
    return (
        f"{row.design.title}, {row.design.charged} steps with {steps}: sigma {row.noise_multiplier:.4g} costs a "
        f"patient epsilon {row.epsilon:.3f} at delta {plan.budget.delta:g}, and the noise of a step is "
        f"{_times(row.noise_to_signal)} the clipping norm: {row.verdict}, {MEANING[row.verdict]}{kappa}."
    )


def as_json(settings: Settings, plan: Plan) -> dict[str, object]:
    """The plan as JSON's types."""
    return {
        "campaign": settings.name,
        "method": settings.method,
        "private": settings.private,
        "cohort": dataclasses.asdict(plan.cohort),
        "budget": dataclasses.asdict(plan.budget),
        "designs": [dataclasses.asdict(row) | {"chosen": row is plan.chosen} for row in plan.rows],
        "chosen": dataclasses.asdict(plan.chosen),
        "consequences": dataclasses.asdict(plan.consequences),
        "patients_for_goal": plan.patients_for_goal,
        "sentence": sentence(plan),
        "text": list(lines(settings, plan)),
    }


def _cells(rows: Sequence[DesignCost], plan: Plan) -> Iterator[str | Text]:
    """A design, with one line for each way to add noise."""
    row = rows[0]
    steps = f"{row.design.weights:,} numbers as one, {row.design.charged:,} steps per patient"
    configured = ("\nas configured", "bold") if row.design == plan.chosen.design else ""
    yield Text.assemble(row.design.title, (f"\n{steps}", "dim"), configured)
    yield f"{row.noise_multiplier:.4g}"
    yield f"{row.epsilon:.3f}" if row.epsilon < 100 else f"{row.epsilon:.0f}"
    yield Text("\n").join(
        Text(f"{WAYS[one.secure_aggregation]} {_times(one.noise_to_signal)}") for one in rows
    )
    yield Text("\n").join(Text("-" if one.loss is None else f"{one.loss.kappa:.3f}") for one in rows)
    yield Text("\n").join(Text(one.verdict, style=COLOURS[one.verdict]) for one in rows)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.3g} x"


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count:,} patients"
