"""A reader study: who reads which exams in which order, without and with the ensemble's answer.

Two designs. In ``sessions`` each reader reads all exams twice, in two sessions with a washout between them, once
without and once with the answer; half of the readers begin with it, since whoever reads a second time has learned. In
``second-reader`` a reader grades without, that is locked, and then the same exam with the answer, in one session.
Everything else follows from the file: orders are drawn from its seed, by reader and session.

Source: Zhou et al. 2022, Patterns, doi 10.1016/j.patter.2022.100592 (the study; all its readers began without).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from client.data.tables.tables import DISCUSSION
from client.reading.room import reader_name
from common.errors import DataError
from common.evaluation.readers import WITH, WITHOUT
from common.sections.section import Name, Section, Seed, section
from common.text import toml_text

Reader = Annotated[str, Field(min_length=1, max_length=80)]


class Adjudication(Section):
    """How disagreements become one reference."""

    readers: Annotated[tuple[Reader, ...], Field(min_length=2)]
    """Whose unaided grades it is made of; what they agree on stands."""
    decides: Reader
    """A reader who took no part, and decides what discussion leaves open."""


class StudyFile(Section):
    """A study's TOML file."""

    name: Name
    design: Literal["sessions", "second-reader"]
    readers: Annotated[tuple[Reader, ...], Field(min_length=1, max_length=100)]
    seed: Seed
    exams: tuple[Annotated[str, Field(max_length=200)], ...] = ()
    """Ids; none: all of the site's."""
    washout_days: Annotated[int, Field(ge=0, le=3650)] = 28
    """Between a reader's sessions, from the last reading of one to the first of the next."""
    repeated: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Exams that each reader grades once more without assistance, in a session of their own."""
    adjudication: Adjudication | None = None

    @model_validator(mode="after")
    def _check(self) -> StudyFile:
        people = [*self.readers, *((self.adjudication.decides,) if self.adjudication else ())]
        if any(reader_name(one) != one for one in people) or len(set(people)) < len(people):
            raise ValueError("expected each reader once, by a plain name, and somebody else to decide")
        if DISCUSSION in people:
            raise ValueError(f"expected another name than {DISCUSSION}")
        if self.adjudication and not set(self.adjudication.readers) <= set(self.readers):
            raise ValueError("expected adjudication.readers among the readers")
        if len(set(self.exams)) < len(self.exams):
            raise ValueError("expected each exam once")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """One session of one reader.

    Attributes:
        number: from 1.
        conditions: in which each exam is graded, one after the other.
        exams: in the order in which they are read.
    """

    number: int
    conditions: tuple[str, ...]
    exams: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A study that is about to be read.

    Attributes:
        file: what was asked for.
        hash: of all that the file says and of the exams; a study that has begun has one for good.
        exams: ids, in the order of the worklist.
    """

    file: StudyFile
    hash: str
    exams: tuple[str, ...]

    @property
    def aided_first(self) -> frozenset[str]:
        """The half of the readers that begins with assistance, drawn from the seed."""
        readers = sorted(self.file.readers)
        order = np.random.default_rng([self.file.seed, 0]).permutation(len(readers))
        return frozenset(readers[place] for place in order[: len(readers) // 2])

    def sittings(self, reader: str) -> tuple[Sitting, ...]:
        """A reader's sessions."""
        if self.file.design == "second-reader":
            plan: list[tuple[str, ...]] = [(WITHOUT, WITH)]
        elif reader in self.aided_first:
            plan = [(WITH,), (WITHOUT,)]
        else:
            plan = [(WITHOUT,), (WITH,)]
        made = [
            Sitting(number=n, conditions=conditions, exams=self._order(reader, n, self.exams))
            for n, conditions in enumerate(plan, start=1)
        ]
        if self.file.repeated:
            number = len(made) + 1
            again = self._order("", number, self.exams)[: self.file.repeated]  # the same exams for all
            made.append(
                Sitting(number=number, conditions=(WITHOUT,), exams=self._order(reader, number, again))
            )
        return tuple(made)

    def _order(self, reader: str, session: int, exams: Sequence[str]) -> tuple[str, ...]:
        place = sorted(self.file.readers).index(reader) + 1 if reader else 0
        order = np.random.default_rng([self.file.seed, 1, place, session]).permutation(len(exams))
        return tuple(exams[index] for index in order)


def load(path: Path, exams: Iterable[str]) -> Design:
    """Read a study's file.

    Args:
        path: the file.
        exams: ids of the exams that can be read, in the order of the worklist.

    Raises:
        ConfigurationError: if it cannot be used.
        DataError: if there is no file, or it names an exam that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Expected a study's file at {path}: {error.strerror}") from None
    file = section(StudyFile, toml_text.read(content, source=str(path)), source=str(path))
    known = tuple(exams)
    missing = sorted(set(file.exams) - set(known))
    if missing:
        raise DataError(
            f"Expected exams of the worklist in {path}, of these {len(missing)} cannot be read: "
            f"{', '.join(missing[:10])}"
        )
    chosen = tuple(exam for exam in known if exam in set(file.exams)) if file.exams else known
    if not chosen:
        raise DataError(
            f"Expected exams for the study of {path}, the site's worklist has none that can be read"
        )
    if file.repeated > len(chosen):
        raise DataError(f"Expected repeated of at most {len(chosen)}, the study's exams, got {file.repeated}")
    text = file.model_dump_json() + "\n".join(chosen)
    return Design(file=file, hash=hashlib.sha256(text.encode()).hexdigest(), exams=chosen)
