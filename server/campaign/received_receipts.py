"""The sites' receipts at the centre: checked against what really arrived, then kept in the run's folder.

``<run folder>/receipts/<site>.jsonl`` is what the site's own log can later be held against. A site's key is the
one that its first receipt of the run came with; whoever enrols a site compares it out of band.

``<home>/receipts/<site>/<plan hash>.jsonl`` is the highest receipt of a campaign, over all runs. The site gets them
with every plan: a backup winds its log and ledger back together, and it alone could not see that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from common import receipts
from common.errors import CampaignError, VerificationError
from common.machine import atomic
from common.messages import (
    EvaluateRequest,
    Pieces,
    PlanReply,
    PlanRequest,
    Reply,
    Signed,
    SumRequest,
    TrainRequest,
)
from common.receipts import Kept, Receipt
from common.version import VERSION

MOST_KNOWN = 1000
"""Campaigns of which a site gets its highest receipt back: the newest."""
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the receipt of a reply has to say.

    Attributes:
        fields: name -> value of the receipt's fields that the request fixes.
        above: a sequence number that the reply's must exceed.
    """

    fields: Mapping[str, str | int]
    above: int


@dataclass(slots=True, kw_only=True)
class _Book:
    """One site's receipts."""

    path: Path
    public_key: str
    last: Receipt | None = None
    """The one with the highest sequence number."""
    seen: dict[int, str] = field(default_factory=dict)
    """Sequence number -> request."""
    highest: dict[str, int] = field(default_factory=dict)
    """Group -> highest sequence number; the empty one stands for consents."""

    def add(self, receipt: Receipt) -> None:
        if self.last is None or _place(receipt) > _place(self.last):
            self.last = receipt
        if receipt.format == 1:  # of a centre before an update: its numbers counted something else
            return
        self.seen[receipt.sequence] = receipt.request_id
        self.highest[receipt.group] = max(self.highest.get(receipt.group, 0), receipt.sequence)


class Receipts:
    """All sites' receipts of one campaign.

    A reply may have waited at the site while others overtook it, so its sequence number must be new, and higher than
    those of its own group's earlier rounds. The same reply may come again: it answers the same request.
    """

    def __init__(self, run_folder: Path, *, kept: Path | None = None) -> None:
        self._folder = run_folder / "receipts"
        self._kept = kept
        self._books: dict[str, _Book] = {}

    def known(self, site: str) -> tuple[Receipt, ...]:
        """The highest receipt of each campaign that a site has signed, over all runs that are known here.

        Raises:
            VerificationError: if what is kept cannot be read.
        """
        if SITE_NAME.fullmatch(site) is None:
            return ()
        found = _highest(self._kept / site) if self._kept is not None else {}
        last = self._books[site].last if site in self._books else None
        if last is not None:
            found = {**found, last.plan_hash: last}
        return tuple(found[plan_hash] for plan_hash in sorted(found))

    def meet(self, request: PlanRequest, consent: Signed[PlanReply]) -> None:
        """Take a site's key and the receipt of its consent.

        Raises:
            CampaignError: if the site's name cannot be one.
            VerificationError: if the receipt does not fit, or contradicts those that are kept of this run.
        """
        reply = consent.reply
        if SITE_NAME.fullmatch(reply.site) is None:
            raise CampaignError(
                f"Expected a site's name of letters, digits, . _ and -, got {reply.site!r:.80}"
            )
        book = _open(self._folder / f"{reply.site}.jsonl", reply.site, reply.public_key)
        fields = _fields(reply.site, request.campaign, request.plan_hash, request.request_id)
        above = max(book.highest.values(), default=0)
        asked = Asked(fields={**fields, "server_round": 0, "group": ""}, above=above)
        _check(consent.receipt, asked, book, contents_hash=consent.contents_hash)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._keep_highest(book, consent.receipt)
        _keep(book, consent.receipt)
        self._books[reply.site] = book

    def know(self, site: str, public_key: str) -> None:
        """Take a registered site's key where its consent is not asked for again.

        Raises:
            VerificationError: if it signed with another key before in this run.
        """
        if site not in self._books:
            self._books[site] = _open(self._folder / f"{site}.jsonl", site, public_key)

    @property
    def keys(self) -> dict[str, str]:
        """Site -> key, of all that have agreed so far."""
        return {site: book.public_key for site, book in self._books.items()}

    def asked(self, site: str, request: TrainRequest | SumRequest | Pieces) -> Asked:
        """What the receipt of a site's reply to a request has to say."""
        fields = _fields(site, request.campaign, request.plan_hash, request.request_id)
        server_round = 0
        group = receipts.EVALUATION if isinstance(request, EvaluateRequest) else receipts.ENSEMBLE
        if isinstance(request, TrainRequest):
            server_round, group = request.server_round, request.group
        elif isinstance(request, SumRequest):
            server_round, group = request.place
        return Asked(
            fields={**fields, "server_round": server_round, "group": group},
            above=self._books[site].highest.get(group, 0),
        )

    def check(self, asked: Asked, signed: Signed[Reply]) -> Reply:
        """Check a reply's receipt.

        Returns:
            The reply.

        Raises:
            VerificationError: if anything does not fit.
        """
        book = self._books[str(asked.fields["site"])]
        _check(signed.receipt, asked, book, contents_hash=signed.contents_hash)
        return signed.reply

    def keep(self, signed: Signed[Reply]) -> None:
        """Keep the receipt of a reply that was checked.

        Raises:
            OSError: if it cannot be written; nothing of it is then.
        """
        book = self._books[signed.receipt.site]
        if signed.receipt.sequence not in book.seen:
            self._keep_highest(book, signed.receipt)  # first: what fails is tried again as a whole
            _keep(book, signed.receipt)

    def _keep_highest(self, book: _Book, receipt: Receipt) -> None:
        if self._kept is None:
            return
        place = self._kept / receipt.site / f"{receipt.plan_hash}.jsonl"
        known = _read(place)
        same = known is not None and known.public_key == book.public_key
        if same and known is not None and _place(known.receipt) >= _place(receipt):
            return
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write(place, f"{_dumped(book, receipt)}\n".encode(), mode=0o600)


