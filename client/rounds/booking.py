"""What a private release is booked as in the ledger; asked by every round that draws noise."""

from __future__ import annotations

from common.messages import TrainRequest
from common.privacy.accounting.spending import PrivateRelease
from common.privacy.settings import PrivacySettings
from common.version import VERSION

PRIVATE_SUM = "private-sum"
"""One clipped, noised sum over the heads of a round."""
PRIVATE_STEP = "private-step"
"""Steps of one network that is trained whole."""


def booking(request: TrainRequest, privacy: PrivacySettings, *, kind: str, steps: int = 1) -> PrivateRelease:
    """What a release is booked as."""
    return PrivateRelease(
        kind=kind,
        campaign=request.campaign,
        plan_hash=request.plan_hash,
        request_id=request.request_id,
        server_round=request.server_round,
        group=request.group,
        version=VERSION,
        steps=privacy.steps(steps),
        max_grad_norm=privacy.max_grad_norm,
        patients=privacy.patients,
        images=privacy.images,
    )
