"""What the doctor found: counts for a screen, rows for a file that stays at the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal[
    "rows", "missing", "roi", "duplicate", "copy", "ids", "swapped", "side", "grades", "impossible", "ungraded",
    "twice", "linked", "text", "dark", "flat", "turned", "guess",
]  # fmt: skip
TITLES: dict[Kind, str] = {
    "rows": "rows of the manifest that cannot be used",
    "missing": "pictures that are missing or cannot be read",
    "roi": "ROI outside of its picture",
    "duplicate": "the same picture in two places",
    "copy": "nearly the same picture at two patients",
    "ids": "patient ids that look alike",
    "swapped": "grey-scale and Doppler swapped",
    "side": "left and right contradict each other",
    "grades": "grades that contradict each other",
    "impossible": "grades that cannot be",
    "ungraded": "exams without grades, grades without exam",
    "twice": "a joint listed twice at one visit",
    "linked": "machines that go with a diagnosis or a grade",
    "text": "text left in the picture",
    "dark": "pictures that are nearly black",
    "flat": "pictures of nearly one shade",
    "turned": "pictures turned unlike the rest",
    "guess": "pictures whose depth or turn had to be guessed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or deserves a look.

    Attributes:
        check: which check found it.
        problem: whether data must be corrected; else it is only to be looked at.
        table: ``manifest`` or ``grades``.
        line: of that table; 0: of none.
        exam_id: whose.
        what: in words; names patients and files, and so stays at the site.
    """

    check: Kind
    problem: bool
    table: Literal["manifest", "grades"] = "manifest"
    line: int
    exam_id: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckCount:
    """The counts of one check."""

    title: str
    problems: int
    warnings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings on a folder."""

    folder: Path
    exams: int
    patients: int
    pictures: int
    findings: Sequence[Finding]

    @property
    def problems(self) -> int:
        """How many findings must be corrected."""
        return sum(finding.problem for finding in self.findings)

    def rows(self) -> tuple[CheckCount, ...]:
        """One row per check, including those without findings."""
        return tuple(CheckCount(title=title, **self.count(check)) for check, title in TITLES.items())

    def count(self, check: Kind) -> dict[str, int]:
        """Problems and warnings of one check."""
        mine = [finding.problem for finding in self.findings if finding.check == check]
        return {"problems": sum(mine), "warnings": len(mine) - sum(mine)}