def _fields(site: str, campaign: str, plan_hash: str, request_id: str) -> dict[str, str | int]:
    return {
        "format": 2,
        "site": site,
        "campaign": campaign,
        "plan_hash": plan_hash,
        "request_id": request_id,
        "version": VERSION,
    }


def _check(receipt: Receipt, asked: Asked, book: _Book, *, contents_hash: str) -> None:
    receipts.verify(receipt, book.public_key)
    for name, value in {**asked.fields, "reply_hash": contents_hash}.items():
        given = getattr(receipt, name)
        if given != value:
            raise VerificationError(
                f"Expected a receipt for {name} {value!r:.40}, got {given!r:.40}: the reply was changed or exchanged "
                f"on its way"
            )
    repeated = book.seen.get(receipt.sequence) == receipt.request_id
    if not repeated and (receipt.sequence <= asked.above or receipt.sequence in book.seen):
        raise VerificationError(
            f"Expected a new entry above {asked.above} in the log of {receipt.site}, got {receipt.sequence}: an "
            f"old reply was sent again, or an older copy of the site's folder was put back"
        )


def _place(receipt: Receipt) -> tuple[int, int]:
    return receipt.format, receipt.sequence


def _read(place: Path) -> Kept | None:
    return receipts.parse(place.read_text(encoding="utf-8").strip()) if place.exists() else None


def _highest(folder: Path) -> dict[str, Receipt]:
    """Plan hash -> highest receipt, of what is kept of a site over all runs; the newest campaigns."""
    places = sorted(folder.glob("*.jsonl"), key=lambda place: place.stat().st_mtime)[-MOST_KNOWN:]
    return {kept.receipt.plan_hash: kept.receipt for place in places if (kept := _read(place)) is not None}


def _open(path: Path, site: str, public_key: str) -> _Book:
    """What is kept of a site so far; a line that a crash cut short is dropped."""
    book = _Book(path=path, public_key=public_key)
    if not path.exists():
        return book
    whole, end, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        os.truncate(path, len(whole) + len(end))
    for line in whole.decode("utf-8", errors="replace").splitlines():
        kept = receipts.parse(line)
        if kept.public_key != public_key:
            raise VerificationError(
                f"Expected {site} to sign with key {kept.public_key:.16} as before in this run, got "
                f"{public_key:.16}: bring its keys/receipt.pem back, or move {path} aside if the site says "
                f"that the new key is its own"
            )
        book.add(kept.receipt)
    return book


def _keep(book: _Book, receipt: Receipt) -> None:
    atomic.append_line(book.path, _dumped(book, receipt))
    book.add(receipt)


def _dumped(book: _Book, receipt: Receipt) -> str:
    received = datetime.now(UTC).isoformat(timespec="seconds")
    return receipts.dump(Kept(received=received, public_key=book.public_key, receipt=receipt))
