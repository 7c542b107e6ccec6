"""What a site's people decided about each campaign, and the plan that they decided about.

``<site folder>/campaigns/<plan hash>/`` holds ``plan.json``, the very bytes that the hash is of, and ``state.json``.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from client.files import atomic, lock
from client.site.site import Site
from client.state.approved_budget import ApprovedBudget
from common import signed_json
from common.errors import DataError, PolicyError
from common.sections.section import Section
from common.settings import Settings

HASH = re.compile(r"[0-9a-f]{64}")
MAXIMUM_PLAN_BYTES = 1_000_000
PERSONAL = "personal"
"""In a campaign's folder: what the site made of the networks for itself; removed where a patient withdraws."""
ALONE = "alone"
"""In a campaign's folder: what the site trained alone, to compare with; removed alike."""
ALONE_TRAINING = ".alone-training"
"""In a campaign's folder: what has been trained of it so far; removed alike."""
EVALUATING = ".evaluation"
"""In a campaign's folder: what has been computed so far for tables of held-out patients; removed alike."""

REHEARSAL = "rehearsal.json"
"""In a campaign's folder: what a rehearsal of its private step showed, on made-up patients; it stays."""


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
    """Tasks in which the site takes no part, as approved (:mod:`client.consent.sum_tasks`); ``None``: not
    decided yet."""
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


def without(site: Site, plan_hash: str) -> tuple[str, ...]:
    """The tasks in which the site takes no part, as it was approved."""
    state = read(folder(site.folder, plan_hash))
    return (state.without or ()) if state is not None else ()


def budget(site_folder: Path, plan_hash: str) -> ApprovedBudget | None:
    """What a campaign's approval lets it spend; ``None``: people approved nothing, the policy's cap holds alone.

    Raises:
        PolicyError: if what was decided cannot be read.
    """
    state = read(folder(site_folder, plan_hash))
    return state.budget if state is not None else None


def plan(site: Site, plan_hash: str, *, name: str) -> Settings:
    """The settings of a plan that is kept.

    Raises:
        PolicyError: if the file is no longer what was asked for.
        DataError: if it cannot be understood.
    """
    return understood(plan_text(site, plan_hash), name=name)


def plan_text(site: Site, plan_hash: str) -> bytes:
    """The very text that a plan's hash is of.

    Raises:
        PolicyError: if the file is no longer what was asked for.
    """
    try:
        text = (folder(site.folder, plan_hash) / "plan.json").read_bytes()
    except OSError as error:
        raise PolicyError(f"Expected the plan of campaign {plan_hash[:12]}: {error.strerror}") from None
    if hashlib.sha256(text).hexdigest() != plan_hash:
        raise PolicyError(f"The plan of campaign {plan_hash[:12]} was changed: it no longer matches its hash")
    return text


def understood(text: bytes, *, name: str) -> Settings:
    """A plan as settings.

    Raises:
        DataError: if it is too large, or not a plan that this version knows.
    """
    if len(text) > MAXIMUM_PLAN_BYTES:
        raise DataError(f"Expected a plan of at most {MAXIMUM_PLAN_BYTES} bytes, got {len(text)}")
    try:
        return Settings.model_validate({**signed_json.parse(text), "name": name})
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"Expected a plan that this version understands: {error!s:.2000}") from None


def listed(site: Site) -> dict[str, State]:
    """All campaigns by plan hash, the newest first."""
    found = {place.name: state for place in (site.folder / "campaigns").glob("*") if (state := read(place))}
    return dict(sorted(found.items(), key=lambda item: item[1].asked, reverse=True))


def read(place: Path) -> State | None:
    """The decision in a campaign's folder; ``None``: the site was never asked.

    Raises:
        PolicyError: if it cannot be read.
    """
    try:
        return State.model_validate_json((place / "state.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError):
        raise PolicyError(f"Expected what was decided about a campaign in {place / 'state.json'}") from None


def write(place: Path, state: State) -> None:
    """Keep a decision in a campaign's folder.

    Raises:
        StorageError: if it cannot be written.
    """
    atomic.write(place / "state.json", (state.model_dump_json(indent=2) + "\n").encode())


def locked(folder: Path) -> AbstractContextManager[None]:
    """While nobody else changes what a folder of a campaign holds: the centre's requests come while people decide.

    Raises:
        StorageError: if the lock cannot be made.
    """
    return lock.locked(folder / ".lock")
