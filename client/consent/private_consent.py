"""Whether the whole of a campaign with differential privacy is permitted, asked before it begins.

The answer goes to the centre, so it depends on plan, policy and approvals alone: not on who is here, nor on what they
have spent. Who has too little left takes no part (:mod:`client.ledger.ledger`).
"""

from __future__ import annotations

from client.data.site_store import site_store
from client.data.store import eligible
from client.ledger import ledger
from client.site.site import Site
from common.methods.rounds import longest_stage_rounds
from common.privacy.accounting import of_plan
from common.privacy.planning import private_steps
from common.settings import Settings


def check(site: Site, settings: Settings) -> None:
    """Whether a campaign as a whole is within the policy's cap; each run is looked at as if it were the first.

    Raises:
        BudgetError: if it costs more than the policy permits a patient who has spent nothing.
        PolicyError: if the policy permits no private release.
        DataError: if two identifiers look like one patient's.
    """
    privacy = settings.privacy
    assert privacy is not None, "asked for campaigns with privacy alone"
    whole = of_plan.release(
        privacy,
        private_steps.steps(settings),
        kind="forecast",
        campaign=settings.name,
        plan_hash=settings.plan_hash(),
        server_round=longest_stage_rounds(settings),
    )
    ledger.check_plan(site, whole, eligible(site_store(site, settings)))
