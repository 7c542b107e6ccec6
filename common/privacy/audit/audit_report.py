"""A privacy audit's findings as one page and as JSON: what was claimed, what was found, in words for a lawyer.

The page is self-contained: no script, nothing loaded from outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from common.privacy.accounting import chain
from common.privacy.accounting.accounting import merge
from common.privacy.accounting.adjacency import group_epsilon
from common.privacy.accounting.costs import Cost, Spending, cost
from common.privacy.audit.evidence import Check, Evidence
from common.privacy.audit.risk import Risk, risk
from common.settings import Settings
from common.version import VERSION

if TYPE_CHECKING:
    from common.privacy.audit.rehearsal import Rehearsal

MEANINGLESS = 1e4
"""From this factor on a bound on odds says nothing."""
BADGES = {"holds": "good", "not contradicted": "", "fails": "bad", "open": "warn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAudit:
    """One site: what there is of it, what was checked, and what its patients have spent."""

    evidence: Evidence
    checks: tuple[Check, ...]
    spending: Spending

    @property
    def left(self) -> float:
        """Of the budget that the policy gives a patient; 0 where it gives none, or it is not known."""
        return max(0.0, (self.spending.maximum_epsilon or 0.0) - self.spending.total.epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """One line of a promise beside what was done.

    Attributes:
        what: it is about.
        promised: before the campaign.
        done: as the audit finds it.
        kept: whether it was kept.
    """

    what: str
    promised: str
    done: str
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An audit.

    Attributes:
        kind: what was audited.
        name: of the site or run.
        made: when, ISO 8601.
        sites: each with its findings.
        checks: of the run as a whole.
        facts: of the run, label -> text.
        promises: empty where none was given.
        rehearsals: empty where none was asked for.
        rehearsed: why there is none, or what was rehearsed.
    """

    kind: Literal["site", "run"]
    name: str
    made: str
    sites: tuple[SiteAudit, ...]
    checks: tuple[Check, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    promises: tuple[Promised, ...] = ()
    rehearsals: tuple[Rehearsal, ...] = ()
    rehearsed: str = "No rehearsal was asked for: --empirical."

    @property
    def failed(self) -> tuple[str, ...]:
        """Every claim that does not hold, with where and why."""
        wrong = [
            f"{_at(site, check)}: {check.found}" for site, check in self.places if check.verdict == "fails"
        ]
        for one in self.sites:
            costs = [one.spending.total, *(c.cost for c in one.spending.campaigns if c.cost is not None)]
            if not all(found.agree for found in costs):
                wrong.append(f"{one.evidence.site}, accounting: the two accountants do not agree")
        wrong += [
            f"promise: {row.what}: promised {row.promised}, done {row.done}"
            for row in self.promises
            if not row.kept
        ]
        return (*wrong, *(f"rehearsal: {one}" for one in self.rehearsals if one.refuted))

    @property
    def places(self) -> tuple[tuple[str, Check], ...]:
        """Every check with the site that it is of; of the run as a whole, without one."""
        own = (("", check) for check in self.checks)
        return (*own, *((one.evidence.site, check) for one in self.sites for check in one.checks))

    @property
    def open(self) -> tuple[str, ...]:
        """Every claim that could not be settled, with where and why."""
        return tuple(
            f"{_at(site, check)}: {check.found}" for site, check in self.places if check.verdict == "open"
        )

    @property
    def verdict(self) -> str:
        """All checks in one sentence, which names what is open."""
        held = sum(check.verdict == "holds" for _, check in self.places)
        parts = [f"{held} of {len(self.places)} checks hold"]
        if self.failed:
            parts.append(f"{len(self.failed)} claims fail")
        unsure = [_at(*place) for place in self.places if place[1].verdict == "not contradicted"]
        if unsure:
            parts.append(f"not contradicted, which is no proof: {'; '.join(unsure)}")
        undecided = [_at(*place) for place in self.places if place[1].verdict == "open"]
        if undecided:
            parts.append(f"open: {'; '.join(undecided)}")
        return ". ".join(one[0].upper() + one[1:] for one in parts) + "."

    @property
    def least_left(self) -> SiteAudit | None:
        """The site at which a patient has least left of the budget, of those whose policy is known and has one."""
        capped = [one for one in self.sites if one.spending.maximum_epsilon is not None]
        return min(capped, key=lambda one: one.left, default=None)

    @property
    def unbounded(self) -> bool:
        """Whether something was released that no epsilon bounds."""
        return any(
            one.spending.unbounded_patients or any(c.unbounded for c in one.spending.campaigns)
            for one in self.sites
        )

    @property
    def worst(self) -> Cost:
        """Of the site whose patient has spent most."""
        costs = [one.spending.total for one in self.sites]
        return max(costs, key=lambda found: found.epsilon, default=cost((), delta=1e-5))

    @property
    def risk(self) -> Risk:
        """What that is worth to an attacker."""
        worst = max(self.sites, key=lambda one: one.spending.total.epsilon, default=None)
        return risk(worst.spending.steps if worst is not None else ())

    @property
    def two_sites(self) -> Cost:
        """Of a patient who has spent most at two sites: the two where that is most, or this one twice."""
        ordered = sorted(self.sites, key=lambda one: one.spending.total.epsilon, reverse=True)
        if not ordered:
            return self.worst
        one, other = ordered[0].spending, ordered[min(1, len(ordered) - 1)].spending
        found = cost(merge((*one.steps, *other.steps)), delta=one.total.delta)
        if not self.secured:
            return found
        # both enter one sum, whose noise is booked once: as two patients at one site
        together = group_epsilon(one.steps, patients=2, delta=one.total.delta)
        return found if together <= found.epsilon else replace(found, epsilon=float(together))

    @property
    def secured(self) -> bool:
        """Whether a private campaign was summed under secure aggregation."""
        return any(settings.federation.secure is not None for settings in self.plans.values())

    @property
    def plans(self) -> dict[str, Settings]:
        """Plans of all private campaigns, by hash."""
        found = {h: s for one in self.sites for h, s in one.evidence.plans.items() if s.private}
        released = {c.plan_hash for one in self.sites for c in one.spending.campaigns}
        return {plan_hash: settings for plan_hash, settings in found.items() if plan_hash in released}


def as_json(report: Report) -> dict[str, object]:
    """The report as JSON's types."""
    worst = report.worst
    return {
        "format": "synofed privacy report 1",
        "kind": report.kind,
        "name": report.name,
        "made": report.made,
        "versions": versions(),
        "holds": not report.failed,
        "failed": list(report.failed),
        "open": list(report.open),
        "verdict": report.verdict,
        "unbounded": report.unbounded,
        "unit": "one patient added or removed",
        "worst": asdict(worst),
        "risk": asdict(report.risk),
        "two_sites": asdict(report.two_sites),
        "checks": [asdict(check) for check in report.checks],
        "sites": [_site_json(one) for one in report.sites],
        "facts": dict(report.facts),
        "promises": [asdict(row) for row in report.promises],
        "rehearsals": [
            {**asdict(one), "bound": one.bound, "refuted": one.refuted, "refutable": one.refutable}
            for one in report.rehearsals
        ],
    }


def render(report: Report) -> str:
    """The page's HTML."""
    from common.privacy.audit import audit_figures  # noqa: PLC0415  matplotlib

    read = files("common").joinpath
    template = read("privacy", "audit", "audit_report.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        report=report,
        style=Markup(read("page.css").read_text(encoding="utf-8")),
        over_time=Markup(audit_figures.spending([(one.evidence, one.spending) for one in report.sites])),
        against=Markup(audit_figures.claim_against_bound(report.worst, report.rehearsals)),
        odds=odds,
        badges=BADGES,
        head=_head,
        versions=versions(),
        spans=_span,
        number=lambda value: f"{value:.3f}",
    )


def odds(epsilon: float) -> str:
    """What an epsilon means, in one sentence."""
    factor = math.exp(min(epsilon, 700.0))
    if epsilon == 0:
        return "Nothing was released with differential privacy."
    if factor > MEANINGLESS:
        return (
            f"At epsilon {epsilon:.3g} the bound is so wide that it promises nothing of practical meaning: it "
            f"does not keep anybody from telling that a patient took part."
        )
    told = f"{factor:.1f}" if factor < 10 else f"{factor:.0f}"
    return (
        f"At epsilon {epsilon:.3g}, whoever sees everything that left may raise the odds of a guess that one certain "
        f"patient took part at most {told}-fold, but for a chance of about delta. Of 100 people like you of whom it "
        f"was guessed at odds of 50 to 50, it may become {_of_100(0.5, factor)} for you; where it was 10 of 100, "
        f"{_of_100(0.1, factor)}."
    )


def _of_100(before: float, factor: float) -> str:
    """What a share of 100 becomes at most when its odds rise by a factor."""
    return f"{100 * before * factor / (1 - before + before * factor):.0f}"


def _at(site: str, check: Check) -> str:
    return f"{site}, {check.name}" if site else check.name


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    return {
        "synofed": VERSION,
        "dp-accounting (PLD)": version("dp-accounting"),
        "opacus (PRV)": version("opacus"),
        "riskcal (attacks)": version("riskcal"),
    }


def _head(evidence: Evidence) -> str:
    if evidence.source == "receipts" or not evidence.entries:
        return ""
    last = evidence.entries[-1]
    return chain.spoken(chain.Head(sequence=last.sequence, hash=last.hash))


def _span(first: str, last: str) -> str:
    return first[:10] if first[:10] == last[:10] else f"{first[:10]} to {last[:10]}"


def _site_json(one: SiteAudit) -> dict[str, object]:
    evidence: Evidence = one.evidence
    return {
        "site": evidence.site,
        "source": evidence.source,
        "public_key": evidence.public_key,
        "ledger_entries": len(evidence.entries) if evidence.source == "ledger" else None,
        "ledger_head": evidence.entries[-1].hash if evidence.entries else None,
        "checks": [asdict(check) for check in one.checks],
        "spending": asdict(one.spending),
        "facts": dict(evidence.facts),
    }
