"""What the study found, as data: its text is made of this alone, and what is not measured anew stays as it was.

==============================  ================================================================================
file                            content
==============================  ================================================================================
``private_utility.json``        what each part of the study found, with the versions that found it
``private_utility_before.toml`` what was found by other means or on earlier versions, section by section, each
                                with its versions: the study does not make it, its text repeats it
==============================  ================================================================================
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from common.errors import DataError
from common.sections.section import Section
from common.version import VERSION
from private_utility.networks_view import Comparison
from private_utility.utility_view import NAME, Study
from simulation.cohorts import cohort

FOUND, BEFORE = f"{NAME}.json", f"{NAME}_before.toml"
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(Generic[Part]):
    """A part of the study.

    Attributes:
        found: in it.
        version: of synofed.
        phantoms: version of the phantoms.
        on: the day, ISO 8601.
        cost: what it took, in words; may be empty.
    """

    found: Part
    version: str
    phantoms: int
    on: str
    cost: str = ""

    @classmethod
    def now(cls, found: Part) -> Made[Part]:
        """By this version, today."""
        today = datetime.now(UTC).date().isoformat()
        return cls(found=found, version=VERSION, phantoms=cohort.VERSION, on=today)

    @property
    def by(self) -> str:
        """The versions and the day, in words."""
        return f"synofed {self.version}, phantoms of version {self.phantoms}, {self.on}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Both parts.

    Attributes:
        study: what privacy costs the heads.
        networks: which networks give more for the same epsilon; ``None``: never compared.
    """

    study: Made[Study]
    networks: Made[Comparison] | None = None


_RECORD = TypeAdapter(Record)


class Told(Section):
    """A section that the study does not make.

    Attributes:
        title: its heading.
        versions: with which it was found.
        text: paragraphs before the table; Markdown.
        columns: of the table.
        rows: of the table.
        after: paragraphs after it.
    """

    title: str
    versions: str
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    after: str = ""


class Before(Section):
    """All of them, in order."""

    section: tuple[Told, ...] = ()


def read(folder: Path) -> Record | None:
    """What was found before; ``None`` where nothing was.

    Raises:
        DataError: for a file that is none of these.
    """
    path = folder / FOUND
    if not path.is_file():
        return None
    try:
        return _RECORD.validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"Expected the study's findings in {path}: {error}") from None


def write(record: Record, folder: Path) -> None:
    """Keep what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FOUND).write_bytes(_RECORD.dump_json(record, indent=1) + b"\n")


def before(folder: Path) -> Before:
    """What the study does not make; nothing where there is no such file.

    Raises:
        DataError: for a file that is none of these.
    """
    path = folder / BEFORE
    if not path.is_file():
        return Before()
    try:
        return Before.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"Expected sections in {path}: {error}") from None
