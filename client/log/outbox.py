"""The exact replies that left the site, kept there: ``<site folder>/outbox/<request id>.reply``.

A file is the reply's fields as JSON, its arrays as they were sent, and its receipt. It is whole, and on disk, before
the reply leaves; asked the same again, the site sends it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from client.files import atomic
from client.log.audit import Asked
from common import wire
from common.errors import DataError, StorageError, VerificationError
from common.receipts import Receipt, from_fields

MAGIC = b"synofed reply 1\n"
SUFFIX = ".reply"
REQUEST_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
RECEIPT_BYTES = 4096
"""Room for the receipt, taken together with the reply: once that is on disk, the receipt will be too."""
DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One reply of the outbox.

    Attributes:
        asked: the request that it answers.
        record: what left, without its receipt.
        receipt: what the site signed about it.
        written: when, in POSIX seconds.
    """

    asked: Asked
    record: RecordDict
    receipt: Receipt
    written: float


class Draft:
    """A reply that is on disk, but for its receipt.

    Raises:
        StorageError: if it cannot be written; nothing of it stays.
    """

    def __init__(self, site_folder: Path, asked: Asked, record: RecordDict) -> None:
        self._place = path(site_folder, asked.request_id)
        self._draft = self._place.with_name(f".{self._place.name}-{secrets.token_hex(4)}")
        header, arrays = _taken_apart(record)
        with self._writing(), self._draft_file() as file:
            file.write(MAGIC)
            for part in (json.dumps({"asked": asdict(asked), "parts": header}).encode(), *arrays):
                file.write(len(part).to_bytes(8, "big"))
                file.write(part)
            file.write(b" " * RECEIPT_BYTES)
            file.flush()
            os.fsync(file.fileno())

    def complete(self, receipt: Receipt) -> None:
        """Add the receipt; the reply is in the outbox when this returns.

        Raises:
            StorageError: if it cannot be written; nothing of the reply stays.
        """
        text = json.dumps(asdict(receipt)).encode()
        if len(text) > RECEIPT_BYTES:
            self.discard()
            raise StorageError(f"Expected a receipt of at most {RECEIPT_BYTES} bytes, got {len(text)}")
        with self._writing():
            with self._draft.open("r+b") as file:
                file.seek(-RECEIPT_BYTES, os.SEEK_END)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._draft.replace(self._place)
            atomic.sync(self._place.parent)

    def discard(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)

    def _draft_file(self) -> Any:
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        return os.fdopen(os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            raise StorageError(
                f"A reply cannot be kept in {self._place.parent}, so it does not leave: {error.strerror}. Free some "
                f"space; the centre asks again"
            ) from None


def path(site_folder: Path, request_id: str) -> Path:
    """Where the reply to a request lies.

    Raises:
        DataError: if the id cannot be a file's name.
    """
    if REQUEST_ID.fullmatch(request_id) is None:
        raise DataError("Expected a request ID of letters, digits, - and _, got something else")
    return site_folder / "outbox" / f"{request_id}{SUFFIX}"


def find(site_folder: Path, request_id: str) -> Kept | None:
    """The reply to a request; ``None`` where none is kept.

    Raises:
        VerificationError: if the file was changed or damaged.
    """
    place = path(site_folder, request_id)
    try:
        content = place.read_bytes()
        written = place.stat().st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VerificationError(f"{place} cannot be read: {error.strerror}") from None
    try:
        kept = _put_together(content, written)
    except (ValueError, KeyError, TypeError, IndexError, StopIteration, VerificationError):
        raise VerificationError(f"{place} is no longer a reply: it was changed or damaged") from None
    if kept.asked.request_id != request_id or wire.contents(kept.record).hash != kept.receipt.reply_hash:
        raise VerificationError(f"{place} does not hold what its receipt says: it was changed or damaged")
    return kept


def ids(site_folder: Path) -> list[str]:
    """The requests whose replies are kept, the newest first."""
    found = (site_folder / "outbox").glob(f"[!.]*{SUFFIX}")
    newest = sorted(found, key=lambda place: (place.stat().st_mtime, place.name), reverse=True)
    return [place.name.removesuffix(SUFFIX) for place in newest]


def prune(site_folder: Path, *, keep_days: int, now: float | None = None) -> int:
    """Remove replies older than ``keep_days``, and drafts that a crash left.

    Returns:
        How many replies were removed.
    """
    outbox = site_folder / "outbox"
    now = time.time() if now is None else now
    removed = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for place in outbox.iterdir():
            with contextlib.suppress(FileNotFoundError):
                age_s = now - place.stat().st_mtime
                draft = place.name.startswith(".")
                if age_s > (DAY_S if draft else keep_days * DAY_S):
                    place.unlink()
                    removed += not draft
    return removed


def _taken_apart(record: RecordDict) -> tuple[list[dict[str, object]], list[bytes]]:
    """A header of JSON's types, and the arrays' bytes in its order."""
    header: list[dict[str, object]] = []
    arrays: list[bytes] = []
    for name, part in record.items():
        if isinstance(part, ConfigRecord):
            header.append({"name": name, "fields": dict(part)})
        elif isinstance(part, ArrayRecord):
            facts = [[k, a.dtype, list(a.shape), a.stype] for k, a in part.items()]
            header.append({"name": name, "arrays": facts})
            arrays += [array.data for array in part.values()]
        else:
            raise DataError(f"Expected fields and arrays in a reply, got {type(part).__name__}")
    return header, arrays


def _put_together(content: bytes, written: float) -> Kept:
    if not content.startswith(MAGIC):
        raise ValueError("no reply")
    parts = _parts(memoryview(content)[len(MAGIC) : -RECEIPT_BYTES])
    header = json.loads(bytes(next(parts)))
    record = RecordDict()
    for part in header["parts"]:
        if "fields" in part:
            record[part["name"]] = ConfigRecord(part["fields"])
        else:
            record[part["name"]] = ArrayRecord(
                {
                    key: Array(dtype=dtype, shape=tuple(shape), stype=stype, data=bytes(next(parts)))
                    for key, dtype, shape, stype in part["arrays"]
                }
            )
    receipt = cast(Mapping[str, object], json.loads(content[-RECEIPT_BYTES:]))
    return Kept(asked=Asked(**header["asked"]), record=record, receipt=from_fields(receipt), written=written)


def _parts(content: memoryview) -> Iterator[memoryview]:
    while content:
        length = int.from_bytes(content[:8], "big")
        if len(content) < 8 + length:
            raise ValueError("cut short")
        yield content[8 : 8 + length]
        content = content[8 + length :]
