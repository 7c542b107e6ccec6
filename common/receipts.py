"""Receipts: what a site signs about every reply that leaves it, and how anybody checks it.

A receipt names the request, the hash of what left, and the place of the reply in the site's own log. Whoever
holds receipts can therefore tell later whether that log was shortened, rewritten or put back from a copy.

Since format 2 a receipt tells of its own campaign alone: it counts the campaign's replies and debits, and its heads
are
salted for the campaign (:func:`salted`). With one counter for all, somebody who withdrew, or another study, showed
as a
gap. The site can show the salts later, and then anybody can hold receipts against log and ledger (:func:`placed`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace

from common import signed_json
from common.errors import UpdateError, VerificationError
from common.hash_chain import Entry

ENSEMBLE = "ensemble"
"""The group of the receipt by which a site acknowledges its ensemble."""
EVALUATION = "evaluation"
"""The group of the receipts of what a site tells of an ensemble on its held-out patients."""
RECONCILED = "reconciled"
"""Event of the site's log: what receipts prove and log and ledger had lost was booked."""
SUM = "sum"
"""Begins the group of receipts of those phases of a secure sum into which no patient's data go."""
DOMAINS = {1: b"synofed receipt 1\n", 2: b"synofed receipt 2\n"}
"""Format -> what stands before what is signed, so that a signature can never pass for one over something else."""
HEAD = b"synofed head 1\n"
"""Stands before a salt and a hash of which a receipt tells."""
NOTHING = "0" * 64
"""The head of a chain in which nothing stands yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a site says about one reply.

    Attributes:
        site: the site's name.
        campaign: the campaign's name.
        plan_hash: the plan that the site agreed to.
        request_id: the request that was answered.
        server_round: its round of training; 0 where nothing was trained.
        group: its group of networks; empty for the answer to a plan, :data:`ENSEMBLE` for an acknowledgement,
            :data:`EVALUATION` for tables of held-out patients, and begun with :data:`SUM` for a phase of a secure
            sum without patients' data.
        reply_hash: SHA-256 over all that the reply holds, as encoded.
        sequence: number of the reply among those of its campaign in the site's log, from 1; in format 1 of its entry.
        log_head: salted hash of that entry, which covers all entries before it; in format 1 the hash.
        policy_hash: keyed hash of the site's policy at that moment; tells others only whether it changed.
        version: the site's version of synofed.
        ledger_sequence: private steps that the site's privacy ledger had booked for the campaign; without
            differential
            privacy 1, once it is booked; 0: nothing. In format 1 the number of the ledger's last entry.
        ledger_head: salted hash of the entry that booked the last of them; in format 1 the hash of the last entry.
        signature: Ed25519 over :func:`payload`, in hex; empty before it is signed.
        format: 1 is read, 2 is written.
    """

    site: str
    campaign: str
    plan_hash: str
    request_id: str
    server_round: int
    group: str
    reply_hash: str
    sequence: int
    log_head: str
    policy_hash: str
    version: str
    ledger_sequence: int = 0
    ledger_head: str = NOTHING
    signature: str = ""
    format: int = 2


