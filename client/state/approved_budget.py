"""What an approval promises of a private campaign: its epsilon, with some rounds drawn again, and not the whole cap.

An attempt at a secure sum that fails, and a round whose reply a crash lost, are drawn again and paid again. An
approval has room for a tenth of the plan's rounds drawn twice, at least one. What goes beyond needs another
approval, however much the policy's cap would still permit.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from client.site.site import Site
from common.methods.rounds import total_rounds
from common.privacy.accounting import of_plan
from common.sections.section import Positive, Section
from common.settings import Settings

SHARE_AGAIN = 0.1
"""Of the plan's rounds may be drawn a second time under one approval."""


class ApprovedBudget(Section):
    """What one approval lets a campaign spend."""

    steps: Positive
    """Private steps of the plan, each drawn once."""
    again: Positive
    """Private steps that may be drawn a second time."""
    epsilon: Annotated[float, Field(gt=0)]
    """Of a patient who takes part in all of these, one added or removed."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """The policy's, when it was approved."""
    after: Annotated[int, Field(ge=0)] = 0
    """Number of the ledger's last entry when it was approved: what was booked before is of earlier approvals."""


def of(site: Site, settings: Settings, *, after: int) -> ApprovedBudget:
    """What an approval now would promise.

    Args:
        site: whose policy says at which delta.
        settings: of a campaign with differential privacy.
        after: number of the ledger's last entry: what was booked before is of earlier approvals.
    """
    from common.privacy.accounting import accounting  # noqa: PLC0415  scipy: only where it is accounted
    from common.privacy.planning import private_steps  # noqa: PLC0415  scipy: only where it is accounted

    privacy = settings.privacy
    assert privacy is not None, "asked for campaigns with privacy alone"
    steps, delta = private_steps.steps(settings), site.policy.maximum_delta
    rounds = total_rounds(settings)
    again = math.ceil(steps / rounds) * math.ceil(SHARE_AGAIN * rounds)
    return ApprovedBudget(
        steps=steps,
        again=again,
        epsilon=accounting.epsilon([of_plan.steps(privacy, steps + again)], delta=delta),
        delta=delta,
        after=after,
    )
