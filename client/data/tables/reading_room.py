"""What a site's readers did in the reading room, as far as training uses it: regions, grades, exclusions.

``<site folder>/reading/`` is written by :mod:`client.reading`. A region drawn there goes before the manifest's.
Grades given there are one more reader's, unless the reader had seen the ensemble's answer first: networks that learn
from such grades learn from themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.data.tables.rows import Row, read_rows, refuse
from common.exam import Roi

FOLDER = "reading"
REGIONS, READINGS = f"{FOLDER}/regions.csv", f"{FOLDER}/readings.csv"
REGION_COLUMNS = ("exam_id", "image", "roi", "reader", "time")
READING_COLUMNS = ("exam_id", "reader", "assisted", "quality", "excluded", "comment", "time")
"""Before the measurements, a column each."""
SESSION = "reading room"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What counts of it.

    Attributes:
        regions: (exam, image) -> the region that was drawn last.
        grades: (line, row) of every reading that was given without the ensemble's answer.
        excluded: exam -> why a reader took it out.
    """

    regions: Mapping[tuple[str, str], Roi] = field(default_factory=dict)
    grades: tuple[tuple[int, Row], ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)


NOTHING = Room()


def read(site: Path) -> Room:
    """What was done in a site's reading room; nothing where there is none.

    Raises:
        DataError: if a table is not as the reading room writes it.
    """
    rows = _readings(site / READINGS)
    return Room(
        regions=_regions(site / REGIONS),
        grades=tuple((line, row) for line, row in rows if row["assisted"] == "no" and not row["excluded"]),
        excluded={
            row["exam_id"]: f"{row['reader']} excluded it in the reading room: {row['excluded']}"
            for _, row in rows
            if row["excluded"]
        },
    )


def tables(site: Path) -> tuple[str, ...]:
    """The tables of a site's reading room that are there, from the site's folder."""
    return tuple(name for name in (REGIONS, READINGS) if (site / name).exists())


def _regions(path: Path) -> dict[tuple[str, str], Roi]:
    if not path.exists():
        return {}
    found: dict[tuple[str, str], Roi] = {}
    errors = []
    for line, row in read_rows(path, REGION_COLUMNS).rows:
        try:
            found[row["exam_id"], row["image"]] = Roi.parse(row["roi"])
        except ValueError as error:
            errors.append(
                f"  line {line}: roi is {row['roi']!r}, expected 'x y width height' in pixels: {error}"
            )
    refuse(path, errors)
    return found


def _readings(path: Path) -> tuple[tuple[int, Row], ...]:
    return read_rows(path, READING_COLUMNS).rows if path.exists() else ()