FIELDS: Mapping[str, type] = {
    field.name: int if field.name in ("server_round", "sequence", "ledger_sequence", "format") else str
    for field in fields(Receipt)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A receipt as the centre keeps it, one line of ``receipts/<site>.jsonl``.

    Attributes:
        received: when it came, ISO 8601.
        public_key: the key that it was checked with, in hex.
        receipt: the receipt.
    """

    received: str
    public_key: str
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a reply holds, but for its receipt.

    Attributes:
        hash: SHA-256 over names, numbers and arrays as encoded, in hex.
        size_bytes: of the arrays.
    """

    hash: str
    size_bytes: int

    @classmethod
    def of(cls, parts: Iterable[tuple[object, bytes]]) -> Contents:
        """Hash parts in their order, each a header of JSON's types and bytes; bytes are not copied.

        Both go in with their lengths, so that no two contents give the same stream.

        Raises:
            UpdateError: if a header holds something else.
        """
        digest, size_bytes = hashlib.sha256(), 0
        for header, data in parts:
            for part in (json.dumps(header, sort_keys=True, default=_refuse).encode(), data):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
            size_bytes += len(data)
        return cls(hash=digest.hexdigest(), size_bytes=size_bytes)


def payload(receipt: Receipt) -> bytes:
    """The bytes that are signed: all fields but the signature, as canonical JSON; format 1 did not name itself.

    Raises:
        VerificationError: for a format that is not known.
    """
    if receipt.format not in DOMAINS:
        raise VerificationError(f"Expected a receipt of format {sorted(DOMAINS)}, got {receipt.format}")
    content = asdict(receipt)
    del content["signature"]
    if receipt.format == 1:
        del content["format"]
    return DOMAINS[receipt.format] + signed_json.canonical(content).encode()


def verify(receipt: Receipt, public_key: str) -> None:
    """Check a receipt's signature.

    Args:
        receipt: the receipt.
        public_key: Ed25519, 32 bytes in hex.

    Raises:
        VerificationError: if it was not signed with that key, or was changed since.
    """
    if not signed_json.fits(receipt.signature, payload(receipt), public_key):
        raise VerificationError(
            f"Expected receipt {receipt.sequence} of {receipt.site} to be signed with key {public_key:.16}, its "
            f"signature does not fit: it was changed, or signed by somebody else"
        )


def from_fields(content: Mapping[str, object]) -> Receipt:
    """A receipt from its fields.

    Raises:
        VerificationError: if one is missing, unknown or of another type.
    """
    if "format" not in content:
        content = {**content, "format": 1}
    if set(content) != set(FIELDS):
        raise VerificationError(f"Expected a receipt with {sorted(FIELDS)}, got {sorted(content)}")
    wrong = [name for name, kind in FIELDS.items() if type(content[name]) is not kind]
    if wrong:
        raise VerificationError(f"Expected a receipt's {', '.join(wrong)} to be of other types")
    return Receipt(**content)  # type: ignore[arg-type]


def dump(kept: Kept) -> str:
    """One line of JSON, without its end."""
    content = asdict(kept)
    if kept.receipt.format == 1:
        del content["receipt"]["format"]
    return json.dumps(content, separators=(",", ":"))


def parse(line: str) -> Kept:
    """Undo :func:`dump`.

    Raises:
        VerificationError: if the line is not a receipt that was kept.
    """
    try:
        content = signed_json.parse(line)
        received, public_key = str(content["received"]), str(content["public_key"])
        return Kept(received=received, public_key=public_key, receipt=from_fields(content["receipt"]))
    except (ValueError, KeyError, TypeError):
        raise VerificationError(f"Expected a receipt that was kept, got {line:.60}") from None


def salt_of(secret: bytes, plan_hash: str) -> bytes:
    """The salt of a campaign's receipts, 32 bytes, from the secret of the site's ledger."""
    return hmac.new(secret, b"receipt\n" + plan_hash.encode(), hashlib.sha256).digest()


def salted(salt: bytes, head: str) -> str:
    """A hash as a receipt tells it, in hex: without the salt nobody can find it again elsewhere."""
    return hashlib.sha256(HEAD + salt + bytes.fromhex(head)).hexdigest()


def debits(ledger: Iterable[Entry], plan_hash: str) -> Iterator[tuple[int, Entry]]:
    """The entries of a ledger that booked something for a campaign, and how much was booked with each.

    Private steps are added up; releases without differential privacy count once, however often more patients joined.
    """
    count = 0
    for entry in ledger:
        content = entry.content
        if content.get("plan_hash") != plan_hash or "eligible" not in content:
            continue
        if "steps" in content:
            count += int(content["steps"])
        elif count:
            continue
        else:
            count = 1
        yield count, entry


def placed(receipt: Receipt, *, salt: bytes, log: Iterable[Entry], ledger: Iterable[Entry]) -> Receipt | None:
    """A receipt of format 2 with its places in log and ledger, as format 1 had them; the others as they are.

    Args:
        receipt: whose signature was checked.
        salt: of its campaign.
        log: all entries of the site's log.
        ledger: all entries of its privacy ledger.

    Returns:
        ``None`` for a receipt of a part of the log that was lost, and that somebody has settled since.

    Raises:
        VerificationError: if log or ledger do not hold what it names.
    """
    if receipt.format == 1:
        return receipt
    numbered = [entry for entry in log if entry.content.get("plan_hash") == receipt.plan_hash]
    settled = max((int(e.content["number"]) for e in numbered if e.content["event"] == RECONCILED), default=0)
    replies = [
        e
        for e in numbered
        if e.content.get("number") == receipt.sequence and e.content["event"] != RECONCILED
    ]
    booked = list(debits(ledger, receipt.plan_hash))
    at = [entry for count, entry in booked if count == receipt.ledger_sequence]
    in_log = [entry for entry in replies if salted(salt, entry.hash) == receipt.log_head]
    in_ledger = [entry for entry in at if salted(salt, entry.hash) == receipt.ledger_head]
    who = f"the centre's receipt {receipt.sequence} of campaign {receipt.plan_hash[:12]}"
    if in_log and (in_ledger or not receipt.ledger_sequence):
        return replace(
            receipt,
            sequence=in_log[-1].sequence,
            log_head=in_log[-1].hash,
            ledger_sequence=in_ledger[-1].sequence if in_ledger else 0,
            ledger_head=in_ledger[-1].hash if in_ledger else NOTHING,
        )
    if receipt.sequence <= settled and receipt.ledger_sequence <= max(
        (count for count, _ in booked), default=0
    ):
        return None
    what, found = ("the site's privacy ledger", at) if in_log else ("the site's log", replies)
    if found:
        raise VerificationError(
            f"{what}, line {found[-1].sequence}: is not the one that {who} knows: it was edited, or an older "
            f"copy was put back and written on"
        )
    raise VerificationError(
        f"{what} does not hold what {who} knows: its tail was cut off, or an older copy was put back"
    )


def _refuse(value: object) -> str:
    raise UpdateError(f"Expected text and numbers in a reply, got {type(value).__name__}")
