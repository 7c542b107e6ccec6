"""The file of the site's privacy ledger: one lock, one end, on disk before anything leaves.

``<site folder>/ledger.jsonl`` holds the lines of :mod:`common.privacy.accounting.chain`. Whoever adds to it is
alone among all threads and processes, reads all of it first, and finds it changed where it was. What a crash left
of a last line is removed by the next entry, which says so: nothing can have left for it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from client.ledger.ledger_head import FOLDER, NAME, secret_path, site_secret
from client.log import chain as log
from client.log.audit import REPLY
from client.site import keys
from common import hash_chain
from common.errors import StorageError, VerificationError
from common.machine import atomic, file_lock
from common.privacy.accounting import chain
from common.privacy.accounting.chain import START, Chain, Entry, Head
from common.privacy.accounting.spending import Book
from common.version import VERSION

__all__ = ["FOLDER", "NAME", "Ledger", "opened", "probe", "read", "secret_hash", "site_secret"]


@dataclass(slots=True, kw_only=True)
class Ledger:
    """An opened ledger; its file is locked for as long as it is open.

    Attributes:
        folder: the site's.
        book: what its entries add up to.
        head: where it ends.
    """

    folder: Path
    book: Book = field(default_factory=Book)
    head: Head = START
    _size_bytes: int = 0
    _last_bytes: int = 0
    _inode: int = -1
    _descriptor: int = -1

    def add(self, event: str, facts: Mapping[str, object]) -> Entry:
        """Add an entry; it is on disk when this returns.

        Raises:
            StorageError: if it cannot be written; then nothing of it stays.
        """
        key = keys.signing_key(self.folder)
        lines: list[bytes] = []
        last = self.head
        if last.torn_bytes and last.sequence:  # of a first line that was cut short there is nothing to tell
            torn = os.pread(self._descriptor, last.torn_bytes, self._size_bytes)
            found = hash_chain.torn_facts(torn)
            lines.append(chain.line(chain.REPAIRED, found, last=last, time=_now(), key=key))
            last = last.after(lines[0])
        lines.append(chain.line(event, facts, last=last, time=_now(), key=key))
        written = b"".join(line + b"\n" for line in lines)
        self._write(written)
        return self._take(written)[-1]

    def _write(self, written: bytes) -> None:
        try:
            os.ftruncate(self._descriptor, self._size_bytes)
            atomic.append(self._descriptor, written)
            if self._size_bytes == 0:
                atomic.sync(self.folder)
        except OSError as error:
            raise StorageError(
                f"The privacy ledger {self.folder / NAME} cannot be written, so nothing leaves: {error.strerror}"
            ) from None

    def _take(self, data: bytes) -> tuple[Entry, ...]:
        found = _checked(self.folder, data, after=self.head)
        for entry in found.entries:
            self.book.add(entry)
        if found.entries:
            last = data[: found.size_bytes - 1].rpartition(b"\n")[2]
            self._last_bytes = len(last) + 1
        self.head = found.head
        self._size_bytes += found.size_bytes
        return found.entries

    def _catch_up(self, descriptor: int) -> bool:
        """Read what others have added since; ``False``: what was read before is gone."""
        state = os.fstat(descriptor)
        if state.st_ino != self._inode or state.st_size < self._size_bytes:
            return False
        last = os.pread(descriptor, self._last_bytes, self._size_bytes - self._last_bytes)
        if hashlib.sha256(last[:-1]).hexdigest() != self.head.hash:
            return False
        self._take(os.pread(descriptor, state.st_size - self._size_bytes, self._size_bytes))
        return True

    def _is_of_present_site(self) -> bool:
        """Whether the folder is still the site's: a simulation may have made another in its place."""
        return bool(self.book.opened["secret"] == secret_hash(site_secret(self.folder)))

    def _read(self, descriptor: int, *, holding: Head) -> None:
        """Read all of it; what was known of it before must still be there."""
        probe(self.folder)
        state = os.fstat(descriptor)
        self._inode, self._descriptor = state.st_ino, descriptor
        entries = self._take(os.pread(descriptor, state.st_size, 0))
        _check_holds(self.folder, entries, holding, who="this process")
        _check_log(self.folder, entries)
        if not entries:
            _check_new(self.folder)
            secret = site_secret(self.folder)
            public_key = keys.public_key(self.folder)
            facts = {"version": VERSION, "public_key": public_key, "secret": secret_hash(secret)}
            self.add(chain.OPENED, facts)
        elif not self._is_of_present_site():
            raise VerificationError(
                f"Expected the secret of the ledger in {secret_path(self.folder)}, got another: without it no "
                f"patient can be found again; restore it from a backup"
            )


