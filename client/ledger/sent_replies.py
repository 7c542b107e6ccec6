"""What is shown of the replies that left, and whether log and receipt bear them out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord

from client.ledger import issued_receipts
from client.log import chain
from client.log import outbox as kept_replies
from client.log.outbox import Kept
from client.site import keys
from client.site.site import Site
from common import wire
from common.errors import DataError, SynofedError, VerificationError
from common.receipts import Kept as KeptReceipt
from common.wire import arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One array of a reply."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    norm: float


def found(site: Site, request_id: str) -> Kept | None:
    """A reply that is kept; ``None`` if it is damaged."""
    try:
        return kept_replies.find(site.folder, request_id)
    except VerificationError:
        return None


def row(request_id: str, kept: Kept | None) -> dict[str, object]:
    """A reply in the list."""
    if kept is None:
        return {
            "id": request_id,
            "left": "",
            "campaign": "",
            "round": "",
            "group": "",
            "bytes": "",
            "log": "damaged",
        }
    return {
        "id": request_id,
        "left": datetime.fromtimestamp(kept.written, UTC).isoformat(timespec="seconds"),
        "campaign": kept.asked.campaign,
        "round": kept.asked.server_round,
        "group": kept.asked.group,
        "bytes": wire.contents(kept.record).size_bytes,
        "log": kept.receipt.sequence,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """All that is shown of one reply.

    Attributes:
        row: as in the list.
        fields: part -> its fields.
        tensors: its arrays.
        problem: what does not fit between it, its receipt and the log; empty if all does.
        sequence: its number among those of its campaign.
    """

    row: dict[str, object]
    fields: dict[str, dict[str, object]]
    tensors: list[Tensor]
    problem: str
    sequence: int

    def as_json(self) -> dict[str, object]:
        """As JSON's types."""
        told = [{slot: getattr(tensor, slot) for slot in Tensor.__slots__} for tensor in self.tensors]
        return {**self.row, "fields": self.fields, "tensors": told, "problem": self.problem}


def rows(site: Site, *, first: int = 0, count: int | None = None) -> list[dict[str, object]]:
    """Replies that are kept, the newest first; every one that is listed is read."""
    ids = kept_replies.ids(site.folder)[first:]
    return [row(one, found(site, one)) for one in ids[:count]]


def reply(site: Site, request_id: str) -> Reply:
    """One reply.

    Raises:
        DataError: if none is kept.
        VerificationError: if its file was changed or damaged.
    """
    kept = kept_replies.find(site.folder, request_id)
    if kept is None:
        raise DataError(
            f"Expected a reply to request {request_id}, none is kept: see `synofed site outbox list`"
        )
    return Reply(
        row=row(request_id, kept),
        fields={name: dict(part) for name, part in kept.record.items() if isinstance(part, ConfigRecord)},
        tensors=tensors(kept),
        problem=problem(site, kept),
        sequence=kept.receipt.sequence,
    )


def tensors(kept: Kept) -> list[Tensor]:
    """The arrays of a reply, in its order."""
    found = []
    for name, part in kept.record.items():
        if isinstance(part, ArrayRecord):
            for key, array in part.items():
                norm = float(np.linalg.norm(arrays.read(array).astype(np.float64)))
                found.append(
                    Tensor(
                        name=f"{name}/{key}",
                        dtype=array.dtype,
                        shape=tuple(array.shape),
                        size_bytes=len(array.data),
                        norm=norm,
                    )
                )
    return found


def problem(site: Site, kept: Kept) -> str:
    """What does not fit between a reply, its receipt and the log; empty if all does."""
    receipt = kept.receipt
    try:
        ((_, place),) = issued_receipts.places(
            site.folder, [KeptReceipt(received="", public_key=keys.public_key(site.folder), receipt=receipt)]
        )
        if place is None:
            return (
                f"Reply {receipt.sequence} of its campaign is of a part of the log that was lost and settled"
            )
        entry = next(
            (e for e in chain.entries(site.folder / chain.NAME) if e.sequence == place.sequence), None
        )
    except SynofedError as error:
        return str(error)
    if entry is None:
        return f"Expected entry {place.sequence} in the log, it ends before"
    if entry.hash != place.log_head or entry.content.get("reply_hash") != receipt.reply_hash:
        return f"Entry {place.sequence} of the log is not that of this reply"
    return ""
