"""A plan's ``[privacy]`` section as what is accounted and booked."""

from __future__ import annotations

from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.accounting.spending import PrivateRelease
from common.sections.privacy import PrivacySettings
from common.version import VERSION


def steps(privacy: PrivacySettings, count: int) -> PrivateSteps:
    """This many steps, as they are accounted for.

    Raises:
        ConfigurationError: if there is no noise.
    """
    return PrivateSteps(
        sample_rate=privacy.sample_rate, noise_multiplier=privacy.noise_multiplier or 0.0, count=count
    )


def release(
    privacy: PrivacySettings,
    count: int,
    *,
    kind: str,
    campaign: str,
    plan_hash: str,
    server_round: int,
    request_id: str = "",
    group: str = "",
    version: str = VERSION,
) -> PrivateRelease:
    """So many steps as a ledger has them: the only place where a plan becomes a booking.

    Args:
        privacy: of the plan.
        count: of steps, >= 1.
        kind: what leaves (:func:`common.privacy.planning.private_steps.kind`), or why it is booked.
        campaign: its name.
        plan_hash: of the campaign.
        server_round: its round; of all rounds together the last.
        request_id: the request that is answered; empty where it is of no single one.
        group: its group of networks; empty where it is of no single one.
        version: of synofed.

    Raises:
        ConfigurationError: if there is no noise.
    """
    return PrivateRelease(
        kind=kind,
        campaign=campaign,
        plan_hash=plan_hash,
        request_id=request_id,
        server_round=server_round,
        group=group,
        version=version,
        steps=steps(privacy, count),
        max_grad_norm=privacy.max_grad_norm,
        patients=privacy.patients,
        images=privacy.images,
    )
