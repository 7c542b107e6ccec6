"""The annex to a data protection impact assessment that is signed before a private campaign.

It follows the four parts of Article 35(7) GDPR: what is done and what for, whether it is necessary and proportionate,
the risks to the patients, and the measures. Everything in it is taken from the plan, the campaign's settings and the
site's policy; what only people can know is left to be filled in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from common.errors import ConfigurationError
from common.methods.rounds import total_rounds
from common.privacy.planning.budget_plan import Plan, odds
from common.privacy.planning.noise_ratio import MEANING
from common.privacy.planning.promise import Promise, SitePromise
from common.sections.privacy import PrivacySettings
from common.settings import Settings

ACCOUNTANT = "PLD (dp-accounting), closed form for steps of the whole cohort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Something that lowers a risk.

    Attributes:
        what: is done.
        where: it is enforced.
        check: how one sees that it was.
    """

    what: str
    where: str
    check: str


def check(settings: Settings, plan: Plan) -> PrivacySettings:
    """Refuse an annex for anything but what the configuration says: its hash stands there.

    Raises:
        ConfigurationError: saying what to write into the configuration.
    """
    privacy = settings.privacy
    if privacy is None or not settings.private:
        raise ConfigurationError(
            f"Expected a [privacy] section with noise: there is nothing to promise. Write\n"
            f"{section(plan)}\ninto the configuration first"
        )
    planned = (plan.chosen.noise_multiplier, plan.budget.delta)
    if planned != (privacy.noise_multiplier, privacy.delta):
        raise ConfigurationError(
            f"Expected the plan to be the configuration's, since the annex carries its hash: write\n"
            f"{section(plan)}\ninto the configuration, and give no --epsilon, --noise-multiplier or --delta"
        )
    return privacy


def section(plan: Plan) -> str:
    """The lines that the configuration needs for a plan."""
    return "\n".join(
        (
            "[privacy]",
            f"noise_multiplier = {plan.chosen.noise_multiplier:g}",
            f"sample_rate = {plan.budget.sample_rate:g}",
            f"patients = {max(1, round(plan.cohort.a_site))}",
            f"delta = {plan.budget.delta:g}",
        )
    )


def promise(
    settings: Settings,
    plan: Plan,
    *,
    plan_hash: str,
    leaves: Mapping[str, int],
    version: str,
    created: str,
    site: SitePromise | None,
) -> Promise:
    """What is promised.

    Args:
        settings: of the campaign.
        plan: under the configuration's own noise.
        plan_hash: of the campaign, with its start weights.
        leaves: network -> numbers that leave of it each round.
        version: of synofed.
        created: now, ISO 8601.
        site: whose annex it is.

    Raises:
        ConfigurationError: as :func:`check`.
    """
    privacy = check(settings, plan)
    row = plan.chosen
    return Promise(
        created=created,
        version=version,
        campaign=settings.name,
        plan_hash=plan_hash,
        method=settings.method,
        purpose=settings.campaign.purpose,
        recipients=settings.campaign.recipients,
        accountant=ACCOUNTANT,
        epsilon=row.epsilon,
        delta=plan.budget.delta,
        noise_multiplier=row.noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        sample_rate=privacy.sample_rate,
        rounds=total_rounds(settings),
        steps=row.design.charged,
        secure_aggregation=row.secure_aggregation,
        images=privacy.images,
        patients=privacy.patients,
        planned_patients=plan.cohort.patients,
        planned_sites=plan.cohort.sites,
        leaves=dict(leaves),
        site=site,
    )


def render(promised: Promise, settings: Settings, plan: Plan) -> str:
    """The annex as one HTML page, without scripts or links to anything outside it."""
    template = files("common.privacy.planning").joinpath("dpia.html").read_text(encoding="utf-8")
    style = files("common").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = _code
    return environment.from_string(template).render(
        p=promised,
        row=plan.chosen,
        consequences=plan.consequences,
        meaning=MEANING[plan.chosen.verdict],
        odds=odds_in_words(promised.epsilon),
        reads=reads(settings),
        measures=list(measures(promised)),
        risks=list(risks(promised)),
        style=Markup(style),
    )


def odds_in_words(epsilon: float | int) -> str:
    """What an epsilon means for somebody who wants to know whether a patient took part."""
    times = odds(epsilon)
    if times > 1e6:
        return (
            "the odds that somebody took part can rise more than a million-fold: whoever looks closely may "
            "become certain"
        )
    after = 100 * times / (1 + times)
    sure = f"{math.ceil(10 * after) / 10:g}" if after <= 99 else f"{math.ceil(100 * after) / 100:g}"
    shown = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
    return (
        f"the odds that somebody took part can rise up to {shown}-fold: who thought it as likely as not can become "
        f"up to {sure} % sure"
    )


