"""The campaigns that a site was asked to take part in, and what its people decided about each.

``<site folder>/campaigns/<plan hash>/`` holds ``plan.json``, the very bytes that the hash is of, and ``state.json``.
A campaign is its plan: one letter changed is another campaign, which nobody has approved.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from client.consent import sum_tasks
from client.files import atomic
from client.ledger import ledger_head
from client.log import chain
from client.log.audit import CAMPAIGN
from client.site.site import Site
from client.state import approved_budget, decisions
from client.state.decisions import State, Status
from common.errors import DataError, PausedError, PolicyError, UnapprovedError
from common.messages import PlanRequest
from common.settings import Settings

PREFIX = re.compile(r"[0-9a-f]{6,64}")
MAXIMUM_WAITING = 100
"""Campaigns that may wait for a decision; the centre could fill the disk with more."""
MAXIMUM_NAMES = 20
AUTOMATIC = "policy.approval"


def consider(site: Site, request: PlanRequest) -> Settings:
    """Whether a campaign that the centre asks for may run here; its plan is kept.

    Raises:
        PolicyError: if the plan is not what its hash says, or the policy forbids it, or the site has left it.
        DataError: if the plan cannot be understood.
        UnapprovedError: if nobody has approved it yet.
        PausedError: if it is paused.
        StorageError: if the plan cannot be kept.
    """
    plan = request.plan.encode()
    if hashlib.sha256(plan).hexdigest() != request.plan_hash:
        raise PolicyError("Expected a plan that matches its hash, got a different one")
    settings = decisions.understood(plan, name=request.campaign)
    if settings.plan_hash() != request.plan_hash:
        raise PolicyError("Expected a plan as this version writes it, got one that says more or less")
    site.policy.check_plan(settings)
    place = decisions.folder(site.folder, request.plan_hash)
    known = decisions.read(place)
    if known is None:
        _keep(site, request, plan)
    elif known.names[-1] != request.campaign:
        _name(place, request.campaign)
    return settings_of_approved(site, request.plan_hash, name=request.campaign)


def settings_of_approved(site: Site, plan_hash: str, *, name: str) -> Settings:
    """The settings of a campaign that may run here now.

    Raises:
        PolicyError: if the site knows no such plan, has left it, or the policy forbids it.
        UnapprovedError: if nobody has approved it.
        PausedError: if it is paused.
    """
    place = decisions.folder(site.folder, plan_hash)
    state = decisions.read(place)
    if state is None:
        raise PolicyError(
            "Expected a campaign whose plan this site has been asked about, got a different one"
        )
    approved = state.status is Status.APPROVED
    if state.status is Status.LEFT:
        raise PolicyError(f"The site has left campaign {plan_hash[:12]}: {_decided(state)}")
    if state.status is Status.PAUSED:
        raise PausedError(f"Campaign {plan_hash[:12]} is paused: {_decided(state)}")
    if not approved or (state.automatic and site.policy.approval != "automatic"):
        raise UnapprovedError(
            f"Nobody has approved campaign {plan_hash[:12]} ({state.names[-1]}) yet: look at it with `synofed site "
            f"campaigns show FOLDER {plan_hash[:12]}`, then approve it or leave it"
        )
    settings = decisions.plan(site, plan_hash, name=name)
    site.policy.check_plan(settings)
    if settings.sums_tasks and state.without is None:
        raise UnapprovedError(
            f"Campaign {plan_hash[:12]} was approved by a version that did not ask in what the site takes part: look "
            f"at it again, then approve it again"
        )
    if settings.private and state.budget is None and site.policy.approval == "each":
        raise UnapprovedError(
            f"Campaign {plan_hash[:12]} ({state.names[-1]}) was approved by an earlier version, without a bound "
            f"of its own on what it may spend: approve it again with `synofed site campaigns approve`"
        )
    return settings


def find(site: Site, prefix: str) -> str:
    """The plan hash that begins with these digits.

    Raises:
        DataError: if none or several do.
    """
    if PREFIX.fullmatch(prefix) is None:
        raise DataError(f"Expected the first 6 or more digits of a campaign's hash, got {prefix!r:.70}")
    found = [plan_hash for plan_hash in decisions.listed(site) if plan_hash.startswith(prefix)]
    if len(found) != 1:
        what = (
            f"{len(found)}: give more digits" if found else "none: `synofed site campaigns list` shows them"
        )
        raise DataError(f"Expected one campaign whose hash begins with {prefix}, got {what}")
    return found[0]


def decide(
    site: Site,
    plan_hash: str,
    status: Status,
    *,
    by: str,
    without: Sequence[str] = (),
    proof: Mapping[str, object] = MappingProxyType({}),
) -> State:
    """Approve, pause, or leave a campaign; the decision is in the log before it counts.

    Args:
        site: the site.
        plan_hash: the campaign's.
        status: what it becomes.
        by: who decides.
        without: measurements or tasks in which the site takes no part, beside those for which it has nothing; only
            asked where the campaign is approved, and kept then.
        proof: that they did, for the log.

    Raises:
        DataError: if it is approved and there is nothing for it.
        PolicyError: if the campaign is unknown, its plan was changed, an approval is asked for that the policy
            forbids, or it is to be paused without having been approved.
        StorageError: if the decision cannot be written.
    """
    place = decisions.folder(site.folder, plan_hash)
    state = decisions.read(place)
    if state is None:
        raise PolicyError(f"Expected a campaign that this site was asked about, got {plan_hash[:12]}")
    if status is Status.APPROVED:
        settings = decisions.plan(site, plan_hash, name=state.names[-1])
        site.policy.check_plan(settings)
        if without and state.status is Status.PAUSED and state.without is not None:
            raise PolicyError(
                f"Campaign {plan_hash[:12]} is paused, and what it takes part in stays as it was approved "
                f"(without: {', '.join(state.without) or 'nothing'}): go on with `unpause`, or leave it"
            )
        if state.status is not Status.PAUSED or state.without is None:
            declared = sum_tasks.exclude(site, settings, without=without)
            state = state.model_copy(update={"without": declared})
        goes_on = state.status is Status.PAUSED and state.budget is not None
        if settings.private and site.policy.approval == "each" and not goes_on:
            state = state.model_copy(
                update={
                    "budget": approved_budget.of(site, settings, after=ledger_head.head(site.folder).sequence)
                }
            )
    if status is Status.PAUSED and state.status is not Status.APPROVED:
        raise PolicyError(
            f"Expected a campaign that is approved, campaign {plan_hash[:12]} is {state.status}"
        )
    decided = _set(site, plan_hash, state, status, by=by, automatic=False, proof=proof)
    if status is Status.LEFT:
        from client.state import site_state, sum_state, weights_cache  # noqa: PLC0415  torch: not for a plan

        weights_cache.forget(site.folder, plan_hash=plan_hash)
        sum_state.forget(site.folder, plan_hash=plan_hash)
        shutil.rmtree(site_state.folder(site.folder, plan_hash=plan_hash), ignore_errors=True)
        shutil.rmtree(place / decisions.EVALUATING, ignore_errors=True)
    return decided


def _set(
    site: Site,
    plan_hash: str,
    state: State,
    status: Status,
    *,
    by: str,
    automatic: bool,
    proof: Mapping[str, object] = MappingProxyType({}),
) -> State:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts: dict[str, object] = {
        **proof,
        "plan_hash": plan_hash,
        "campaign": state.names[-1],
        "status": str(status),
        "by": by,
    }
    if state.without:
        facts["without"] = list(state.without)
    if status is Status.APPROVED and state.budget is not None:
        facts["budget"] = state.budget.model_dump(mode="json")
    place = decisions.folder(site.folder, plan_hash)
    with decisions.locked(place):
        named = decisions.read(place) or state  # the centre may have called it something else meanwhile
        chain.append(site.folder / chain.NAME, CAMPAIGN, facts)
        decided = state.model_copy(
            update={
                "names": named.names,
                "status": status,
                "by": by,
                "decided": now,
                "automatic": automatic,
            }
        )
        decisions.write(place, decided)
    return decided


def _name(place: Path, name: str) -> None:
    """Note what the centre calls a campaign; what people decide in the same instant stays."""
    with decisions.locked(place):
        known = decisions.read(place)
        if known is not None:
            names = (*(one for one in known.names if one != name), name)
            decisions.write(place, known.model_copy(update={"names": names[-MAXIMUM_NAMES:]}))


def _keep(site: Site, request: PlanRequest, text: bytes) -> None:
    automatic = site.policy.approval == "automatic"
    waiting = (
        [state for state in decisions.listed(site).values() if state.status is Status.WAITING]
        if not automatic
        else []
    )
    if len(waiting) >= MAXIMUM_WAITING:
        raise UnapprovedError(
            f"{len(waiting)} campaigns wait for a decision: approve or leave some, then this one can be looked at"
        )
    place = decisions.folder(site.folder, request.plan_hash)
    atomic.write(place / "plan.json", text)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state = State(names=(request.campaign,), status=Status.WAITING, asked=now)
    if automatic:
        declared = sum_tasks.exclude(site, decisions.understood(text, name=request.campaign))
        state = state.model_copy(update={"without": declared})
        _set(site, request.plan_hash, state, Status.APPROVED, by=AUTOMATIC, automatic=True)
        return
    with decisions.locked(place):
        if decisions.read(place) is None:  # else the same plan came twice at once
            decisions.write(place, state)


def _decided(state: State) -> str:
    return f"{state.by} decided so at {state.decided}"
