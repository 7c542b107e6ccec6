"""A run's folder as evidence: what the centre promised, and what each site signed. Nothing is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import receipts
from common.errors import SynofedError, VerificationError
from common.methods.rounds import longest_stage_rounds
from common.privacy.accounting import chain, of_plan
from common.privacy.accounting.chain import Entry
from common.privacy.accounting.spending import Book, UnboundedRelease
from common.privacy.audit.claims import some
from common.privacy.audit.evidence import Answer, Check, Evidence
from common.privacy.planning.private_steps import kind, steps_per_round
from common.receipts import Kept, Receipt
from common.sections.privacy import PrivacySettings
from common.settings import Settings
from server.runs.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvidence:
    """What is known of one run.

    Attributes:
        name: of the run.
        settings: its configuration.
        plan_hash: of its plan.
        status: how it ended.
        sites: as their receipts show them, in the order of their names.
        receipts: of all sites.
        checks: of the run as a whole.
        facts: what else the report tells, label -> text.
    """

    name: str
    settings: Settings
    plan_hash: str
    status: str
    sites: tuple[Evidence, ...]
    receipts: tuple[Kept, ...]
    checks: tuple[Check, ...]
    facts: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path) -> RunEvidence:
    """Read a run's folder.

    Raises:
        ConfigurationError: if it is no run's folder.
    """
    run = RunFolder(folder)
    manifest, settings = run.manifest(), run.settings()
    plan_hash = settings.plan_hash()
    kept: list[Kept] = []
    sites = []
    for path in sorted((folder / "receipts").glob("*.jsonl")):
        found, check = _receipts(path, plan_hash)
        kept += found
        sites.append(_site(path.stem, found, settings, check))
    checks = [_plan(str(manifest.get("plan_hash")), plan_hash), _participants(folder, kept)]
    return RunEvidence(
        name=str(manifest.get("name", folder.name)),
        settings=settings,
        plan_hash=plan_hash,
        status=str(manifest.get("status", "")),
        sites=tuple(sites),
        receipts=tuple(kept),
        checks=tuple(checks),
        facts=_facts(folder, manifest),
    )


def _receipts(path: Path, plan_hash: str) -> tuple[list[Kept], Check]:
    """A site's receipts up to the first bad line, and what became of them."""
    claim = "Each reply came with a receipt that this site signed, in one unbroken row."
    found: list[Kept] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            where = f"{path.name}, line {number}"
            try:
                one = receipts.parse(line)
                receipts.verify(one.receipt, one.public_key)
            except VerificationError as error:
                raise VerificationError(f"{where}: {error}") from None
            _fits(one, found, plan_hash=plan_hash, site=path.stem, where=where)
            found.append(one)
    except (SynofedError, OSError, ValueError) as error:
        return found, Check(name="receipts", claim=claim, verdict="fails", found=str(error))
    told = (
        f"{len(found)} receipts, all signed with key {found[0].public_key:.16}." if found else "No receipt."
    )
    return found, Check(name="receipts", claim=claim, verdict="holds", found=told)


def _fits(one: Kept, before: Sequence[Kept], *, plan_hash: str, site: str, where: str) -> None:
    receipt = one.receipt
    if receipt.site != site or receipt.plan_hash != plan_hash:
        raise VerificationError(
            f"{where}: expected a receipt of {site} for this run's plan, got one for a different plan"
        )
    for other in before:
        if other.public_key != one.public_key:
            raise VerificationError(f"{where}: another key signed it than the lines before")
        if _contradict(receipt, other.receipt):
            raise VerificationError(
                f"{where}: it contradicts an earlier receipt: two copies of the site's folder were at work, or an "
                f"older one was put back"
            )


def _contradict(one: Receipt, other: Receipt) -> bool:
    """Whether two receipts cannot both be of one log and one ledger."""
    if one.sequence == other.sequence:
        return one.log_head != other.log_head
    if one.ledger_sequence == other.ledger_sequence:
        return one.ledger_head != other.ledger_head
    later, earlier = (one, other) if one.sequence > other.sequence else (other, one)
    return later.ledger_sequence < earlier.ledger_sequence


def _site(name: str, kept: Sequence[Kept], settings: Settings, check: Check) -> Evidence:
    ordered = sorted(kept, key=lambda one: one.receipt.sequence)
    answers = tuple(_answer(one) for one in ordered if one.receipt.server_round)
    plan_hash = settings.plan_hash()
    entries = tuple(_entries(answers, settings))
    return Evidence(
        site=name,
        source="receipts",
        public_key=kept[0].public_key if kept else "",
        entries=entries,
        book=Book.of(entries),
        answers=answers,
        plans={plan_hash: settings},
        caps=(),
        checks=(check, _advanced(ordered, settings)),
    )


def _answer(one: Kept) -> Answer:
    receipt = one.receipt
    return Answer(
        sequence=receipt.sequence,
        time=one.received,
        campaign=receipt.campaign,
        plan_hash=receipt.plan_hash,
        request_id=receipt.request_id,
        server_round=receipt.server_round,
        group=receipt.group,
        reply_hash=receipt.reply_hash,
        reply_bytes=None,
        ledger_sequence=receipt.ledger_sequence,
        version=receipt.version,
    )


