"""Chain, signatures, debits and totals, on the files of a site, a run or an evidence bundle alone."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.evidence import site_evidence
from client.ledger import ledger_head
from client.log import chain as log
from client.log.audit import CONSENT, REPLY
from client.state import decisions
from common import receipts
from common.errors import DataError, VerificationError
from common.hash_chain import Entry
from common.privacy.accounting import chain
from common.privacy.accounting.costs import worst_of
from common.privacy.accounting.spending import Book
from common.privacy.audit import claims
from common.privacy.audit.evidence import Evidence
from common.receipts import Kept
from common.settings import Settings
from server.runs.run_evidence import RunEvidence
from simulation.privacy import privacy_audit
from simulation.privacy.evidence_bundle import SALTS, SUMS
from simulation.privacy.privacy_audit import Given

TOLERANCE = 0.01
"""How far a stated epsilon may be from the recomputed one, as a share."""
MAXIMUM_BYTES = 1_000_000_000
"""Of an unpacked bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What fits.

    Attributes:
        kind: ``site``, ``run`` or ``bundle``.
        entries: of the ledger.
        receipts: that were checked.
        replies: that log or receipts tell of.
        patients: in the ledger.
        epsilon: of the patient who has spent most.
        delta: that it is at.
    """

    kind: str
    entries: int
    receipts: int
    replies: int
    patients: int
    epsilon: float
    delta: float


def verify(place: Path, given: Given) -> Verified:
    """Verify a site's folder, a run's, a bundle, or an unpacked bundle.

    Raises:
        VerificationError: naming the first thing that does not fit.
        DataError: if the place is none of these.
    """
    if place.is_file():
        with tempfile.TemporaryDirectory() as unpacked:
            _unpack(place, Path(unpacked))
            return _bundle(Path(unpacked), given)
    if (place / SUMS).is_file():
        return _bundle(place, given)
    run, evidence = privacy_audit.read(place, given)
    _raise_first(run, evidence)
    _check_stated(place, evidence)
    return _verified(
        "site" if run is None else "run", evidence, kept=len(run.receipts) if run is not None else 0
    )


def _verified(kind: str, evidence: tuple[Evidence, ...], *, kept: int) -> Verified:
    costs = []
    for one in evidence:
        delta = privacy_audit.delta_of(one)
        _, worst = worst_of(list(one.book.histories()), delta=delta)
        costs.append((worst.epsilon(delta=delta), delta))
    epsilon, delta = max(costs, default=(0.0, 1e-5))
    owned = [one for one in evidence if one.source == "ledger"]
    return Verified(
        kind=kind,
        entries=sum(len(one.entries) for one in owned),
        receipts=kept,
        replies=sum(len(one.answers) for one in evidence),
        patients=sum(len(one.book.commitments) for one in owned),
        epsilon=epsilon,
        delta=delta,
    )


def _raise_first(run: RunEvidence | None, evidence: tuple[Evidence, ...]) -> None:
    """The first thing that does not fit, of the sites before the run: that is where a bad line is named."""
    checks = [check for one in evidence for check in claims.checked(one)]
    for check in (*checks, *(run.checks if run is not None else ())):
        if check.verdict == "fails":
            raise VerificationError(check.found)


def _unpack(place: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(place.read_bytes())) as archive:
            if sum(one.file_size for one in archive.infolist()) > MAXIMUM_BYTES:
                raise DataError(f"Expected a bundle of at most {MAXIMUM_BYTES} bytes in {place}")
            archive.extractall(folder)  # zipfile keeps names inside the folder
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Expected a bundle in {place}: {error}") from None


def _bundle(folder: Path, given: Given) -> Verified:
    _check_sums(folder)
    if (folder / "config.toml").is_file():
        run, evidence = privacy_audit.read(folder, given)
        assert run is not None
        _raise_first(run, evidence)
        return _verified("bundle", evidence, kept=len(run.receipts))
    kept = tuple(_receipts(folder))
    evidence = (_site(folder, kept, given),)
    _raise_first(None, evidence)
    _check_stated(folder, evidence)
    return _verified("bundle", evidence, kept=len(kept))


def _check_sums(folder: Path) -> None:
    for number, line in enumerate((folder / SUMS).read_text(encoding="utf-8").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        place = folder / name
        if not place.is_file() or hashlib.sha256(place.read_bytes()).hexdigest() != digest:
            raise VerificationError(f"{SUMS}, line {number}: {name} is missing or was changed")


def _receipts(folder: Path) -> Iterator[Kept]:
    place = folder / "receipts.jsonl"
    public_key = _public_key(folder)
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            kept = receipts.parse(line)
            receipts.verify(kept.receipt, public_key)
        except VerificationError as error:
            raise VerificationError(f"{place.name}, line {number}: {error}") from None
        yield kept


def _site(folder: Path, kept: tuple[Kept, ...], given: Given) -> Evidence:
    """A site's evidence from its bundle; its ledger, log and receipts bear each other out."""
    place = folder / ledger_head.NAME
    data = place.read_bytes() if place.is_file() else b""
    entries = chain.check(data, public_key=_public_key(folder), name=place.name).entries if data else ()
    logged = list(log.entries(folder / log.NAME))
    for entry in logged:
        if entry.content.get("event") in (CONSENT, REPLY):
            who = f"line {entry.sequence} of {log.NAME}"
            _holds(
                entries,
                entry.content.get("ledger_sequence"),
                entry.content.get("ledger_head"),
                place.name,
                who,
            )
    salts = _salts(folder)
    for given_receipt in (one.receipt for one in kept):
        who = f"receipt {given_receipt.sequence}"
        salt = salts.get(given_receipt.plan_hash, b"")
        receipt = receipts.placed(given_receipt, salt=salt, log=logged, ledger=entries)
        if receipt is None:
            continue  # of a part that was lost, and settled since
        _holds(entries, receipt.ledger_sequence, receipt.ledger_head, place.name, who)
        _holds(logged, receipt.sequence, receipt.log_head, log.NAME, who)
    for code in given.noted:
        sequence, digits = chain.heard(code)
        _holds(entries, sequence, digits, place.name, f"the note {code}")
    answers = tuple(site_evidence.answers_of(folder))
    return Evidence(
        site=str(json.loads((folder / "policy.json").read_bytes())["site"]),
        source="ledger",
        public_key=_public_key(folder) if data else "",
        entries=entries,
        book=Book.of(entries),
        answers=answers,
        plans=_plans(folder, {answer.plan_hash: answer.campaign for answer in answers}),
        caps=tuple(site_evidence.caps_of(folder)),
        approvals=tuple(site_evidence.approvals_of(folder)),
        checks=(),
    )


