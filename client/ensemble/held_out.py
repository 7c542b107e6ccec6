"""Whose held-out exams stand behind a site's tables: decided once for each score and machine, and frozen.

Two tables over sets of patients that differ in one patient tell, by their difference, that patient's grades: a table
before and after a withdrawal, say, or of two campaigns of which one asks for an image that one patient lacks. So the
patients of a score and a machine are put into **blocks** of at least ``policy.minimum_cohort`` when they are first
asked about. A block is in a table with all its patients or not at all, and whatever is added up or subtracted, over
however many tables, is about whole blocks.

================================================  ===============================================================
what happens                                      what becomes of the blocks
================================================  ===============================================================
a patient withdraws                               the patient's blocks go for good, and nobody of them comes back
a campaign cannot use, or trains on, a patient    their blocks are in none of its tables
new patients are held out                         they wait until they are enough for a block of their own
a grade or a machine is corrected                 tables go on with what was frozen
the policy's minimum is raised                    neighbouring blocks are taken together
================================================  ===============================================================

``<site folder>/evaluation/held_out.json`` has keyed hashes and grades, no names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from pydantic import ValidationError

from client.files import atomic, lock
from client.ledger import ledger_file
from client.ledger.identifiers import spelling, tag
from common.errors import SiteStateError
from common.exam import MISSING
from common.sections.section import Section

FOLDER = "evaluation"
Block = Mapping[str, Mapping[str, int]]
"""Patient's tag -> exam's tag -> grade."""


class Cell(Section):
    """One score on one machine."""

    score: str
    device: str
    blocks: tuple[Block, ...] = ()
    gone: tuple[str, ...] = ()
    """Tags of patients whose block went: they are in no table any more."""


class Frozen(Section):
    """``held_out.json``."""

    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A site's held-out exams as they are now.

    Attributes:
        exams: identifiers.
        patients: identifier of each one's patient.
        devices: each one's machine.
        references: score -> the consensus of each, ``MISSING`` where there is none.
        grades: score -> number of grades.
    """

    exams: Sequence[str]
    patients: Sequence[str]
    devices: Sequence[str]
    references: Mapping[str, Int64[np.ndarray, " exams"]]
    grades: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """The exams behind one table.

    Attributes:
        score: what was graded.
        device: the machine.
        rows: of :class:`HeldOut`.
        reference: the frozen grade of each; no exam where the table is suppressed.
        block: number of each one's block.
    """

    score: str
    device: str
    rows: Int64[np.ndarray, " exams"]
    reference: Int64[np.ndarray, " exams"]
    block: Int64[np.ndarray, " exams"]


def behind(folder: Path, held_out: HeldOut, *, minimum: int) -> tuple[Behind, ...]:
    """The exams behind each table that a site can give; who is new and enough for a block is frozen before.

    Args:
        folder: of the site.
        held_out: its exams.
        minimum: patients in a block, and in a table, at least.

    Returns:
        One entry per score and machine with held-out exams, those without any block to show included.

    Raises:
        SiteStateError: if what was frozen cannot be read.
        StorageError: if it cannot be written.
    """
    key = ledger_file.site_secret(folder)
    now = _Now.of(held_out, key)
    with lock.locked(folder / FOLDER / ".lock"):
        before = _read(folder)
        frozen = Frozen(cells=tuple(_extended(before, now, minimum=minimum)))
        if frozen != before:
            _write(folder, frozen)
    return tuple(
        now.behind(cell, minimum=minimum)
        for cell in frozen.cells
        if (cell.score, cell.device) in now.members or (cell.blocks and cell.score in held_out.references)
    )


