"""Signatures under decisions are checked whenever the log is: one that was moved or made up is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.consent import deciding
from client.consent.deciding import Decision
from client.log import chain
from client.officer import asking, logged
from client.officer.logged import Decisions
from client.site.site import Site
from common.errors import VerificationError
from common.hash_chain import Entry
from tests import officers


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """One campaign approved by the officer's key, another by a command."""
    made = officers.signed(tmp_path / "north")
    first, second = officers.waiting(made), officers.waiting(made, rounds=2)
    asking.about_campaign(Site.open(made), first, Decision.APPROVE)
    officers.answered(made)
    asking.settle(made)
    deciding.take(Site.open(made), second, Decision.APPROVE, by="somebody")
    return made


def entries(site: Path) -> list[Entry]:
    return list(chain.entries(site / chain.NAME))


def test_signed_and_other_decisions_are_told_apart(site: Path) -> None:
    assert logged.check(entries(site), site=Site.open(site).name) == Decisions(signed=1, unsigned=1)


def change(entry: Entry, by: Callable[[dict[str, Any]], None]) -> Entry:
    content = json.loads(json.dumps(dict(entry.content)))
    by(content)
    return Entry(sequence=entry.sequence, hash=entry.hash, content=content)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (lambda c: c.update(plan_hash="0" * 64), "another decision"),
        (lambda c: c.update(status="left"), "another decision"),
        (lambda c: c["officer"].update(decision="leave"), "another decision"),
        (lambda c: c["officer"].update(campaign="other"), "does not fit"),
        (lambda c: c["officer"].update(signature="00" * 64), "does not fit"),
        (lambda c: c["officer"].update(public_key=officers.public(officers.OTHER)), "another key"),
        (lambda c: c["officer"].pop("signed"), "expected the officer's statement"),
        (lambda c: c.update(officer="yes"), "expected the officer's statement"),
    ],
)
def test_a_statement_that_is_not_over_its_entry_is_found(
    site: Path, by: Callable[[dict[str, Any]], None], expected: str
) -> None:
    changed = [change(e, by) if "officer" in e.content else e for e in entries(site)]
    with pytest.raises(VerificationError, match=expected):
        logged.check(changed, site=Site.open(site).name)


def test_a_signature_counts_once(site: Path) -> None:
    twice = [*entries(site), *(entry for entry in entries(site) if "officer" in entry.content)]
    with pytest.raises(VerificationError, match="counted before"):
        logged.check(twice, site=Site.open(site).name)