def _salts(folder: Path) -> dict[str, bytes]:
    """Plan hash -> salt of its receipts; none in bundles of before receipts were salted."""
    try:
        content = json.loads((folder / SALTS).read_bytes())
        return {str(plan_hash): bytes.fromhex(salt) for plan_hash, salt in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        raise VerificationError(f"Expected the salts of receipts in {SALTS}, got something else") from None


def _holds(
    entries: tuple[Entry, ...] | list[Entry], sequence: object, digits: object, name: str, who: str
) -> None:
    if not isinstance(sequence, int) or not sequence:
        return
    if sequence > len(entries):
        raise VerificationError(f"{name} ends with line {len(entries)}, {who} knows line {sequence}: cut off")
    if not entries[sequence - 1].hash.startswith(str(digits)):
        raise VerificationError(f"{name}, line {sequence}: is not the one that {who} knows")


def _plans(folder: Path, names: dict[str, str]) -> dict[str, Settings]:
    found = {}
    for place in sorted((folder / "plans").glob("*.json")):
        text = place.read_bytes()
        if hashlib.sha256(text).hexdigest() != place.stem:
            raise VerificationError(f"plans/{place.name} was changed: it does not fit its hash")
        found[place.stem] = decisions.understood(text, name=names.get(place.stem, place.stem[:12]))
    return found


def _public_key(folder: Path) -> str:
    try:
        return (folder / "public_key.txt").read_text(encoding="utf-8").strip()
    except OSError:
        raise VerificationError("Expected the site's key in public_key.txt, there is none") from None


def _check_stated(folder: Path, evidence: tuple[Evidence, ...]) -> None:
    """Whether a report beside the evidence, if it is about this ledger, says what the ledger adds up to."""
    try:
        report = json.loads((folder / "privacy_report.json").read_text(encoding="utf-8"))
        stated = {one["ledger_head"]: one["spending"]["total"] for one in report["sites"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    for one in evidence:
        head = one.entries[-1].hash if one.entries else None
        if one.source == "ledger" and head in stated:
            told, delta = float(stated[head]["epsilon"]), float(stated[head]["delta"])
            _, worst = worst_of(list(one.book.histories()), delta=delta)
            found = worst.epsilon(delta=delta)
            if abs(found - told) > TOLERANCE * max(1.0, found):
                raise VerificationError(
                    f"privacy_report.json says epsilon {told:.3f}, the ledger adds up to {found:.3f}"
                )
