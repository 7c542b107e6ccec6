"""An audit of a site's folder or a run's: evidence is read, claims are recomputed, findings become a report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from client.evidence import site_evidence
from client.ledger import issued_receipts
from common.aggregation.sum_of_plan import planned_sum
from common.errors import DataError, SynofedError
from common.methods.rounds import total_rounds
from common.methods.stages import networks
from common.privacy.accounting.accounting import epsilon
from common.privacy.accounting.costs import Affected, CampaignCost, affected, spending
from common.privacy.audit.audit_report import Promised, Report, SiteAudit
from common.privacy.audit.claims import checked
from common.privacy.audit.evidence import Evidence
from common.privacy.mechanism.private_sum import PrivateSum
from common.privacy.planning import promise as promises
from common.privacy.planning.onlookers import Onlookers, onlookers
from common.privacy.planning.promise import Promise
from common.sections.secure import SecureSettings
from common.settings import Settings
from server.runs import run_evidence
from server.runs.run_evidence import RunEvidence
from simulation.privacy.evidence_bundle import SUMS

if TYPE_CHECKING:
    from common.privacy.audit.rehearsal import Rehearsal


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an audit is held against.

    Attributes:
        sites: site folders to be read along with a run.
        receipts: files of the centre, for a site.
        noted: codes of the ledger's end, from paper.
        promise: what was promised before the campaign.
        canaries: of the rehearsal; ``None``: none.
    """

    sites: tuple[Path, ...] = ()
    receipts: tuple[Path, ...] = ()
    noted: tuple[str, ...] = ()
    promise: Path | None = None
    canaries: int | None = None


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, and not a site's.

    Raises:
        DataError: if it is neither.
    """
    if (folder / "site.toml").is_file():
        return False
    if (folder / "config.toml").is_file() and (folder / "manifest.json").is_file():
        return True
    raise DataError(
        f"Expected a run's folder (config.toml, manifest.json) or a site's (site.toml), got {folder}"
    )


def read(folder: Path, given: Given) -> tuple[RunEvidence | None, tuple[Evidence, ...]]:
    """Everything that is known: of a run and its sites, or of a site.

    Raises:
        DataError: if the folder is neither, or a file of receipts cannot be read.
        ConfigurationError: if its settings cannot be read.
        VerificationError: if a file of receipts holds something else.
    """
    kept = [one for path in given.receipts for one in issued_receipts.read(path)]
    if not is_run(folder):
        others = (site_evidence.read(site, kept) for site in given.sites)
        return None, (site_evidence.read(folder, kept, given.noted), *others)
    run = run_evidence.read(folder)
    bundle = (folder / SUMS).is_file()  # stands for itself
    folders = given.sites or (() if bundle else tuple(_own_sites(run)))
    own = [site_evidence.read(site, [*run.receipts, *kept], given.noted) for site in folders]
    by_name = {one.site: one for one in own}
    return run, tuple(by_name.get(one.site, one) for one in run.sites)


def audit(folder: Path, given: Given) -> Report:
    """Audit a run or a site.

    Raises:
        SynofedError: as :func:`read`; what does not hold is in the report.
    """
    run, evidence = read(folder, given)
    sites = tuple(_audited(one, run) for one in evidence)
    attacked, why = _rehearsed(run, evidence, given.canaries)
    return Report(
        kind="site" if run is None else "run",
        name=run.name if run is not None else evidence[0].site,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        sites=sites,
        checks=run.checks if run is not None else (),
        facts={
            **(run.facts if run is not None else {}),
            **dict(_secure(sites)),
            **dict(_fold_membership(folder, run, given)),
        },
        promises=tuple(_promised(given.promise, sites)) if given.promise is not None else (),
        rehearsals=attacked,
        rehearsed=why,
    )


def affected_by(folder: Path, version: str) -> dict[str, Affected]:
    """What a version of synofed released: site -> releases and whom they concern."""
    _, evidence = read(folder, Given())
    return {one.site: affected(one.book, version, delta=delta_of(one)) for one in evidence}


def _audited(evidence: Evidence, run: RunEvidence | None) -> SiteAudit:
    maximum = evidence.caps[-1].maximum_epsilon if evidence.caps else None
    told = checked(evidence)
    if run is not None and evidence.source == "ledger":
        seen = next(one for one in run.sites if one.site == evidence.site)
        told = (*told, *seen.checks)
    found = spending(evidence.book, delta=delta_of(evidence), maximum_epsilon=maximum)
    return SiteAudit(evidence=evidence, checks=told, spending=found)


def delta_of(evidence: Evidence) -> float:
    """At which a site's spending is stated: its policy's; at the centre the plan's."""
    if evidence.caps:
        return float(evidence.caps[-1].delta)
    privacy = [settings.privacy for settings in evidence.plans.values() if settings.privacy is not None]
    return privacy[0].delta if privacy else 1e-5


