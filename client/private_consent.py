"""Whether the budget is enough for the whole of a campaign with differential privacy, asked before it begins."""

from __future__ import annotations

from client import ledger
from client.private_round import eligible
from client.site import Site
from common.privacy import planned
from common.privacy.spending import PrivateRelease
from common.settings import Settings
from common.version import VERSION


def check(site: Site, settings: Settings) -> None:
    """Whether the rounds that are left of a campaign fit into every patient's budget.

    What the campaign has spent so far is in the ledger; a round that is computed twice costs twice, so the ledger is
    asked again before every one.

    Raises:
        BudgetError: if they do not fit; nothing is booked.
        PolicyError: if the policy permits no private release, or a patient has withdrawn.
    """
    privacy = settings.privacy
    assert privacy is not None, "asked for campaigns with privacy alone"
    plan_hash = settings.plan_hash()
    booked = sum(one.release.plan_hash == plan_hash for one in ledger.book(site.folder).releases)
    steps = planned.steps(settings)
    release = PrivateRelease(
        kind="forecast",
        campaign=settings.name,
        plan_hash=plan_hash,
        request_id="",
        server_round=settings.federation.rounds,
        group="",
        version=VERSION,
        steps=privacy.steps(max(1, steps - booked)),
        max_grad_norm=privacy.max_grad_norm,
        patients=privacy.patients,
        images=privacy.images,
    )
    ledger.check(site, release, eligible(site.store(settings)))
