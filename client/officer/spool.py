"""Where a site's questions and its officer's answers lie.

``questions/`` and ``done/`` are written by the site's account, ``answers/`` by the officer's. In the site's own
folder only its account gets there. Elsewhere the three belong to the group that both accounts are in: the officer's
may read what the site asks and put answers, and no more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from client.files import atomic, lock
from client.officer.question import Answer, Question, Settled
from client.site.site import Site
from common.errors import DataError, StorageError, refusal
from common.sections.section import Section

QUESTIONS, ANSWERS, DONE = "questions", "answers", "done"
OWN, GROUP_READS, GROUP_WRITES = 0o700, 0o2750, 0o2770
FILE_OF_OWN, FILE_OF_GROUP = 0o600, 0o640
LARGEST_BYTES = 8_000_000
"""Of a file: a plan has a million at most, and stands in it as JSON's text."""
KEPT = 50
"""Questions that were settled; the log holds what was decided."""
NO_LINK: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
Kind = TypeVar("Kind", bound=Section)


@dataclass(frozen=True, slots=True)
class Spool:
    """The files between a site and its officer.

    Attributes:
        folder: that holds them.
    """

    folder: Path

    @classmethod
    def of(cls, site: Site) -> Spool:
        """Of a site, as its ``site.toml`` says."""
        return cls(site.folder / site.file.officer.folder)

    def prepare(self, site: Site) -> None:
        """Make the folders; those outside the site's own are for the group of the one they are in.

        Raises:
            StorageError: if they cannot be made.
        """
        inside = self.folder.resolve().is_relative_to(site.folder.resolve())
        try:
            if inside:
                self.folder.mkdir(mode=OWN, exist_ok=True)
            for name in (QUESTIONS, ANSWERS, DONE):
                place = self.folder / name
                if not place.exists():
                    place.mkdir(mode=OWN)
                    if not inside:
                        place.chmod(GROUP_WRITES if name == ANSWERS else GROUP_READS)
        except OSError as error:
            raise StorageError(
                f"{self.folder}, where the officer's signatures are asked for, cannot be used: {refusal(error)}. "
                f"Make it for this account and the officer's group (docs/privacy-officer.md), or change [officer] "
                f"folder in site.toml"
            ) from None

    def locked(self) -> AbstractContextManager[None]:
        """While nobody else of the site's processes looks at answers.

        Raises:
            StorageError: if the lock cannot be made.
        """
        return lock.locked(self.folder / QUESTIONS / ".lock")

    def questions(self) -> list[Question]:
        """What waits for an answer, in the order in which it was asked.

        Raises:
            DataError: if the folder cannot be read.
        """
        return sorted(self._all(QUESTIONS, Question), key=lambda one: (one.asked, one.id))

    def ask(self, question: Question) -> None:
        """Put a question.

        Raises:
            StorageError: if it cannot be written.
        """
        self._put(QUESTIONS, question.id, question)

    def answer(self, question: str) -> Answer | None:
        """What the officer's process put for a question; ``None``: nothing, or not all of it yet.

        Raises:
            DataError: if it is something else.
        """
        return _read(self.folder / ANSWERS / f"{question}.json", Answer)

    def put(self, answer: Answer) -> None:
        """Put an answer.

        Raises:
            StorageError: if it cannot be written.
        """
        self._put(ANSWERS, answer.question, answer)

    def settle(self, settled: Settled) -> None:
        """Note what became of a question, and let go of it.

        Raises:
            StorageError: if it cannot be written.
        """
        self._put(DONE, settled.question, settled)
        for name in (QUESTIONS, ANSWERS):
            with suppress(OSError):
                (self.folder / name / f"{settled.question}.json").unlink()
        for old in self.settled()[KEPT:]:
            with suppress(OSError):
                (self.folder / DONE / f"{old.question}.json").unlink()

    def settled(self) -> list[Settled]:
        """What became of questions, the newest first.

        Raises:
            DataError: if the folder cannot be read.
        """
        return sorted(self._all(DONE, Settled), key=lambda one: (one.settled, one.question), reverse=True)

    def became(self, question: str) -> Settled | None:
        """What became of a question; ``None``: it waits."""
        return _read(self.folder / DONE / f"{question}.json", Settled)

    def _all(self, name: str, kind: type[Kind]) -> Iterator[Kind]:
        try:
            places = sorted((self.folder / name).iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.folder / name} cannot be read: {refusal(error)}") from None
        for place in places:
            if place.suffix == ".json" and not place.name.startswith("."):
                with suppress(DataError):  # written by another version, or by nobody of ours
                    found = _read(place, kind)
                    if found is not None:
                        yield found

    def _put(self, name: str, question: str, content: Section) -> None:
        place = self.folder / name / f"{question}.json"
        atomic.write(place, (content.model_dump_json(indent=2) + "\n").encode(), mode=FILE_OF_OWN)
        with suppress(OSError):
            if stat.S_IMODE(place.parent.stat().st_mode) & stat.S_IRWXG:
                place.chmod(FILE_OF_GROUP)


def _read(place: Path, kind: type[Kind]) -> Kind | None:
    """A file's content; the other account wrote it, so no link is followed and nothing is waited for."""
    try:
        with os.fdopen(os.open(place, os.O_RDONLY | NO_LINK), "rb") as file:
            content = file.read(LARGEST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except (FileNotFoundError, PermissionError):  # its mode is set once it is whole
        return None
    except OSError as error:
        raise DataError(f"{place} cannot be read: {refusal(error)}") from None
    try:
        if len(content) > LARGEST_BYTES:
            raise ValueError("too large")
        return kind.model_validate_json(content)
    except (ValidationError, ValueError):
        raise DataError(f"Expected {place} to be as this version writes it, got something else") from None
