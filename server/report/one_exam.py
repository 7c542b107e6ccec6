"""The exam that a report opens with: pictures under their heatmaps, each model's votes, how they were decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.report.content import Content
from server.report.examples import HEATMAP, StoredExample
from server.report.tables import title


@dataclass(frozen=True, slots=True, kw_only=True)
class OneExam:
    """What is shown of it.

    Attributes:
        name: site and exam.
        pictures: (what it is, data URI): each image, then each under its heatmap.
        rows: (measurement, votes of the models, most voted, decided, reference), the grades as text.
        models: their number.
        right: whether every measurement is decided as the reference has it.
        how: a sentence about what MULTITUDE did with the votes.
    """

    name: str
    pictures: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, str, int, int, int]]
    models: int
    right: bool
    how: str


def chosen(content: Content) -> OneExam | None:
    """The first exam that MULTITUDE decided otherwise than the majority, else on which the models disagree, else any.

    Of those with heatmaps where there are any. None where the run has no examples, or their votes were not noted.
    """
    shown = [e for e in (*content.heatmaps, *content.examples) if all(map(len, e.votes.values())) and e.votes]
    if not shown:
        return None
    exam = max(reversed(shown), key=lambda e: (e in content.heatmaps, _overruled(e), _divided(e)))
    rows = [
        (
            title(name),
            " ".join(map(str, votes)),
            exam.majority[name],
            exam.decision[name],
            exam.reference[name],
        )
        for name, votes in exam.votes.items()
        if name in exam.reference
    ]
    return OneExam(
        name=f"{exam.site} · {exam.exam_id}",
        pictures=pictures(exam),
        rows=rows,
        models=len(next(iter(exam.votes.values()))),
        right=exam.right,
        how=how_decided(exam),
    )


def how_decided(exam: StoredExample) -> str:
    """What MULTITUDE did with the votes, in a sentence or two."""
    if not _overruled(exam):
        agree = "The models disagree" if _divided(exam) else "All models agree"
        rule = " Another combination has as many votes: the lower grade goes first." if exam.tie else ""
        return (
            f"{agree}, and each measurement's own majority makes a combination that can be: MULTITUDE changes "
            f"nothing here.{rule}"
        )
    majority, answer = _words(exam.majority), _words(exam.decision)
    chosen = (
        f"Several that can have as many votes, and the lower grades go first: {answer}."
        if exam.tie
        else f"Of those that can, {answer} has the most votes."
    )
    cannot = f"The majorities by themselves, {majority}, make a combination that cannot be."
    return f"{cannot} {chosen} A human should look."


def pictures(exam: StoredExample) -> list[tuple[str, str]]:
    """(What it is, data URI) of each picture."""
    return [
        (title(name.removesuffix(HEATMAP)) + (", heatmap" if name.endswith(HEATMAP) else ""), uri)
        for name, uri in exam.pictures.items()
    ]


def _words(grades: Mapping[str, int]) -> str:
    return " with ".join(f"{title(name).lower()} {grade}" for name, grade in grades.items())


def _divided(exam: StoredExample) -> bool:
    return any(len(set(votes)) > 1 for votes in exam.votes.values())


def _overruled(exam: StoredExample) -> bool:
    return exam.decision != exam.majority
