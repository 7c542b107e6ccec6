"""The officer's signatures that stand in a site's log, checked again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from client.consent.deciding import BECOMES
from client.log.audit import CAMPAIGN, OFFICER
from client.officer.question import Statement
from common.errors import VerificationError
from common.hash_chain import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Decisions of people about campaigns.

    Attributes:
        signed: by the officer's key.
        unsigned: made by a command at the site, which nothing proves.
    """

    signed: int
    unsigned: int


def check(entries: Iterable[Entry], *, site: str) -> Decisions:
    """Check each signature under a campaign's decision: it fits, is over that decision, and counted once.

    Args:
        entries: of the site's log, whose chain holds.
        site: its name.

    Raises:
        VerificationError: naming the first entry that is not as the officer signed it.
    """
    key, signed, unsigned, questions = "", 0, 0, set[str]()
    for entry in entries:
        content = entry.content
        if content.get("event") == OFFICER:
            key = str(content.get("public_key"))
        elif content.get("event") == CAMPAIGN and "officer" in content:
            statement = _statement(entry)
            _compare(entry, statement, site=site, key=key)
            if statement.question in questions:
                raise VerificationError(f"Entry {entry.sequence}: the officer's signature counted before")
            questions.add(statement.question)
            signed += 1
        elif content.get("event") == CAMPAIGN and content.get("by") and not content.get("automatic"):
            unsigned += 1
    return Decisions(signed=signed, unsigned=unsigned)


def _statement(entry: Entry) -> Statement:
    try:
        found: Mapping[str, Any] = entry.content["officer"]
        return Statement.model_validate({**found, "without": tuple(found["without"])})
    except (ValidationError, KeyError, TypeError):
        raise VerificationError(f"Entry {entry.sequence}: expected the officer's statement") from None


def _compare(entry: Entry, statement: Statement, *, site: str, key: str) -> None:
    content = entry.content
    stated = (statement.site, statement.plan_hash, str(BECOMES[statement.decision]), statement.question)
    entered = (site, content.get("plan_hash"), content.get("status"), content.get("question"))
    if stated != entered:
        raise VerificationError(
            f"Entry {entry.sequence}: the officer signed another decision than was entered"
        )
    if statement.public_key != key:
        raise VerificationError(f"Entry {entry.sequence}: signed with another key than the officer's then")
    try:
        statement.verify()
    except VerificationError as error:
        raise VerificationError(f"Entry {entry.sequence}: {error}") from None
