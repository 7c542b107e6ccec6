"""A site's folder as evidence: ledger, log, receipts, outbox, policy, plans, withdrawals. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from client.evidence import evidence_sent, rehearsed
from client.ledger import issued_receipts, ledger_check, ledger_file
from client.log import chain
from client.log.audit import CAMPAIGN, OFFICER, POLICY, REPEATED, REPLY
from client.site import keys, officer, policy_file
from client.site.policy import Policy
from client.site.site import Site
from client.state import decisions
from client.withdrawal.withdrawal import FOLDER as WITHDRAWALS
from client.withdrawal.withdrawal_statement import Statement
from common.errors import SynofedError, VerificationError
from common.hash_chain import START, Entry, Head
from common.privacy.accounting import chain as ledger_chain
from common.privacy.accounting.spending import Book
from common.privacy.audit.evidence import Answer, Approval, Cap, Check, Evidence
from common.receipts import Kept
from common.settings import Settings

NOTHING_NOTED = (
    "No receipt of the centre and no code from the paper file was given. A tail that was cut off, or ledger and log "
    "put back together to an older copy, would not show: give --receipts or --noted."
)


def read(folder: Path, kept: Iterable[Kept] = (), noted: Sequence[str] = ()) -> Evidence:
    """Read a site's folder and check what can be checked while reading.

    Args:
        folder: the site's.
        kept: receipts from the centre, of any number of runs; those of other sites are left out.
        noted: codes of earlier heads of the ledger, from paper.

    Raises:
        DataError: if there is no site.
        ConfigurationError: if ``site.toml`` cannot be used.
    """
    site = Site.open(folder)
    mine = [one for one in kept if one.receipt.site == site.name]
    checks: list[Check] = []
    ledger = _checked(
        checks,
        "ledger",
        "The ledger is whole: no entry was edited, dropped, added or moved, and each was signed by this site.",
        lambda: ledger_file.read(folder),
        lambda found: f"{found.head.sequence} entries, each with a valid signature.",
    )
    entries = ledger.entries if ledger is not None else tuple(_readable(folder))
    if ledger is not None:
        _checked(
            checks,
            "tables",
            "The ledger still knows its patients, and fits the site's own log.",
            lambda: ledger_check.check(folder),
            lambda found: (
                f"{found.patients} patients; {found.replies} entries of the log name a place in it."
            ),
        )
    _checked(
        checks,
        "log",
        "The site's log is whole.",
        lambda: issued_receipts.check(folder),
        lambda found: f"{found.head.sequence} entries, {found.replies} replies.",
    )
    checks.append(_receipts(folder, mine, noted))
    plans, answers = _plans(site), tuple(answers_of(folder))
    sent = evidence_sent.check(site, answers, plans)
    checks += sent.checks
    checks += rehearsed.check(site, answers, plans)
    _checked(
        checks, "policy", "The privacy officer signed what the site permits.", lambda: _policy(site), str
    )
    _checked(
        checks,
        "statements",
        "Every statement given to a patient who withdrew is as the site signed it.",
        lambda: _statements(folder),
        lambda count: f"{count} statements.",
    )
    return Evidence(
        site=site.name,
        source="ledger",
        public_key=_public_key(folder),
        entries=entries,
        book=Book.of(entries),
        answers=answers,
        plans=plans,
        caps=_caps(site),
        approvals=tuple(approvals_of(folder)),
        checks=tuple(checks),
        facts={**_facts(site), **sent.facts},
    )


def _readable(folder: Path) -> Iterator[Entry]:
    """Entries of a ledger before its first bad line."""
    try:
        data, head = (folder / ledger_file.NAME).read_bytes(), START
        for line in data.splitlines(keepends=True):
            (entry,) = ledger_chain.check(line, public_key=_public_key(folder), after=head).entries
            yield entry
            head = Head(sequence=entry.sequence, hash=entry.hash)
    except (SynofedError, OSError, ValueError):
        return


def entries(folder: Path) -> Iterator[Entry]:
    """Entries of a site's log up to the first that is none."""
    try:
        yield from chain.entries(folder / chain.NAME)
    except SynofedError:
        return


def _checked(
    checks: list[Check],
    name: str,
    claim: str,
    look: Callable[[], Any],
    told: Callable[[Any], str],
) -> Any:
    try:
        found = look()
    except SynofedError as error:
        checks.append(Check(name=name, claim=claim, verdict="fails", found=str(error)))
        return None
    checks.append(Check(name=name, claim=claim, verdict="holds", found=told(found)))
    return found


def _receipts(folder: Path, kept: Sequence[Kept], noted: Sequence[str]) -> Check:
    name, claim = "receipts", "Ledger and log hold everything that the centre, and paper, know of them."
    try:
        logged = issued_receipts.check(folder, kept)
        booked = ledger_check.check(folder, kept, noted)
    except SynofedError as error:
        return Check(name=name, claim=claim, verdict="fails", found=str(error))
    if not kept and not noted:
        return Check(name=name, claim=claim, verdict="open", found=NOTHING_NOTED)
    found = (
        f"{logged.receipts} receipts of the centre stand in the log, {booked.receipts} of them name a place in the "
        f"ledger; {len(noted)} codes from paper."
    )
    if logged.settled:
        found += (
            f" {logged.settled} receipts are of what a restored backup had lost; it was booked again to "
            f"everybody who "
            f"may have taken part."
        )
    return Check(name=name, claim=claim, verdict="holds", found=found)


