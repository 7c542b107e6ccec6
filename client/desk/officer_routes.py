"""The privacy officer's desk: campaigns and the policy. Where the officer has a key, it asks for a signature.

No key and no passphrase ever come here: what is decided in the browser is put as a question
(:mod:`client.officer.asking`), the officer's own process signs it (``synofed site officer``), and what was signed is
done here by the functions that the commands call.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.consent import campaign_page, deciding
from client.consent.deciding import Decision
from client.officer import asking
from client.officer.spool import Spool
from client.site import officer, policy_file, policy_words
from client.site.policy import Policy
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from common.errors import ConfigurationError, DataError, SynofedError
from common.machine import desk_live
from common.machine.desk_live import Seen
from common.sections.section import describe


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Wish(_Body):
    """What is to be decided about a campaign."""

    decision: Decision
    without: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=100)] = []
    by: Annotated[str, Field(max_length=200)] = ""


class PolicyWish(_Body):
    """What the policy is to be; settings that are not named stay."""

    values: dict[str, Any]


def router(folder: Path) -> APIRouter:
    """What the page asks for.

    Args:
        folder: the site's.
    """
    routes = APIRouter(prefix="/officer")

    @routes.get("/state")
    def state() -> dict[str, object]:
        return _state(folder)

    @routes.get("/live")
    def live(request: Request) -> StreamingResponse:
        return desk_live.stream(request, _Look(folder))

    @routes.get("/campaigns/{plan_hash}")
    def campaign(plan_hash: str) -> dict[str, object]:
        site = Site.open(folder)
        return _campaign(site, plan_hash, deciding.known(site, plan_hash))

    @routes.post("/campaigns/{plan_hash}")
    def decide(plan_hash: str, wish: Wish) -> dict[str, object]:
        site = Site.open(folder)
        if asking.key(site) is not None and wish.decision not in asking.WITHOUT_SIGNATURE:
            question = asking.about_campaign(site, plan_hash, wish.decision, without=wish.without)
            return {
                "asked": question.id,
                "said": f"This waits for the officer's signature: {question.title}.",
            }
        by = wish.by.strip() or getpass.getuser()
        return {"said": deciding.take(site, plan_hash, wish.decision, by=by, without=wish.without).sentence}

    @routes.post("/questions/{question}/take-back")
    def take_back(question: str) -> dict[str, object]:
        asking.take_back(Site.open(folder), question)
        return {"said": "It was taken back. A signature that comes later counts for nothing."}

    @routes.get("/policy")
    def policy() -> dict[str, object]:
        site = Site.open(folder)
        return {"fields": _fields(site.policy), "unsigned": _changes_since(site)}

    @routes.post("/policy/changes")
    def changes(wish: PolicyWish) -> dict[str, object]:
        site = Site.open(folder)
        found = policy_words.changes(site.policy, _wished(site, wish))
        return {"changes": [asdict(change) for change in found]}

    @routes.post("/policy")
    def ask_policy(wish: PolicyWish) -> dict[str, object]:
        site = Site.open(folder)
        wished = _wished(site, wish)
        if asking.signs_policy(site):
            asking.about_policy(site, wished)
            return {"said": "This waits for the officer's signature. Until then the policy stays as it is."}
        policy_file.put(site, wished)
        return {"said": "The policy is changed. This site belongs to no federation: it needs no signature."}

    return routes


@dataclass(slots=True)
class _Look:
    """A page's look at the state, made anew when a file that it is made of has changed: the log grows long."""

    folder: Path
    _files: Mapping[Path, int] | None = None
    _seen: Seen = field(default_factory=Seen)

    def __call__(self) -> Seen:
        files = _files(self.folder)
        if files != self._files:
            self._seen, self._files = Seen(now={"state": _state(self.folder)}), files
        return self._seen


def _files(folder: Path) -> dict[Path, int]:
    """When the files were written that a state is made of: the log, which grows, is read when one of them changes."""
    places = [
        folder / "site.toml",
        folder / policy_file.NAME,
        officer.path(folder),
        folder / "federation.json",
    ]
    places += folder.glob("campaigns/*/state.json")
    with suppress(SynofedError):  # site.toml cannot be read: said where the state is told
        places += Spool.of(Site.open(folder)).folder.glob("*/[!.]*.json")
    found = {}
    for place in places:
        with suppress(OSError):
            found[place] = place.stat().st_mtime_ns
    return found


def _state(folder: Path) -> dict[str, object]:
    asking.settle(folder)
    site = Site.open(folder)
    spool = Spool.of(site)
    key = asking.key(site)
    shared = not spool.folder.resolve().is_relative_to(folder.resolve())
    return {
        "site": site.name,
        "key": officer.spoken(key) if key is not None else "",
        "signs_policy": asking.signs_policy(site),
        "policy": policy_file.state(site),
        "command": f"synofed site officer {(spool.folder if shared else folder).resolve()} --key officer.pem",
        "account": getpass.getuser(),
        "campaigns": [
            {
                "plan_hash": plan_hash,
                "name": state.names[-1],
                "status": state.status,
                "asked": state.asked,
                "by": state.by,
                "decided": state.decided,
            }
            for plan_hash, state in decisions.listed(site).items()
        ],
        "questions": [
            {
                "id": one.id,
                "title": one.title,
                "asked": one.asked,
                "plan_hash": one.campaign.plan_hash if one.campaign is not None else "",
            }
            for one in spool.questions()
        ],
        "settled": [one.model_dump(mode="json") for one in spool.settled()[:10]],
    }


def _campaign(site: Site, plan_hash: str, state: State) -> dict[str, object]:
    page = campaign_page.page(site, plan_hash, state)
    settings = decisions.plan(site, plan_hash, name=state.names[-1])
    return {
        "plan_hash": plan_hash,
        "rows": [{"title": title, "lines": lines} for title, lines in campaign_page.rows(page).items()],
        "objection": page.objection,
        "tasks": list(settings.measurements) if settings.sums_tasks and not page.objection else [],
        "can": [decision for decision in Decision if _possible(state.status, decision)],
    }


def _possible(status: Status, decision: Decision) -> bool:
    if decision is Decision.APPROVE:
        return status is not Status.PAUSED
    if decision is Decision.LEAVE:
        return status is not Status.LEFT
    return status is (Status.APPROVED if decision is Decision.PAUSE else Status.PAUSED)


def _fields(policy: Policy) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name, words in policy_words.WORDS.items():
        kind, choices = policy_words.kind(name)
        value = getattr(policy, name)
        found.append(
            {
                "name": name,
                "title": words.title,
                "help": words.help,
                "none": words.none,
                "kind": kind,
                "choices": choices,
                "value": value,
            }
        )
    return found


def _changes_since(site: Site) -> list[dict[str, object]]:
    """How ``site.toml`` differs from what was signed last."""
    signed = policy_file.last_signed(site)
    return (
        [asdict(change) for change in policy_words.changes(signed[0].policy, site.policy)] if signed else []
    )


def _wished(site: Site, wish: PolicyWish) -> Policy:
    unknown = sorted(set(wish.values) - set(policy_words.WORDS))
    if unknown:
        raise DataError(f"Expected settings of the policy, got {unknown!s:.200}")
    try:
        return policy_words.renewed(site.policy, wish.values)
    except ValidationError as error:
        raise ConfigurationError(describe(error, source="the policy")) from None
