"""What the check found: findings for a screen, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from rich.text import Text

from common.errors import SynofedError
from common.text.terminal import LAYOUT, Table, visible

Section = Literal["site", "data", "place", "policy", "connection", "versions", "campaigns", "dry round"]
State = Literal["ok", "warning", "problem"]
SECTIONS: tuple[Section, ...] = get_args(Section)
DetailRow = tuple[str, str, str, str, str]
"""Of the file that stays at the site: kind, table, line, exam, what."""
COLOURS: Mapping[State, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the check.

    Attributes:
        section: what it is about.
        state: ``problem``: the site cannot take part as it is; ``warning``: it can, but look at it.
        found: what was found, in counts and without a row of the data.
        advice: what to do; empty: nothing, or ``found`` says so.
        exit_code: of a problem, as :mod:`common.errors` lists them.
        facts: the same in numbers, for ``--json``.
    """

    section: Section
    state: State
    found: str
    advice: str = ""
    exit_code: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)


def ok(section: Section, found: str, **facts: object) -> Finding:
    """All is well."""
    return Finding(section=section, state="ok", found=found, facts=facts)


def warning(section: Section, found: str, advice: str = "", **facts: object) -> Finding:
    """The site can take part, but somebody should look."""
    return Finding(section=section, state="warning", found=found, advice=advice, facts=facts)


def problem(
    section: Section,
    error: SynofedError | type[SynofedError],
    found: str = "",
    advice: str = "",
    **facts: object,
) -> Finding:
    """The site cannot take part as it is.

    Args:
        section: what it is about.
        error: what was raised, or the kind of error that would be.
        found: in place of the error's text.
        advice: what to do.
        facts: in numbers.
    """
    return Finding(
        section=section,
        state="problem",
        found=found or str(error),
        advice=advice,
        exit_code=error.exit_code,
        facts=facts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings on a site.

    Attributes:
        site: its name.
        findings: in the order in which they were found.
        detail: rows that stay at the site.
    """

    site: str
    findings: Sequence[Finding]
    detail: Sequence[DetailRow] = ()

    @property
    def exit_code(self) -> int:
        """The highest of all problems'; 0 where there is none."""
        return max((finding.exit_code for finding in self.findings), default=0)

    def ordered(self) -> tuple[Finding, ...]:
        """Section by section."""
        return tuple(sorted(self.findings, key=lambda finding: SECTIONS.index(finding.section)))

    def count(self, state: State) -> int:
        """How many findings there are of a state."""
        return sum(finding.state == state for finding in self.findings)

    def document(self) -> dict[str, object]:
        """The report for ``--json``, without rows."""
        return {
            "site": self.site,
            "exit_code": self.exit_code,
            "problems": self.count("problem"),
            "warnings": self.count("warning"),
            "findings": [asdict(finding) for finding in self.ordered()],
        }

    def table(self) -> Table:
        """The report for a terminal."""
        table = Table(title=f"Check of {self.site}", show_lines=False)
        table.add_column("about", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("found")
        before = ""
        for finding in self.ordered():
            if before not in ("", finding.section):
                table.add_section()
            said = f"{finding.found}. {finding.advice}" if finding.advice else finding.found
            state = Text(finding.state, style=COLOURS[finding.state])
            section = finding.section if finding.section != before else ""
            table.add_row(section, state, Text(visible(said, keep=LAYOUT)))
            before = finding.section
        return table