_known: dict[Path, Ledger] = {}


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """A site's ledger, for one at a time; made where there is none.

    Raises:
        StorageError: if it cannot be written, or its folder cannot lock or keep it.
        VerificationError: if it was changed, or an older copy was put back, as far as the site itself can see.
    """
    folder = folder.resolve()
    place = folder / NAME
    try:
        file = file_lock.hold(place)
    except OSError as error:
        raise StorageError(
            f"The privacy ledger {place} cannot be opened and locked: {error.strerror}"
        ) from None
    with file:
        descriptor = file.fileno()
        ledger = _known.pop(folder, None)
        if ledger is None or not ledger._catch_up(descriptor):
            before = ledger.head if ledger is not None and ledger._is_of_present_site() else START
            ledger = Ledger(folder=folder)
            ledger._read(descriptor, holding=before)
        ledger._descriptor = descriptor
        yield ledger
        _known[folder] = ledger


def read(folder: Path) -> Chain:
    """All of a site's ledger, checked; an empty one where there is none. Nothing is written.

    Raises:
        StorageError: if it cannot be read.
        VerificationError: naming the first bad line.
    """
    try:
        data = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return Chain(entries=(), head=START, size_bytes=0)
    except OSError as error:
        raise StorageError(f"The privacy ledger {folder / NAME} cannot be read: {error.strerror}") from None
    return _checked(folder, data, after=START)


def probe(folder: Path) -> None:
    """Whether a folder's files can be locked and brought to the disk; network file systems often cannot.

    Raises:
        StorageError: if not: two processes could both spend the last of a budget, or a crash forget what was spent.
    """
    place = folder / f".{FOLDER}-{secrets.token_hex(4)}"
    try:
        with file_lock.hold(place, wait=False) as file:
            try:
                excludes = file_lock.is_held(place)
            finally:
                place.unlink()
            os.fsync(file.fileno())
            atomic.sync(folder)
    except OSError as error:
        raise StorageError(
            f"Expected {folder} to be on a disk that locks files and keeps them (fsync): {error.strerror}. Move the "
            f"site's folder to a local disk"
        ) from None
    if not excludes:
        raise StorageError(
            f"Expected a lock in {folder} to keep others out, it does not: two processes could both spend the last "
            f"of a patient's budget. Move the site's folder to a local disk"
        )


def secret_hash(secret: bytes) -> str:
    """What the first entry says of the secret, so that another one is not taken for it."""
    return hashlib.sha256(b"synofed ledger secret 1\n" + secret).hexdigest()


def _checked(folder: Path, data: bytes, *, after: Head) -> Chain:
    if b"\n" not in data:
        torn = Head(sequence=after.sequence, hash=after.hash, torn_bytes=len(data))
        return Chain(entries=(), head=torn, size_bytes=0)
    if not keys.path(folder).exists():
        raise VerificationError(
            f"Expected the key of the ledger at {keys.path(folder)}: restore it from a backup"
        )
    return chain.check(data, public_key=keys.public_key(folder), after=after, name=str(folder / NAME))


def _check_new(folder: Path) -> None:
    """A ledger may begin, but never begin again."""
    beside = [name for name in ("patients.json", "withdrawn.json") if (folder / FOLDER / name).exists()]
    if beside:
        raise VerificationError(
            f"Expected the ledger {folder / NAME}, there is none, but {folder / FOLDER / beside[0]}: it was removed; "
            f"restore it from a backup"
        )


def _check_log(folder: Path, entries: Sequence[Entry]) -> None:
    """The site's log tells where the ledger was when a reply left last."""
    last = next(log.newest(folder / log.NAME, "event", REPLY), None)
    if last is None:
        return
    sequence, hash_ = last.content.get("ledger_sequence"), last.content.get("ledger_head")
    if isinstance(sequence, int):
        noted = Head(sequence=sequence, hash=str(hash_))
        _check_holds(folder, entries, noted, who=f"entry {last.sequence} of the site's log")


def _check_holds(folder: Path, entries: Sequence[Entry], noted: Head, *, who: str) -> None:
    if noted.sequence and (noted.sequence > len(entries) or entries[noted.sequence - 1].hash != noted.hash):
        raise VerificationError(
            f"{folder / NAME} does not hold entry {noted.sequence} as {who} knows it: an older copy was put back, or "
            f"the ledger was written anew; restore the newest"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