def _advanced(ordered: Sequence[Kept], settings: Settings) -> Check:
    """Whether a site's ledger grew by as much as it answered: signed by the site itself in every receipt."""
    claim = "The site's own ledger grew with every private answer."
    if not ordered:
        return Check(name="debits", claim=claim, verdict="holds", found="Nothing was answered.")
    private = settings.private
    last = longest_stage_rounds(settings) if private else math.inf
    start = next((one.receipt.ledger_sequence for one in ordered if not one.receipt.server_round), 0)
    answered: set[str] = set()
    for one in ordered:
        receipt = one.receipt
        if not 1 <= receipt.server_round <= last:
            continue
        answered.add(receipt.reply_hash)
        due = start + len(answered) if private else 1
        if receipt.ledger_sequence < due:
            what = "debit" if private else "booking"
            return Check(
                name="debits",
                claim=claim,
                verdict="fails",
                found=f"round {receipt.server_round} (request {receipt.request_id}): left without a {what}: "
                f"the ledger stood at entry {receipt.ledger_sequence}",
            )
    return Check(name="debits", claim=claim, verdict="holds", found=f"{len(answered)} answers.")


def _entries(answers: Sequence[Answer], settings: Settings) -> Iterator[Entry]:
    """What must stand in the ledger of a site for one patient who took part in all of it."""
    planned, seen = settings.privacy, set[str]()
    last = longest_stage_rounds(settings) if settings.private else math.inf
    new = ["a patient who took part in everything"]
    for answer in answers:
        if answer.reply_hash in seen or answer.server_round > last:
            continue
        if not settings.private and seen:
            continue  # one booking per campaign
        seen.add(answer.reply_hash)
        event, facts = chain.UNBOUNDED, _unbounded(answer)
        if planned is not None and settings.private:
            event, facts = chain.PRIVATE, _private(answer, settings, planned)
        content = {"event": event, "time": answer.time, **facts, "new": new, "eligible": [[0, 0]]}
        yield Entry(sequence=answer.sequence, hash="", content=content)
        new = []


def _private(answer: Answer, settings: Settings, planned: PrivacySettings) -> dict[str, object]:
    return of_plan.release(
        planned,
        steps_per_round(settings),
        kind=kind(settings.method),
        campaign=answer.campaign,
        plan_hash=answer.plan_hash,
        request_id=answer.request_id,
        server_round=answer.server_round,
        group=answer.group,
        version=answer.version,
    ).facts()


def _unbounded(answer: Answer) -> dict[str, object]:
    return UnboundedRelease(
        kind="update",
        campaign=answer.campaign,
        plan_hash=answer.plan_hash,
        server_round=answer.server_round,
        version=answer.version,
    ).facts()


def _plan(noted: str, plan_hash: str) -> Check:
    holds = noted == plan_hash
    return Check(
        name="plan",
        claim="The configuration that is kept is the plan that the sites agreed to.",
        verdict="holds" if holds else "fails",
        found=f"Plan {plan_hash[:16]}."
        if holds
        else f"the run's manifest names plan {noted:.16}, its configuration has {plan_hash[:16]}: one was changed",
    )


def _participants(folder: Path, kept: Sequence[Kept]) -> Check:
    """Whether every site that a round counts has signed for it."""
    claim = "Every update that was used is borne out by a receipt."
    signed = {(one.receipt.site, one.receipt.group, one.receipt.server_round) for one in kept}
    used, wrong = 0, []
    for record in _rounds(folder):
        for site in record.get("participants", []):
            used += 1
            if (site, record.get("group"), record.get("round")) not in signed:
                wrong.append(f"round {record.get('round')} used an update of {site} without a receipt")
    return Check(
        name="participants",
        claim=claim,
        verdict="fails" if wrong else "holds",
        found=some(wrong) if wrong else f"{used} updates.",
    )


def _rounds(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []
    return [record for record in found if record.get("system", "federated") == "federated"]


def _facts(folder: Path, manifest: Mapping[str, object]) -> dict[str, str]:
    facts = {
        "Started": str(manifest.get("started", "")),
        "Ended": f"{manifest.get('ended', '')} {manifest.get('status', '')}".strip(),
        "Version at the centre": str(manifest.get("synofed", "")),
    }
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return facts
    for name in ("hypertrophy", "vascularity", "combined"):
        score = metrics.get(name)
        if isinstance(score, dict) and "kappa_linear" in score:
            facts[f"Utility: {name}"] = _utility(score)
    return facts


def _utility(score: Mapping[str, object]) -> str:
    kappa = score["kappa_linear"]
    value = kappa.get("value") if isinstance(kappa, dict) else kappa
    told = f"linear kappa {value:.3f}" if isinstance(value, (int, float)) else "linear kappa not known"
    confusion = score.get("confusion")
    if isinstance(confusion, list) and len(confusion) > 2:
        for grade in range(2, len(confusion)):
            row = confusion[grade]
            if sum(row):
                told += f"; of {sum(row)} exams of grade {grade} it got {row[grade]} right"
            else:
                told += f"; no exam of grade {grade}"
    return told
