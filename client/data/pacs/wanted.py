"""Which studies are wanted of an archive: of days, of patients, of accession numbers; never all by accident."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from client.data.ingest.mapping import GradesSection
from client.data.tables.rows import read_table, refuse_faults
from client.ledger.identifiers import padded
from common.errors import ConfigurationError, DataError

COLUMNS = {"patient_id": "PatientID", "accession_number": "AccessionNumber"}
"""Of a list -> keyword."""
Key = Mapping[str, str]
"""Keyword -> value: what tells a study of a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of an archive.

    Attributes:
        first: day of a study, from.
        last: to, it included.
        keys: of these alone; none: of anybody, in these days.
        modality: of the series.
        digits: to which ids of patients that are numbers are padded with zeros before they are compared.
    """

    first: date | None = None
    last: date | None = None
    keys: tuple[Key, ...] = ()
    modality: str = "US"
    digits: int = 0

    def check(self) -> Wanted:
        """Itself.

        Raises:
            ConfigurationError: if it would find everything, or nothing.
        """
        if not self.keys and self.first is None and self.last is None:
            raise ConfigurationError(
                "Expected --from, --to, --patients or --graded beside --dicomweb: an archive is never fetched whole"
            )
        if self.first and self.last and self.first > self.last:
            raise ConfigurationError(f"Expected --from before --to, got {self.first} and {self.last}")
        if not re.fullmatch(r"[A-Z0-9]{1,16}", self.modality):
            raise ConfigurationError("Expected --modality as in DICOM, for example US")
        return self

    def queries(self, key: Key) -> list[dict[str, str]]:
        """The searches for one key, or for all where it is empty: an id as it is written, and padded."""
        usual = {"ModalitiesInStudy": self.modality}
        if self.first or self.last:
            usual["StudyDate"] = "-".join(f"{day:%Y%m%d}" if day else "" for day in (self.first, self.last))
        spelled = {keyword: padded(value, self._digits(keyword)) for keyword, value in key.items()}
        return [usual | each for each in ([dict(key), spelled] if spelled != dict(key) else [dict(key)])]

    def fits(self, key: Key, study: Key) -> bool:
        """Whether what an archive gave is what was asked for: some pass over filters that they do not know."""
        if any(
            padded(study[keyword], self._digits(keyword)) != padded(value, self._digits(keyword))
            for keyword, value in key.items()
        ):
            return False
        try:
            day = date.fromisoformat(study["StudyDate"]) if self.first or self.last else date.min
        except ValueError:
            return False
        return (self.first or day) <= day <= (self.last or day)

    def _digits(self, keyword: str) -> int:
        return self.digits if keyword == "PatientID" else 0


def listed(path: Path) -> tuple[Key, ...]:
    """A list with a column ``patient_id``, ``accession_number``, or both.

    Raises:
        DataError: if it cannot be read, has neither, or a row is empty or holds a wildcard.
    """
    columns = [column for column in COLUMNS if column in read_table(path, []).columns]
    if not columns:
        raise DataError(f"Expected a column {' or '.join(COLUMNS)} in {path}")
    table = read_table(path, columns)
    refuse_faults(path, table)
    return _keys(
        path,
        [
            (line, {COLUMNS[column]: row[column] for column in columns if row[column]})
            for line, row in table.rows
        ],
    )


def graded(section: GradesSection) -> tuple[Key, ...]:
    """The patients of a table of grades.

    Raises:
        ConfigurationError: if the mapping does not say who the patient of a row is.
        DataError: if it cannot be read.
    """
    column = section.exam.get("patient_id")
    if column is None:
        raise ConfigurationError("Expected patient_id in grades.exam of the mapping beside --graded")
    table = read_table(section.path, [column], sheet=section.sheet, header_row=section.header_row)
    return _keys(
        section.path, [(line, {"PatientID": row[column]}) for line, row in table.rows if row[column]]
    )


def _keys(path: Path, rows: Sequence[tuple[int, Key]]) -> tuple[Key, ...]:
    """Each once.

    Raises:
        DataError: if one is empty, or an archive would take it for a pattern.
    """
    for line, key in rows:
        if not key or any(set("*?\\") & set(value) for value in key.values()):
            raise DataError(f"Expected an id without * ? and \\ in line {line} of {path}")
    return tuple({tuple(key.items()): key for _, key in rows}.values())
