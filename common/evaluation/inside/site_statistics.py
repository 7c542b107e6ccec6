"""What a site's exams are like, before anything is trained: patients by machine, joint, diagnosis, age and grade.

Counts are of patients. A value that too few patients have is not named: it is put together with the next ones until
enough have them, so that no count of fewer follows by subtraction either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common import signed_json
from common.evaluation.inside import sent
from common.sections.section import Positive, Section

MAXIMUM_TEXT = 200_000
"""Letters of a site's statistics."""
Text = Annotated[str, Field(max_length=200)]


class Counted(Section):
    """One characteristic of the patients' exams."""

    values: Mapping[Text, Positive]
    """Value -> patients with such an exam, the most frequent first."""
    others: Annotated[int, Field(ge=0)] = 0
    """Patients with exams of values that are not named; 0: there are none, or too few to be told."""


class SiteStatistics(Section):
    """All that a site tells of its exams."""

    format: Literal[1] = 1
    site: Annotated[str, Field(min_length=1, max_length=100)]
    minimum_cohort: Positive
    """Patients behind each count, at least."""
    characteristics: Mapping[Text, Counted]
    """``device``, ``joint``, ``diagnosis``, ``age`` (decades) and each measurement -> its counts."""

    @model_validator(mode="after")
    def _large_enough(self) -> SiteStatistics:
        counts = [
            count for one in self.characteristics.values() for count in (*one.values.values(), one.others)
        ]
        if any(0 < count < self.minimum_cohort for count in counts):
            raise ValueError("expected counts of as many patients as the site's own rule asks for")
        return self

    def dump(self) -> str:
        """Canonical JSON, as it leaves the site."""
        return signed_json.canonical(self.model_dump(mode="json"))


def count(values: Iterable[tuple[str, str]], *, minimum: int) -> Counted:
    """Count patients.

    Args:
        values: patient and value of each exam, without those that have none.
        minimum: patients behind a count, at least.
    """
    patients: dict[str, set[str]] = {}
    for patient, value in values:
        patients.setdefault(value, set()).add(patient)
    order = sorted(patients, key=lambda value: (-len(patients[value]), value))
    named = [value for value in order if len(patients[value]) >= minimum]
    rest = {patient for value in order[len(named) :] for patient in patients[value]}
    while rest and len(rest) < minimum and named:
        rest |= patients[named.pop()]
    return Counted(
        values={value: len(patients[value]) for value in named},
        others=len(rest) if len(rest) >= minimum else 0,
    )


def decade(age: int) -> str:
    """An age's ten years; the oldest, of whom there are few, together."""
    return "90 and over" if age >= 90 else f"{age // 10 * 10} to {age // 10 * 10 + 9}"


def parse(text: str) -> SiteStatistics:
    """Read what a site sent.

    Raises:
        UpdateError: if it cannot be what a site of this version sends.
    """
    return sent.parse(SiteStatistics, text, longest=MAXIMUM_TEXT, what="a site's statistics")