def forget(folder: Path, patient: str) -> None:
    """Take a patient's blocks out for good: the patient withdrew.

    Raises:
        SiteStateError: if what was frozen cannot be read.
        StorageError: if it cannot be written.
    """
    if not _path(folder).exists():
        return
    name = _tag(ledger_file.site_secret(folder), "patient", spelling(patient))
    with lock.locked(folder / FOLDER / ".lock"):
        before = _read(folder)
        frozen = Frozen(cells=tuple(_without(cell, name) for cell in before.cells))
        if frozen != before:
            _write(folder, frozen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Now:
    """What can be asked now, by tags.

    Attributes:
        rows: exam's tag -> its row.
        members: (score, machine) -> patient's tag -> exam's tag -> grade.
        held_out: the exams.
    """

    rows: Mapping[str, int]
    members: Mapping[tuple[str, str], Block]
    held_out: HeldOut

    @classmethod
    def of(cls, held_out: HeldOut, key: bytes) -> _Now:
        tags = [_tag(key, "exam", exam) for exam in held_out.exams]
        patients = [_tag(key, "patient", spelling(patient)) for patient in held_out.patients]
        members: dict[tuple[str, str], dict[str, dict[str, int]]] = {}
        for score, references in held_out.references.items():
            for row in np.flatnonzero(references != MISSING).tolist():
                cell = members.setdefault((score, held_out.devices[row]), defaultdict(dict))
                cell[patients[row]][tags[row]] = int(references[row])
        return cls(
            rows={tag: row for row, tag in enumerate(tags)},
            members={place: dict(cell) for place, cell in members.items()},
            held_out=held_out,
        )

    def behind(self, cell: Cell, *, minimum: int) -> Behind:
        """A cell's exams in those of its blocks of which nobody is missing."""
        grades = self.held_out.grades[cell.score]
        exams = [
            (self.rows[exam], grade, number)
            for number, block in enumerate(_joined(cell.blocks, minimum=minimum))
            if all(e in self.rows and g < grades for kept in block.values() for e, g in kept.items())
            for kept in block.values()
            for exam, grade in kept.items()
        ]
        rows, reference, block = np.array(sorted(exams), dtype=np.int64).reshape(-1, 3).T
        return Behind(score=cell.score, device=cell.device, rows=rows, reference=reference, block=block)


def _extended(frozen: Frozen, now: _Now, *, minimum: int) -> Iterator[Cell]:
    """All cells, each with blocks of those who are new to it, where they are enough."""
    known = {(cell.score, cell.device): cell for cell in frozen.cells}
    for score, device in sorted(known.keys() | now.members.keys()):
        cell = known.get((score, device), Cell(score=score, device=device))
        asked_about = {name for block in cell.blocks for name in block} | set(cell.gone)
        new = {
            name: exams
            for name, exams in now.members.get((score, device), {}).items()
            if name not in asked_about
        }
        blocks = tuple(_blocks(new, minimum=minimum))
        yield cell.model_copy(update={"blocks": (*cell.blocks, *blocks)}) if blocks else cell


def _blocks(members: Block, *, minimum: int) -> Iterator[Block]:
    """Patients in blocks of at least ``minimum``, by their tags, which follow from nothing about them."""
    names = sorted(members)
    for number in range(count := len(names) // minimum):
        chosen = (
            names[number * minimum :]
            if number == count - 1
            else names[number * minimum : (number + 1) * minimum]
        )
        yield {name: members[name] for name in chosen}


def _joined(blocks: Iterable[Block], *, minimum: int) -> Iterator[Block]:
    """Neighbouring blocks together until they are as large as the policy asks now; a smaller rest stays out."""
    joined: dict[str, Mapping[str, int]] = {}
    for block in blocks:
        joined |= block
        if len(joined) >= minimum:
            yield joined
            joined = {}


def _without(cell: Cell, name: str) -> Cell:
    went = [block for block in cell.blocks if name in block]
    if not went:
        return cell
    others = sorted({other for block in went for other in block} - {name})
    left = tuple(block for block in cell.blocks if name not in block)
    return cell.model_copy(update={"blocks": left, "gone": (*cell.gone, *others)})


def _tag(key: bytes, what: str, name: str) -> str:
    return tag(key, f"held out: {what}", name)


def _path(folder: Path) -> Path:
    return folder / FOLDER / "held_out.json"


def _read(folder: Path) -> Frozen:
    try:
        return Frozen.model_validate_json(_path(folder).read_bytes())
    except FileNotFoundError:
        return Frozen()
    except (OSError, ValidationError):
        raise SiteStateError(
            f"Expected whose exams stand behind tables in {_path(folder)}: put it back from a backup. Without it a "
            f"new table could be compared with an earlier one"
        ) from None


def _write(folder: Path, frozen: Frozen) -> None:
    atomic.write(_path(folder), frozen.model_dump_json().encode())
