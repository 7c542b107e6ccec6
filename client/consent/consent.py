"""A site's answer to a campaign's plan. Nothing is trained for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from client.consent import answered_rounds, campaigns, peers, statistics, timing
from client.data.site_store import site_store
from client.ledger import behind
from client.site import keys, training_device
from client.site.site import Site
from client.state import decisions
from common.errors import VersionError
from common.messages import PlanReply, PlanRequest
from common.methods.stages import networks
from common.settings import Settings
from common.version import VERSION


def consider_plan(site: Site, request: PlanRequest) -> PlanReply:
    """Check a campaign against the site's version, policy and decision, and prepare the store.

    Raises:
        VersionError: if the centre runs another version.
        PolicyError: if the campaign may not run here, or not yet; see :func:`client.consent.campaigns.consider`.
        UnapprovedError: also if another run has used up the approval.
        BehindError: if the centre's receipts show that this is an older copy of the site.
        BudgetError: if it costs more than the policy permits a patient.
        DataError: if the site's data cannot serve the plan.
        ConfigurationError: if the GPU that ``site.toml`` names is not there.
    """
    if request.version != VERSION:
        raise VersionError(f"Expected synofed {VERSION} at the centre, got {request.version:.40}")
    behind.meet(site, request.known)
    settings = campaigns.consider(site, request)
    training_device.found(site.file.compute.device)
    peers.check(site, settings.federation.secure)
    if site.policy.approval == "each":
        answered_rounds.meet(site.folder, request.plan_hash, request.run)
    if settings.private:
        from client.consent import private_consent  # noqa: PLC0415  scipy: only where it is accounted

        private_consent.check(site, settings)
    timed = site.policy.permits("timings") and not settings.private
    return PlanReply(
        site=site.name,
        version=VERSION,
        plan_hash=settings.plan_hash(),
        usable=_usable(site, settings),
        without=decisions.without(site, request.plan_hash),
        public_key=keys.public_key(site.folder),
        hours=site.policy.windows(),
        round_seconds=timing.typical(site.folder, request.plan_hash) if timed else math.nan,
        statistics=statistics.of(site, settings),
    )


def _usable(site: Site, settings: Settings) -> Mapping[str, int]:
    """Training exams per measurement, 0 where the site would train nothing for it; nothing if counts stay here."""
    data = site_store(site, settings).tensors
    if not site.policy.permits("counts") or settings.private:
        return {}
    from common.training import trainable  # noqa: PLC0415  torch

    specs = networks(settings).values()
    found = trainable.prospects(
        data, specs, minimum_cohort=site.policy.minimum_cohort, of_class=site.policy.of_class(settings)
    )
    return {name: prospect.exams if prospect.trained else 0 for name, prospect in found.items()}
