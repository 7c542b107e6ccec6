"""Whether log and ledger were put back to an older copy, as the site's own receipts show, and the way out of it.

A backup winds log and ledger back together, and alone the site cannot see it. The centre keeps the highest receipt of
every campaign and sends it with each plan. A receipt that the site signed, and that its files do not bear out, stops
everything that spends (code ``behind``) until its privacy officer has settled it: what receipts prove, and the ledger
has lost, is debited to everybody who may have taken part, for receipts name nobody. What was not signed with the
site's own key changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.files import atomic
from client.ledger import ledger_head
from client.log import chain
from client.site import keys
from client.site.site import Site
from client.state import decisions
from common import receipts
from common.errors import BehindError, DataError, SynofedError, VerificationError
from common.hash_chain import Entry
from common.receipts import RECONCILED, Kept, Receipt
from common.settings import Settings

NAME = "owed.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What one receipt proves and the ledger has lost.

    Attributes:
        receipt: the site's own.
        debits: private steps of its campaign; of one without differential privacy 1.
    """

    receipt: Receipt
    debits: int


def meet(site: Site, known: Iterable[Receipt]) -> None:
    """Hold log and ledger against receipts that the centre sent; what they do not bear out is noted, and stops.

    Raises:
        BehindError: if they were put back to an older copy, now or earlier, and nobody has settled it.
        StorageError: if it cannot be noted.
        VerificationError: if the log is damaged.
    """
    found = _behind(site, known)
    if found:
        key = keys.public_key(site.folder)
        noted = {one.plan_hash: one for one in _noted(site.folder)} | {one.plan_hash: one for one in found}
        lines = [
            receipts.dump(Kept(received="", public_key=key, receipt=one)) + "\n" for one in noted.values()
        ]
        atomic.write(_path(site.folder), "".join(lines).encode())
    refuse(site.folder)


def refuse(folder: Path) -> None:
    """Spend nothing while something is owed.

    Raises:
        BehindError: if something is.
    """
    if _path(folder).exists():
        raise BehindError(
            f"Expected log and ledger to hold what this site has signed: an older copy of {folder} was put back. "
            f"Nothing is spent until the privacy officer has settled it with `synofed site ledger reconcile {folder}`"
        )


def owed(site: Site, given: Iterable[Receipt] = (), *, whole: bool = False) -> tuple[Owed, ...]:
    """What receipts prove and the ledger has lost.

    Args:
        site: the site.
        given: further receipts of this site, for example a run's.
        whole: take nothing that the ledger has of these campaigns for part of it: for a site that went on releasing
            between the restored backup and the next plan.
    """
    highest: dict[str, Receipt] = {}
    for receipt in (*_noted(site.folder), *_behind(site, given)):
        before = highest.get(receipt.plan_hash)
        if before is None or receipt.sequence > before.sequence:
            highest[receipt.plan_hash] = receipt
    ledger = _ledger(site.folder)
    return tuple(Owed(receipt=one, debits=_lost(site, one, ledger, whole=whole)) for one in highest.values())


def settings_of(site: Site, one: Owed, plans: Mapping[str, bytes]) -> Settings:
    """The plan whose debits were lost: kept here, or given as a file.

    Raises:
        DataError: if it is neither.
    """
    plan_hash, name = one.receipt.plan_hash, one.receipt.campaign
    if plan_hash in plans:
        return decisions.understood(plans[plan_hash], name=name)
    try:
        return decisions.plan(site, plan_hash, name=name)
    except SynofedError:
        raise DataError(
            f"Expected the plan of campaign {plan_hash[:12]} ({name}), which the older copy does not know: ask the "
            f"centre for it and give it with --plan FILE"
        ) from None


def settle(site: Site, found: Iterable[Owed]) -> None:
    """Note in the log that everything owed was booked, so that numbers go on above those of the receipts.

    Raises:
        StorageError: if it cannot be written.
    """
    path, end = site.folder / chain.NAME, ledger_head.head(site.folder)
    for one in found:
        facts = {
            "campaign": one.receipt.campaign,
            "plan_hash": one.receipt.plan_hash,
            "debits": one.debits,
            "ledger_sequence": end.sequence,
            "ledger_head": end.hash,
        }
        chain.append_numbered(
            path, RECONCILED, facts, name="plan_hash", counted=(), least=one.receipt.sequence
        )
    _path(site.folder).unlink(missing_ok=True)
    atomic.sync(site.folder)


def _behind(site: Site, known: Iterable[Receipt]) -> list[Receipt]:
    if not keys.path(site.folder).exists():
        return []
    own = [one for one in known if _is_own(one, keys.public_key(site.folder))]  # also under an earlier name
    if not own:
        return []
    log, ledger = list(chain.entries(site.folder / chain.NAME)), _ledger(site.folder)
    return [one for one in own if not _is_held(site, one, log, ledger)]


def _is_own(receipt: Receipt, public_key: str) -> bool:
    try:
        receipts.verify(receipt, public_key)
    except VerificationError:
        return False
    return True


def _is_held(site: Site, receipt: Receipt, log: list[Entry], ledger: list[Entry]) -> bool:
    salt = ledger_head.salt(site.folder, receipt.plan_hash)
    try:
        place = receipts.placed(receipt, salt=salt, log=log, ledger=ledger)
    except VerificationError:
        return False
    if place is None or receipt.format > 1:
        return True
    settled = [
        e for e in log if e.content["event"] == RECONCILED and e.content["plan_hash"] == receipt.plan_hash
    ]
    return bool(settled) or (
        _holds(log, place.sequence, place.log_head)
        and _holds(ledger, place.ledger_sequence, place.ledger_head)
    )


def _holds(entries: list[Entry], sequence: int, digits: str) -> bool:
    return sequence == 0 or (sequence <= len(entries) and entries[sequence - 1].hash == digits)


def _lost(site: Site, receipt: Receipt, ledger: list[Entry], *, whole: bool) -> int:
    told = receipt.ledger_sequence
    booked = list(receipts.debits(ledger, receipt.plan_hash))
    if any(e.content.get("kind") == RECONCILED and (c >= told or receipt.format == 1) for c, e in booked):
        return 0  # cut short after it was booked
    if receipt.format == 1:  # it counts the entries of all campaigns, and does not say whose they were
        if _holds(ledger, told, receipt.ledger_head):
            return 0
        return told if whole or len(ledger) >= told else told - len(ledger)
    salt = ledger_head.salt(site.folder, receipt.plan_hash)
    if any(c == told and receipts.salted(salt, e.hash) == receipt.ledger_head for c, e in booked):
        return 0
    count = booked[-1][0] if booked else 0
    return told if whole or count >= told else told - count


def _ledger(folder: Path) -> list[Entry]:
    return list(chain.entries(folder / ledger_head.NAME))


def _noted(folder: Path) -> list[Receipt]:
    try:
        lines = _path(folder).read_text(encoding="utf-8").splitlines()
        return [receipts.parse(line).receipt for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"Expected receipts in {_path(folder)}: {error}") from None


def _path(folder: Path) -> Path:
    return folder / NAME