def _own_sites(run: RunEvidence) -> Iterator[Path]:
    """The sites of a simulation, where they still lie on this machine."""
    from simulation.cohorts import cohort as cohorts  # noqa: PLC0415
    from simulation.runs.simulate import COHORTS, _short_hash  # noqa: PLC0415  torch

    source = run.settings.cohort
    if source is None:
        return
    place = source.folder
    if place is None and source.drawn is not None:
        seed = run.settings.seed if source.drawn.seed is None else source.drawn.seed
        place = COHORTS / f"phantom-{_short_hash(source.drawn, seed)}"
    if place is None or not place.exists():
        return
    names = {one.site for one in run.sites}
    try:
        yield from (site.folder for site in cohorts.discover(place).sites if site.name in names)
    except SynofedError:
        return


def _promised(path: Path, sites: Sequence[SiteAudit]) -> Iterator[Promised]:
    try:
        promise = promises.read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Expected a promise in {path}: {error}") from None
    mine = [
        (one, row) for one in sites for row in one.spending.campaigns if row.plan_hash == promise.plan_hash
    ]
    if not mine:
        yield Promised(
            what="Plan",
            promised=f"{promise.campaign} {promise.plan_hash[:12]}",
            done="no such campaign was booked",
            kept=True,
        )
        return
    yield Promised(what="Plan", promised=promise.plan_hash[:16], done=promise.plan_hash[:16], kept=True)
    spent = max(epsilon(row.steps, delta=promise.delta) for _, row in mine)
    yield Promised(
        what=f"Epsilon of the campaign at delta {promise.delta:g}",
        promised=f"{promise.epsilon:.3f}",
        done=f"{spent:.3f}",
        kept=spent <= promise.epsilon * (1 + 1e-6),
    )
    steps = max(sum(step.count for step in row.steps) for _, row in mine)
    yield Promised(
        what="Private steps", promised=str(promise.steps), done=str(steps), kept=steps <= promise.steps
    )
    rounds = max(row.rounds for _, row in mine)
    yield Promised(
        what="Rounds", promised=str(promise.rounds), done=str(rounds), kept=rounds <= promise.rounds
    )
    yield from _parameters(promise, mine[0][0].evidence.plans.get(promise.plan_hash))
    yield from _at_the_site(promise, sites)
    unbounded = any(row.unbounded for _, row in mine)
    yield Promised(
        what="Releases without differential privacy",
        promised="none",
        done="some" if unbounded else "none",
        kept=not unbounded,
    )


def _parameters(promise: Promise, settings: Settings | None) -> Iterator[Promised]:
    if settings is None or settings.privacy is None or settings.privacy.noise_multiplier is None:
        return
    planned = settings.privacy
    pairs = {
        "Noise multiplier": (promise.noise_multiplier, planned.noise_multiplier),
        "Clipping norm": (promise.max_grad_norm, planned.max_grad_norm),
        "Sample rate": (promise.sample_rate, planned.sample_rate),
        "Images of a patient": (promise.images, planned.images),
        "Public number of patients": (promise.patients, planned.patients),
    }
    for what, (promised, done) in pairs.items():
        yield Promised(what=what, promised=f"{promised:g}", done=f"{done:g}", kept=promised == done)
    recipients = settings.campaign.recipients
    yield Promised(
        what="Recipients",
        promised=", ".join(promise.recipients) or "none named",
        done=", ".join(recipients) or "none named",
        kept=promise.recipients == recipients,
    )


