"""One decision of a site's people about a campaign, with all that follows from it, wherever it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from client.consent import answered_rounds, campaigns, opened_sums
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from common.errors import PolicyError

AGAIN = (
    "It was run under an approval before: this is a second one, under which the centre may ask for every round once "
    "more, also over other sites, and may spend as much again. If nobody wanted a second run, pause it."
)


class Decision(StrEnum):
    """What people can decide about a campaign."""

    APPROVE = "approve"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    LEAVE = "leave"


BECOMES: Mapping[Decision, Status] = {
    Decision.APPROVE: Status.APPROVED,
    Decision.PAUSE: Status.PAUSED,
    Decision.UNPAUSE: Status.APPROVED,
    Decision.LEAVE: Status.LEFT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision that counts.

    Attributes:
        plan_hash: of the campaign.
        state: as it is now.
        again: whether it had been run under an approval before.
    """

    plan_hash: str
    state: State
    again: bool

    @property
    def sentence(self) -> str:
        """What it is now, for the people who decided."""
        out = f" The site takes no part in {', '.join(self.state.without)}." if self.state.without else ""
        again = f" {AGAIN}" if self.again else ""
        return (
            f"Campaign {self.plan_hash[:12]} ({self.state.names[-1]}) is {self.state.status}, as {self.state.by} "
            f"decided.{out}{again}"
        )


def known(site: Site, plan_hash: str) -> State:
    """What was decided about a campaign so far.

    Raises:
        PolicyError: if the site was never asked about it.
    """
    state = decisions.read(decisions.folder(site.folder, plan_hash))
    if state is None:
        raise PolicyError(f"Expected a campaign that this site was asked about, got {plan_hash[:12]}")
    return state


def check(state: State, decision: Decision) -> None:
    """Whether a campaign is such that this can be decided about it.

    Raises:
        PolicyError: if it is to be unpaused or paused and is not paused or approved.
    """
    if decision is Decision.UNPAUSE and state.status is not Status.PAUSED:
        raise PolicyError(f"Expected a campaign that is paused, this one is {state.status}")
    if decision is Decision.PAUSE and state.status is not Status.APPROVED:
        raise PolicyError(f"Expected a campaign that is approved, this one is {state.status}")


def take(
    site: Site,
    plan_hash: str,
    decision: Decision,
    *,
    by: str,
    without: Sequence[str] = (),
    proof: Mapping[str, object] | None = None,
) -> Decided:
    """Decide about a campaign.

    Args:
        site: the site.
        plan_hash: the campaign's.
        decision: what is decided.
        by: who decides.
        without: as in :func:`client.consent.campaigns.decide`.
        proof: that they did, for the log.

    Raises:
        DataError: as :func:`client.consent.campaigns.decide`.
        PolicyError: likewise, or as :func:`check`.
        StorageError: if the decision cannot be written.
    """
    before = known(site, plan_hash)
    check(before, decision)
    state = campaigns.decide(site, plan_hash, BECOMES[decision], by=by, without=without, proof=proof or {})
    again = False
    if state.status is Status.APPROVED and before.status is not Status.PAUSED:
        again = answered_rounds.forget(site.folder, plan_hash)
        opened_sums.forget(site.folder, plan_hash)
    return Decided(plan_hash=plan_hash, state=state, again=again)
