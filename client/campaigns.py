"""The campaigns that a site was asked to take part in, and what its people decided about each.

``<site folder>/campaigns/<plan hash>/`` holds ``plan.json``, the very bytes that the hash is of, and ``state.json``.
A campaign is its plan: one letter changed is another campaign, which nobody has approved.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from client import approved_budget, atomic, chain, participation
from client.approved_budget import ApprovedBudget
from client.audit import CAMPAIGN
from client.site import Site
from common.errors import DataError, PausedError, PolicyError, UnapprovedError
from common.messages import PlanRequest
from common.section import Section
from common.settings import Settings

HASH = re.compile(r"[0-9a-f]{64}")
PREFIX = re.compile(r"[0-9a-f]{6,64}")
MAXIMUM_PLAN_BYTES = 1_000_000
MAXIMUM_WAITING = 100
"""Campaigns that may wait for a decision; the centre could fill the disk with more."""
MAXIMUM_NAMES = 20
AUTOMATIC = "policy.approval"


class Status(StrEnum):
    """What a site decided about a campaign."""

    WAITING = "waiting"
    APPROVED = "approved"
    PAUSED = "paused"
    LEFT = "left"


class State(Section):
    """``state.json``."""

    names: tuple[str, ...]
    """What the centre called the campaign; the last one is its name."""
    status: Status
    asked: str
    """When its plan came first, ISO 8601."""
    by: str = ""
    """Who decided."""
    decided: str = ""
    """When, ISO 8601."""
    automatic: bool = False
    """Whether the policy approved it, and nobody else."""
    without: tuple[str, ...] | None = None
    """Tasks in which the site takes no part, as approved (:mod:`client.participation`); ``None``: not decided yet."""
    budget: ApprovedBudget | None = None
    """What the approval promises of a campaign with differential privacy; where the policy approves, its cap does."""


def folder(site_folder: Path, plan_hash: str) -> Path:
    """Where a campaign's plan lies.

    Raises:
        PolicyError: if the hash is none: it becomes a folder's name.
    """
    if HASH.fullmatch(plan_hash) is None:
        raise PolicyError("Expected a plan's hash in hex, got something else")
    return site_folder / "campaigns" / plan_hash


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
        raise PolicyError("Expected a plan that fits its hash, got another")
    settings = understood(plan, name=request.campaign)
    if settings.plan_hash() != request.plan_hash:
        raise PolicyError("Expected a plan as this version writes it, got one that says more or less")
    site.policy.check_plan(settings)
    place = folder(site.folder, request.plan_hash)
    known = _read(place)
    if known is None:
        _keep(site, request, plan)
    elif known.names[-1] != request.campaign:
        names = (*(name for name in known.names if name != request.campaign), request.campaign)
        _write(place, known.model_copy(update={"names": names[-MAXIMUM_NAMES:]}))
    return permitted(site, request.plan_hash, name=request.campaign)


def permitted(site: Site, plan_hash: str, *, name: str) -> Settings:
    """The settings of a campaign that may run here now.

    Raises:
        PolicyError: if the site knows no such plan, has left it, or the policy forbids it.
        UnapprovedError: if nobody has approved it.
        PausedError: if it is paused.
    """
    place = folder(site.folder, plan_hash)
    state = _read(place)
    if state is None:
        raise PolicyError("Expected a campaign whose plan this site was asked about, got another")
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
    settings = plan(site, plan_hash, name=name)
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


def without(site: Site, plan_hash: str) -> tuple[str, ...]:
    """The tasks in which the site takes no part, as it was approved."""
    state = _read(folder(site.folder, plan_hash))
    return (state.without or ()) if state is not None else ()


def budget(site_folder: Path, plan_hash: str) -> ApprovedBudget | None:
    """What a campaign's approval lets it spend; ``None``: people approved nothing, the policy's cap holds alone.

    Raises:
        PolicyError: if what was decided cannot be read.
    """
    state = _read(folder(site_folder, plan_hash))
    return state.budget if state is not None else None


def plan(site: Site, plan_hash: str, *, name: str) -> Settings:
    """The settings of a plan that is kept.

    Raises:
        PolicyError: if the file is no longer what was asked for.
        DataError: if it cannot be understood.
    """
    try:
        text = (folder(site.folder, plan_hash) / "plan.json").read_bytes()
    except OSError as error:
        raise PolicyError(f"Expected the plan of campaign {plan_hash[:12]}: {error.strerror}") from None
    if hashlib.sha256(text).hexdigest() != plan_hash:
        raise PolicyError(
            f"The plan of campaign {plan_hash[:12]} was changed: it does not fit its hash any more"
        )
    return understood(text, name=name)


def understood(text: bytes, *, name: str) -> Settings:
    """A plan as settings.

    Raises:
        DataError: if it is too large, or not a plan that this version knows.
    """
    if len(text) > MAXIMUM_PLAN_BYTES:
        raise DataError(f"Expected a plan of at most {MAXIMUM_PLAN_BYTES} bytes, got {len(text)}")
    try:
        return Settings.model_validate({**json.loads(text), "name": name})
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"Expected a plan that this version understands: {error!s:.2000}") from None


def listed(site: Site) -> dict[str, State]:
    """All campaigns by plan hash, the newest first."""
    found = {place.name: state for place in (site.folder / "campaigns").glob("*") if (state := _read(place))}
    return dict(sorted(found.items(), key=lambda item: item[1].asked, reverse=True))


def find(site: Site, prefix: str) -> str:
    """The plan hash that begins so.

    Raises:
        DataError: if none or several do.
    """
    if PREFIX.fullmatch(prefix) is None:
        raise DataError(f"Expected the first 6 or more digits of a campaign's hash, got {prefix!r:.70}")
    found = [plan_hash for plan_hash in listed(site) if plan_hash.startswith(prefix)]
    if len(found) != 1:
        what = (
            f"{len(found)}: give more digits" if found else "none: `synofed site campaigns list` shows them"
        )
        raise DataError(f"Expected one campaign whose hash begins with {prefix}, got {what}")
    return found[0]


def decide(site: Site, plan_hash: str, status: Status, *, by: str, without: Sequence[str] = ()) -> State:
    """Approve, pause, or leave a campaign; the decision is in the log before it counts.

    Args:
        site: the site.
        plan_hash: the campaign's.
        status: what it becomes.
        by: who decides.
        without: measurements or tasks in which the site takes no part, beside those for which it has nothing; only
            asked where the campaign is approved, and kept then.

    Raises:
        DataError: if it is approved and there is nothing for it.
        PolicyError: if the campaign is unknown, its plan was changed, an approval is asked for that the policy
            forbids, or it is to be paused without having been approved.
        StorageError: if the decision cannot be written.
    """
    place = folder(site.folder, plan_hash)
    state = _read(place)
    if state is None:
        raise PolicyError(f"Expected a campaign that this site was asked about, got {plan_hash[:12]}")
    if status is Status.APPROVED:
        settings = plan(site, plan_hash, name=state.names[-1])
        site.policy.check_plan(settings)
        if state.status is not Status.PAUSED or state.without is None:
            declared = participation.declared(site, settings, without=without)
            state = state.model_copy(update={"without": declared})
        goes_on = state.status is Status.PAUSED and state.budget is not None
        if settings.private and site.policy.approval == "each" and not goes_on:
            state = state.model_copy(update={"budget": approved_budget.of(site, settings)})
    if status is Status.PAUSED and state.status is not Status.APPROVED:
        raise PolicyError(
            f"Expected a campaign that is approved, campaign {plan_hash[:12]} is {state.status}"
        )
    decided = _set(site, plan_hash, state, status, by=by, automatic=False)
    if status is Status.LEFT:
        from client import site_state, sum_state, weights_cache  # noqa: PLC0415  torch: not for a plan

        weights_cache.forget(site.folder, plan_hash=plan_hash)
        sum_state.forget(site.folder, plan_hash=plan_hash)
        shutil.rmtree(site_state.folder(site.folder, plan_hash=plan_hash), ignore_errors=True)
    return decided


def _set(site: Site, plan_hash: str, state: State, status: Status, *, by: str, automatic: bool) -> State:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts: dict[str, object] = {
        "plan_hash": plan_hash,
        "campaign": state.names[-1],
        "status": str(status),
        "by": by,
    }
    if state.without:
        facts["without"] = list(state.without)
    if status is Status.APPROVED and state.budget is not None:
        facts["budget"] = state.budget.model_dump(mode="json")
    chain.append(site.folder / chain.NAME, CAMPAIGN, facts)
    decided = state.model_copy(update={"status": status, "by": by, "decided": now, "automatic": automatic})
    _write(folder(site.folder, plan_hash), decided)
    return decided


def _keep(site: Site, request: PlanRequest, text: bytes) -> None:
    automatic = site.policy.approval == "automatic"
    waiting = (
        [state for state in listed(site).values() if state.status is Status.WAITING] if not automatic else []
    )
    if len(waiting) >= MAXIMUM_WAITING:
        raise UnapprovedError(
            f"{len(waiting)} campaigns wait for a decision: approve or leave some, then this one can be looked at"
        )
    place = folder(site.folder, request.plan_hash)
    atomic.write(place / "plan.json", text)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state = State(names=(request.campaign,), status=Status.WAITING, asked=now)
    if automatic:
        declared = participation.declared(site, understood(text, name=request.campaign))
        state = state.model_copy(update={"without": declared})
        _set(site, request.plan_hash, state, Status.APPROVED, by=AUTOMATIC, automatic=True)
    else:
        _write(place, state)


def _read(place: Path) -> State | None:
    try:
        return State.model_validate_json((place / "state.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError):
        raise PolicyError(f"Expected what was decided about a campaign in {place / 'state.json'}") from None


def _write(place: Path, state: State) -> None:
    atomic.write(place / "state.json", (state.model_dump_json(indent=2) + "\n").encode())


def _decided(state: State) -> str:
    return f"{state.by} decided so at {state.decided}"