def _at_the_site(promise: Promise, sites: Sequence[SiteAudit]) -> Iterator[Promised]:
    if promise.site is None:
        return
    found = next((one for one in sites if one.evidence.site == promise.site.site), None)
    if found is None or not found.evidence.caps:
        return
    cap = found.evidence.caps[-1].maximum_epsilon
    promised = promise.site.maximum_epsilon
    yield Promised(
        what=f"Cap of a patient at {promise.site.site}",
        promised="no private release" if promised is None else f"{promised:g}",
        done="no private release" if cap is None else f"{cap:g}",
        kept=cap is None or (promised is not None and cap <= promised),
    )


def _rehearsed(
    run: RunEvidence | None, evidence: Sequence[Evidence], canaries: int | None
) -> tuple[tuple[Rehearsal, ...], str]:
    if canaries is None:
        return (), "No rehearsal was asked for: --empirical."
    settings = run.settings if run is not None else _latest(evidence[0])
    if settings is None or not settings.private:
        return (), "There is no private campaign to rehearse."
    from common.privacy.audit import rehearsed_plan  # noqa: PLC0415  torch
    from common.privacy.audit.rehearsal import rehearsals  # noqa: PLC0415

    parameters = rehearsed_plan.parameters(settings)
    many = rehearsed_plan.canaries(parameters, canaries)
    found = rehearsals(
        parameters,
        canaries=many,
        entropy=os.urandom(32),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return found, rehearsed_plan.told(settings, parameters, many)


def _fold_membership(folder: Path, run: RunEvidence | None, given: Given) -> Iterator[tuple[str, str]]:
    if run is None or given.canaries is None:
        return
    from simulation.privacy import fold_membership  # noqa: PLC0415  torch

    sites = given.sites or tuple(_own_sites(run))
    yield "Fold membership audit", fold_membership.told(folder, sites, run.settings)


def _secure(sites: Sequence[SiteAudit]) -> Iterator[tuple[str, str]]:
    """What secure aggregation changes of a claim: survivors carry the noise, whole numbers cost a little delta."""
    from common.privacy.audit.rehearsed_plan import sizes_of  # noqa: PLC0415  torch

    plans = {h: settings for one in sites for h, settings in one.evidence.plans.items()}
    for one in {row.plan_hash: row for site in sites for row in site.spending.campaigns if row.cost}.values():
        settings = plans.get(one.plan_hash)
        secure = settings.federation.secure if settings is not None else None
        if settings is None or secure is None or one.cost is None:
            continue
        plan = planned_sum(settings, networks(settings), sizes_of(settings))
        assert isinstance(plan, PrivateSum)
        more = plan.delta_correction(one.cost.epsilon, rounds=total_rounds(settings))
        yield (
            f"Secure aggregation of {one.campaign}",
            f"The noise is that of the sum over at least {secure.survivors} of {secure.sites} sites. "
            f"{_onlookers(one, secure).sentence} Whole numbers add {more:.2g} to delta.",
        )


def _onlookers(campaign: CampaignCost, secure: SecureSettings) -> Onlookers:
    assert campaign.cost is not None
    return onlookers(
        campaign.steps,
        survivors=secure.survivors,
        colluders=secure.colluders,
        delta=campaign.cost.delta,
    )


def _latest(evidence: Evidence) -> Settings | None:
    """The plan of the last private campaign of a ledger."""
    private = [one for one in evidence.book.releases if one.release.plan_hash in evidence.plans]
    found = [evidence.plans[one.release.plan_hash] for one in private]
    return next((settings for settings in reversed(found) if settings.private), None)