def reads(settings: Settings) -> list[str]:
    """What the software reads of a patient."""
    kinds = {"grey": "grey-scale", "doppler": "Doppler", "colour": "colour"}
    images = ", ".join(
        f"{name} ({kinds[image.kind]}{', moving' if image.frames else ''})"
        for name, image in settings.images.items()
    )
    return [
        f"ultrasound pictures of joints: {images}",
        f"the readers' grades: {', '.join(settings.columns)}",
        "a pseudonymous identifier that says which examinations are of one patient; it never leaves the site",
    ]


def measures(promised: Promise) -> Iterator[Measure]:
    """What lowers the risks, where it is enforced, and how one sees that it was."""
    joint = promised.method == "probe" and len(promised.leaves) > 1
    cap = "the cap of the site's policy" if promised.site is None else _cap(promised.site)
    yield Measure(
        what="Pictures, grades and identifiers stay at the site; so do features computed from pictures",
        where="at the site: only what is listed in section 3 is put into a reply",
        check="`synofed site outbox show` lists every number that left and compares it with the signed receipt",
    )
    yield Measure(
        what=f"Every patient's influence on a reply is limited to a length of {promised.max_grad_norm:g}"
        f"{', over all networks together' if joint else ' per step and network'}, whatever is in the pictures",
        where="at the site, before anything is added up",
        check="`synofed privacy audit` tests the computation on artificial data",
    )
    yield Measure(
        what=f"Random noise of {promised.noise_multiplier:g} times that length is added to each number, drawn from "
        f"the operating system's entropy, new for every reply; nobody can repeat it",
        where="at the sites, shared among them under secure aggregation"
        if promised.secure_aggregation
        else "at the site, in full",
        check="the ledger names the noise of every reply",
    )
    if promised.sample_rate < 1:
        yield Measure(
            what=f"Who takes part in a step is drawn anew each time, everybody with probability "
            f"{promised.sample_rate:g}; nobody outside the site learns who it was",
            where="at the site, from the same entropy",
            check="the ledger names the rate, and debits everybody who could have been drawn",
        )
    if promised.secure_aggregation:
        yield Measure(
            what="The centre learns the sum over the sites and no site's own reply",
            where="at the sites: masks between sites whose keys they pinned themselves",
            check="`synofed privacy audit`",
        )
    yield Measure(
        what="Every reply is debited to each patient before it leaves, over all campaigns, rounds and restarts; "
        f"what would exceed {cap} is refused",
        where="at the site: the ledger, which the centre can neither see nor change",
        check="`synofed site ledger verify`; the code of `synofed site ledger head` in the paper file",
    )
    yield Measure(
        what="The campaign runs only after somebody at the site approved exactly this plan, by its hash",
        where="at the site, at every request; the policy is signed by the privacy officer",
        check="`synofed site campaigns show`, `synofed site log verify`",
    )
    yield Measure(
        what="No program is received from the centre: what computes is the version that the site installed",
        where="at the site: anything else is refused before it is unpacked",
        check=f"version {promised.version} stands in every receipt",
    )
    yield Measure(
        what="The connection is encrypted, opened by the site alone, and both ends prove who they are",
        where="at the site and at the centre",
        check="`synofed site check`",
    )
    yield Measure(
        what="A patient who withdraws takes part in no later reply; pictures and features are deleted",
        where="at the site: `synofed data withdraw`",
        check="a signed statement; the ledger's entry",
    )


def risks(promised: Promise) -> Iterator[str]:
    """What remains."""
    yield (
        "Somebody who has the networks, or all replies, may still raise their certainty that a person took part, as "
        f"far as section 4 says, and with a probability of at most about {promised.delta:g} further."
    )
    yield (
        "What is true of patients in general (that this disease looks so) can be learnt from the networks, also of "
        "people who never took part. That is the purpose, and not prevented."
    )
    yield (
        "The guarantee covers what the software sends. It does not cover pictures that leave the hospital otherwise, "
        "machines that are broken into, or a changed version of the software."
    )
    yield (
        "The number of patients that a site states in the plan, that a site takes part, and when it answers are "
        "known to the centre."
    )
    yield (
        "Outside the guarantee: the public encoder, chosen settings and thresholds, and anything that was decided "
        "after looking at patients' data by hand."
    )
    if not promised.secure_aggregation:
        yield "The centre sees each site's noised replies one by one; each is protected by that site's own noise."


def _code(text: str) -> Markup:
    """What stands between backticks, as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def _cap(site: SitePromise) -> str:
    if site.maximum_epsilon is None:
        return "the cap (none is set, so no private campaign may run)"
    return f"the cap of epsilon {site.maximum_epsilon:g} at delta {site.maximum_delta:g}"
