"""The one way to noise at a site: a round is claimed, each of its releases is debited, and only then is it drawn.

::

    begin   the round is claimed; no other request can have it      (client.consent.answered_rounds)
            everything that can fail: frozen weights, networks, features, the budget of the whole round
    draw    debited, on disk, to every eligible patient who has     (client.ledger.ledger)
            enough left; nobody else takes part
            entropy, fresh from the operating system, for this one release

A try for which a device has too little memory leaves nothing; the next one has the same entropy, and is no further
release.

Nothing else in this room asks for entropy, so nothing can be drawn that was not booked; and what is drawn has the
parameters of the booking itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.consent import answered_rounds
from client.ledger import ledger
from client.site.site import Site
from common.messages import TrainRequest
from common.privacy.accounting import of_plan
from common.privacy.accounting.spending import PrivateRelease
from common.privacy.mechanism.patient_step import StepSettings
from common.privacy.planning import private_steps
from common.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One release that was booked and may be drawn, once.

    Attributes:
        patients: identifiers of those who take part; nobody else's data may enter.
        entropy: 32 bytes for its sampling and its noise.
    """

    patients: frozenset[str]
    entropy: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """The releases of one round that this site has claimed; :func:`begin` makes it.

    Attributes:
        site: the site.
        release: what each is booked as.
        patients: identifiers of all who are eligible.
    """

    site: Site
    release: PrivateRelease
    patients: Sequence[str]

    @property
    def step(self) -> StepSettings:
        """What each is drawn with."""
        booked = self.release
        return StepSettings.of(booked.steps, max_grad_norm=booked.max_grad_norm, patients=booked.patients)

    def check(self, count: int) -> None:
        """Whether so many releases are permitted, so that nothing is spent on half a round. Nothing is booked.

        Raises:
            BudgetError: if they are beyond the policy's cap, or beyond what was approved.
            PolicyError: if the policy permits no private release.
        """
        together = replace(self.release, steps=replace(self.release.steps, count=count))
        ledger.check(self.site, together, self.patients)

    def draw(self) -> Draw:
        """Debit one release; it is on disk when this returns.

        Raises:
            BudgetError: if it is beyond the policy's cap, or beyond what was approved; nothing is drawn.
            PolicyError: if the policy permits no private release.
            StorageError: if it cannot be booked; nothing is drawn.
        """
        reserved = ledger.reserve(self.site, self.release, self.patients)
        return Draw(patients=reserved.patients, entropy=os.urandom(32))


def begin(
    site: Site, request: TrainRequest, settings: Settings, patients: Sequence[str], *, asker: str | None
) -> Booking:
    """Claim a round; nothing is booked yet.

    Args:
        site: the site.
        request: what is answered.
        settings: of the campaign; with noise.
        patients: identifiers of all who are eligible.
        asker: who may ask for the round again (:func:`client.consent.answered_rounds.check`).

    Raises:
        UnapprovedError: if another request has asked for the round.
        StorageError: if it cannot be noted.
    """
    privacy = settings.privacy
    assert privacy is not None, "a campaign without [privacy] trains elsewhere"
    answered_rounds.claim_at(site, request, asker=asker)
    release = of_plan.release(
        privacy,
        1,
        kind=private_steps.kind(settings.method),
        campaign=request.campaign,
        plan_hash=request.plan_hash,
        request_id=request.request_id,
        server_round=request.server_round,
        group=request.group,
    )
    return Booking(site=site, release=release, patients=patients)
