"""What a site's patients have spent and have left, campaign by campaign."""

from __future__ import annotations

from dataclasses import dataclass

from client.ledger import ledger
from client.site.site import Site
from common.privacy.accounting import spending
from common.privacy.accounting.spending import Book, PrivateRelease


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentOnCampaign:
    """One campaign.

    Attributes:
        campaign: its name.
        plan_hash: its plan.
        private: releases with privacy.
        unbounded: whether it also released without.
        patients: who were eligible for any of it.
        epsilon: of its private releases alone, for the patient whom they cost most.
        left_out: who had spent the budget and took no part in its last release.
    """

    campaign: str
    plan_hash: str
    private: int
    unbounded: bool
    patients: int
    epsilon: float
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A site's ledger, for the patient who has spent most.

    Attributes:
        campaigns: in the order in which they were first booked.
        patients: who were ever booked.
        unbounded_patients: those of them for whom something was released without privacy.
        epsilon: of all private releases together.
        maximum_epsilon: what the policy permits; ``None``: no private release.
        left: of that; ``None`` where nothing is permitted.
        delta: that epsilon is at.
    """

    campaigns: tuple[SpentOnCampaign, ...]
    patients: int
    unbounded_patients: int
    epsilon: float
    maximum_epsilon: float | None
    left: float | None
    delta: float


def spent(site: Site) -> Spent:
    """Recompute it from the ledger.

    Raises:
        VerificationError: if the ledger was changed.
        StorageError: if it cannot be read.
    """
    book = ledger.book(site.folder)
    delta, maximum = site.policy.maximum_delta, site.policy.maximum_epsilon
    total = spending.worst(book.histories(), delta=delta)
    plans = dict.fromkeys(booked.release.plan_hash for booked in book.releases)
    return Spent(
        campaigns=tuple(_on_campaign(book, plan_hash, delta=delta) for plan_hash in plans),
        patients=len(book.commitments),
        unbounded_patients=sum(history.unbounded for history in book.histories()),
        epsilon=total,
        maximum_epsilon=maximum,
        left=None if maximum is None else max(0.0, maximum - total),
        delta=delta,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentByPatient:
    """One patient of the ledger, who has a number in it and no name.

    Attributes:
        number: in the ledger.
        epsilon: of all private releases together.
        unbounded: whether something was released without privacy.
        withdrew: whether the patient withdrew.
    """

    number: int
    epsilon: float
    unbounded: bool
    withdrew: bool


def by_patient(site: Site) -> tuple[SpentByPatient, ...]:
    """What every patient has spent, who has spent most first.

    Raises:
        VerificationError: if the ledger was changed.
        StorageError: if it cannot be read.
    """
    book, delta = ledger.book(site.folder), site.policy.maximum_delta
    withdrew = frozenset(book.withdrawn.values())
    found = [
        SpentByPatient(
            number=number,
            epsilon=history.epsilon(delta=delta),
            unbounded=history.unbounded,
            withdrew=number in withdrew,
        )
        for number, history in enumerate(book.histories())
    ]
    return tuple(sorted(found, key=lambda one: (-one.epsilon, not one.unbounded, one.number)))


def _on_campaign(book: Book, plan_hash: str, *, delta: float) -> SpentOnCampaign:
    booked = [one for one in book.releases if one.release.plan_hash == plan_hash]
    private = sum(isinstance(one.release, PrivateRelease) for one in booked)
    return SpentOnCampaign(
        campaign=booked[-1].release.campaign,
        plan_hash=plan_hash,
        private=private,
        unbounded=private < len(booked),
        patients=len(frozenset[int]().union(*(one.eligible for one in booked))),
        epsilon=spending.worst(spending.of_campaign(book, plan_hash), delta=delta),
        left_out=booked[-1].left_out,
    )
