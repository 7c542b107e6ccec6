"""What a ledger's releases cost the patient whom they cost most, by two accountants that share no code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.privacy.accounting.accounting import PrivateSteps, epsilon, merge
from common.privacy.accounting.spending import Book, History, PrivateRelease, of_campaign

AGREEMENT = 0.02
"""How far the accountants may be apart, as a share of epsilon (and never less than as an absolute number)."""
POINTS = 40
"""Of the curve of spending over time, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What steps cost one patient, by two accountants that share no code.

    Attributes:
        epsilon: the number: upper bound by privacy loss distributions.
        second_low: lower bound by privacy random variables.
        second_high: upper bound by the same.
        delta: that all are at.
    """

    epsilon: float
    second_low: float
    second_high: float
    delta: float

    @property
    def agree(self) -> bool:
        """Whether the accountants bear each other out."""
        slack = AGREEMENT * max(1.0, self.epsilon)
        return self.second_low - slack <= self.epsilon <= self.second_high + slack and (
            self.second_high <= self.epsilon + 2 * slack
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignCost:
    """One campaign of a ledger.

    Attributes:
        campaign: its name.
        plan_hash: of its plan.
        first: time of its first entry.
        last: time of its last entry.
        releases: private ones.
        unbounded: whether it also released something without privacy.
        patients: who were eligible for any of it.
        rounds: how many different ones.
        steps: of the patient whom it cost most.
        versions: of synofed, that booked it.
        cost: alone, for the patient whom it cost most; ``None`` where it has no private release.
    """

    campaign: str
    plan_hash: str
    first: str
    last: str
    releases: int
    unbounded: bool
    patients: int
    rounds: int
    steps: tuple[PrivateSteps, ...]
    versions: tuple[str, ...]
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """A ledger, for the patient who has spent most.

    Attributes:
        campaigns: in the order in which they were first booked.
        patients: who were ever booked.
        unbounded_patients: those of them for whom something was released without privacy.
        withdrawn: who withdrew.
        steps: of the patient who has spent most.
        total: what these cost, over all campaigns, networks, rounds and released metrics.
        two_sites: the same for a patient for whom another site booked exactly as much.
        maximum_epsilon: what the policy permits now; ``None``: nothing, or not known.
        curve: time and epsilon of that patient, as they grew.
    """

    campaigns: tuple[CampaignCost, ...]
    patients: int
    unbounded_patients: int
    withdrawn: int
    steps: tuple[PrivateSteps, ...]
    total: Cost
    two_sites: Cost
    maximum_epsilon: float | None
    curve: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """What one version of synofed released.

    Attributes:
        version: the version.
        private: private releases that it booked.
        unbounded: bookings of releases without privacy.
        patients: who were eligible for any of it.
        epsilon: of its private releases alone, for the patient whom they cost most.
        delta: that it is at.
        releases: sequence, time, campaign, round and kind of each.
    """

    version: str
    private: int
    unbounded: int
    patients: int
    epsilon: float
    delta: float
    releases: tuple[Mapping[str, object], ...]


def cost(steps: Sequence[PrivateSteps], *, delta: float | int) -> Cost:
    """What steps cost, by both accountants."""
    first = epsilon(steps, delta=delta)
    if not steps:
        return Cost(epsilon=0.0, second_low=0.0, second_high=0.0, delta=delta)
    low, high = _second(steps, delta=delta, error=max(0.01, 0.005 * first))
    return Cost(epsilon=first, second_low=max(0.0, low), second_high=high, delta=delta)


def spending(book: Book, *, delta: float | int, maximum_epsilon: float | int | None) -> Spending:
    """What a ledger adds up to.

    Args:
        book: its entries.
        delta: of the site's policy.
        maximum_epsilon: of the site's policy.
    """
    histories = list(book.histories())
    number, worst = worst_of(histories, delta=delta)
    return Spending(
        campaigns=tuple(_campaigns(book, delta=delta)),
        patients=len(book.commitments),
        unbounded_patients=sum(history.unbounded for history in histories),
        withdrawn=len(book.withdrawn),
        steps=worst.steps,
        total=cost(worst.steps, delta=delta),
        two_sites=cost(merge((*worst.steps, *worst.steps)), delta=delta),
        maximum_epsilon=maximum_epsilon,
        curve=tuple(_curve(book, number, delta=delta)) if number is not None else (),
    )


def affected(book: Book, version: str, *, delta: float | int) -> Affected:
    """What a version of synofed released, and whom it concerns."""
    booked = [one for one in book.releases if one.release.version == version]
    numbers = frozenset[int]().union(*(one.eligible for one in booked))
    alone = {number: History() for number in numbers}
    for one in booked:
        alone |= {number: alone[number].then(one.release) for number in one.eligible}
    private = [one for one in booked if isinstance(one.release, PrivateRelease)]
    return Affected(
        version=version,
        private=len(private),
        unbounded=len(booked) - len(private),
        patients=len(numbers),
        epsilon=max((history.epsilon(delta=delta) for history in set(alone.values())), default=0.0),
        delta=delta,
        releases=tuple(
            {
                "sequence": one.sequence,
                "time": one.time,
                "campaign": one.release.campaign,
                "round": one.release.server_round,
                "kind": one.release.kind,
                "patients": len(one.eligible),
            }
            for one in booked
        ),
    )


def worst_of(histories: Sequence[History], *, delta: float | int) -> tuple[int | None, History]:
    """Number and history of the patient who has spent most."""
    costs = {history: history.epsilon(delta=delta) for history in set(histories)}
    if not costs:
        return None, History()
    worst = max(costs, key=lambda history: (costs[history], len(history.steps)))
    return histories.index(worst), worst


def _campaigns(book: Book, *, delta: float | int) -> Iterator[CampaignCost]:
    for plan_hash in dict.fromkeys(one.release.plan_hash for one in book.releases):
        booked = [one for one in book.releases if one.release.plan_hash == plan_hash]
        private = [one for one in booked if isinstance(one.release, PrivateRelease)]
        _, worst = worst_of(list(of_campaign(book, plan_hash)), delta=delta)
        yield CampaignCost(
            campaign=booked[-1].release.campaign,
            plan_hash=plan_hash,
            first=booked[0].time,
            last=booked[-1].time,
            releases=len(private),
            unbounded=len(private) < len(booked),
            patients=len(frozenset[int]().union(*(one.eligible for one in booked))),
            rounds=len({one.release.server_round for one in private}),
            steps=worst.steps,
            versions=tuple(sorted({one.release.version for one in booked})),
            cost=cost(worst.steps, delta=delta) if private else None,
        )


def _curve(book: Book, number: int, *, delta: float | int) -> Iterator[tuple[str, float]]:
    """What one patient had spent after some of the releases, the last among them."""
    mine = [
        one for one in book.releases if number in one.eligible and isinstance(one.release, PrivateRelease)
    ]
    stride = max(1, -(-len(mine) // POINTS))
    history = History()
    for place, one in enumerate(mine, start=1):
        history = history.then(one.release)
        if (len(mine) - place) % stride == 0:
            yield one.time, history.epsilon(delta=delta)


def _second(steps: Sequence[PrivateSteps], *, delta: float | int, error: float) -> tuple[float, float]:
    """Bounds of the PRV accountant, below and above."""
    from opacus.accountants import PRVAccountant  # noqa: PLC0415  (imports torch)

    accountant = PRVAccountant()
    accountant.history = [(step.noise_multiplier, step.sample_rate, step.count) for step in merge(steps)]
    delta_error = delta / 1000
    with np.errstate(divide="ignore"), warnings.catch_warnings():  # log(1 - sample_rate) of the whole cohort
        warnings.filterwarnings("ignore", message="Optimal order is the largest alpha")
        composed = accountant._get_dprv(eps_error=error, delta_error=delta_error)
        low, _, high = composed.compute_epsilon(delta, delta_error, error)
    return float(low), float(high)
