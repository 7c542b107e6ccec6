"""Rows of a hospital's table that speak of files, found by path, by name, or by name without its ending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from client.data.tables.rows import Table
from common.errors import DataError

Row = Mapping[str, str]


class FileRows:
    """Looks up the rows of a file."""

    def __init__(self, table: Table, column: str, names: Sequence[str]) -> None:
        """Index a table.

        Args:
            table: of the hospital.
            column: where it has the file's name.
            names: paths of all files, so that a name shared by several is reported.
        """
        self._rows: dict[str, list[tuple[int, Row]]] = {}
        for line, row in table.rows:
            self._rows.setdefault(row[column].replace("\\", "/").casefold(), []).append((line, row))
        self._count = Counter(spelling for name in names for spelling in set(spellings(name)))

    def of(self, name: str) -> list[tuple[int, Row]]:
        """The rows of a file and their lines; none where the table does not speak of it.

        Raises:
            DataError: if a row speaks of a name that several files have.
        """
        for spelling in spellings(name):
            found = self._rows.get(spelling)
            if found and self._count[spelling] > 1:
                raise DataError("the table's file name fits several files: give it with its folders")
            if found:
                return found
        return []


def spellings(name: str) -> tuple[str, ...]:
    """How a table may call a file, from the most exact."""
    path = PurePosixPath(name.casefold())
    return str(path), str(path.with_suffix("")), path.name, path.stem