def answers_of(folder: Path) -> Iterator[Answer]:
    """The answers to rounds that a log tells of, up to its first bad line."""
    for entry in entries(folder):
        content: dict[str, Any] = dict(entry.content)
        if content.get("event") not in (REPLY, REPEATED) or not content.get("server_round"):
            continue
        yield Answer(
            sequence=entry.sequence,
            time=str(content["time"]),
            campaign=str(content["campaign"]),
            plan_hash=str(content["plan_hash"]),
            request_id=str(content["request_id"]),
            server_round=int(content["server_round"]),
            group=str(content["group"]),
            reply_hash=str(content["reply_hash"]),
            reply_bytes=int(content["reply_bytes"]),
            ledger_sequence=int(content.get("ledger_sequence", 0)),
            version=str(content.get("version", "")),
            repeated=content["event"] == REPEATED,
        )


def _plans(site: Site) -> dict[str, Settings]:
    """All plans that are kept and fit their hash."""
    found: dict[str, Settings] = {}
    for plan_hash, state in decisions.listed(site).items():
        try:
            found[plan_hash] = decisions.plan(site, plan_hash, name=state.names[-1])
        except SynofedError:
            continue  # what was answered under it is told as a reply without a plan
    return found


def caps_of(folder: Path) -> Iterator[Cap]:
    """The caps that a log tells of, up to its first bad line."""
    for entry in entries(folder):
        policy = entry.content.get("policy")
        if entry.content.get("event") == POLICY and isinstance(policy, dict):
            yield Cap(
                since=str(entry.content["time"]),
                maximum_epsilon=policy.get("maximum_epsilon"),
                delta=float(policy.get("maximum_delta", 1e-5)),
            )


def approvals_of(folder: Path) -> Iterator[Approval]:
    """The approvals of private campaigns that a log tells of, up to its first bad line."""
    for entry in entries(folder):
        budget = entry.content.get("budget")
        if entry.content.get("event") == CAMPAIGN and isinstance(budget, dict):
            yield Approval(
                plan_hash=str(entry.content["plan_hash"]),
                after=int(budget["after"]),
                epsilon=float(budget["epsilon"]),
                delta=float(budget["delta"]),
            )


def _caps(site: Site) -> tuple[Cap, ...]:
    known = tuple(caps_of(site.folder))
    maximum, delta = site.policy.maximum_epsilon, site.policy.maximum_delta
    if known and (known[-1].maximum_epsilon, known[-1].delta) == (maximum, delta):
        return known
    since = datetime.now(UTC).isoformat(timespec="seconds") if known else ""  # nothing was asked under it yet
    return (*known, Cap(since=since, maximum_epsilon=maximum, delta=delta))


def _policy(site: Site) -> str:
    """Who signed the policy; looks only: a first key is pinned elsewhere."""
    if not policy_file.enrolled(site):
        return "The site belongs to no federation yet: nobody has to sign its policy (simulations)."
    if officer.pinned(site.folder) is None:
        raise VerificationError(
            f"Expected the officer's public key at {officer.path(site.folder)}, there is none"
        )
    if next(chain.newest(site.folder / chain.NAME, "event", OFFICER), None) is None:
        raise VerificationError("Expected the site's log to tell of the officer's key, it does not")
    signature = policy_file.check(site)
    return f"Serial {signature.serial}, signed {signature.signed} with key {officer.spoken(signature.public_key)}."


def _statements(folder: Path) -> int:
    found = sorted((folder / WITHDRAWALS).glob("*.json"))
    for place in found:
        try:
            statement = Statement.model_validate_json(place.read_bytes())
        except (OSError, ValidationError):
            raise VerificationError(f"Expected a statement in {place}, got something else") from None
        statement.verify()
        if statement.public_key != _public_key(folder):
            raise VerificationError(
                f"Expected {place} to be signed with this site's key, got a different one"
            )
    return len(found)


def _public_key(folder: Path) -> str:
    return keys.public_key(folder) if keys.path(folder).exists() else ""


def _beside_updates(policy: Policy) -> tuple[str, ...]:
    tables = ("tables of held-out patients, once per campaign",) if policy.federated_evaluation else ()
    return (*policy.metrics, *tables)


def _facts(site: Site) -> dict[str, str]:
    policy = site.policy
    signed = "not enrolled" if not policy_file.enrolled(site) else "signed by the privacy officer"
    cap = "no private release" if policy.maximum_epsilon is None else f"epsilon {policy.maximum_epsilon:g}"
    return {
        "Cap of the policy": f"{cap} at delta {policy.maximum_delta:g}, {signed}",
        "May leave beside updates": ", ".join(_beside_updates(policy)) or "nothing",
        "Training without privacy": "permitted" if policy.allow_unprotected else "not permitted",
        "Fewest patients behind a number": str(policy.minimum_cohort),
        "Replies are kept": f"{policy.keep_outbox_days} days" if policy.keep_outbox_days else "not at all",
    }
