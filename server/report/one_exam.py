"""The exam that a report opens with: pictures under their heatmaps, each model's votes, how they were decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
    most = _majority(exam)
    rows = [
        (title(name), " ".join(map(str, votes)), most[name], exam.decision[name], exam.reference[name])
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
    most = _majority(exam)
    if not _divided(exam):
        return "All models agree, and what they say can be: MULTITUDE has nothing to change."
    if not _overruled(exam):
        tied = [title(name).lower() for name in _tied(exam)]
        rule = (
            f" As many models say another grade of {' and '.join(tied)}: the lower one goes first."
            if tied
            else ""
        )
        return (
            "The models disagree, but each measurement's own majority makes a combination that can be: MULTITUDE "
            f"changes nothing here.{rule}"
        )
    answer = ", ".join(f"{title(name).lower()} {grade}" for name, grade in exam.decision.items())
    majority = ", ".join(f"{title(name).lower()} {grade}" for name, grade in most.items())
    backers = [list(votes).count(exam.decision[name]) for name, votes in exam.votes.items()]
    if 0 in backers:
        return f"No combination that can be has a vote: the first one, {answer}, is answered. A human should look."
    product = " x ".join(map(str, backers))
    return (
        f"The majorities by themselves, {majority}, make a combination that cannot be. Of those that can, {answer} "
        f"has the most votes: {product}. A human should look."
    )


def pictures(exam: StoredExample) -> list[tuple[str, str]]:
    """(What it is, data URI) of each picture."""
    return [
        (title(name.removesuffix(HEATMAP)) + (", heatmap" if name.endswith(HEATMAP) else ""), uri)
        for name, uri in exam.pictures.items()
    ]


def _majority(exam: StoredExample) -> Mapping[str, int]:
    return {name: int(np.bincount(votes).argmax()) for name, votes in exam.votes.items()}


def _divided(exam: StoredExample) -> bool:
    return any(len(set(votes)) > 1 for votes in exam.votes.values())


def _overruled(exam: StoredExample) -> bool:
    return any(exam.decision.get(name) != grade for name, grade in _majority(exam).items())


def _tied(exam: StoredExample) -> Iterator[str]:
    for name, votes in exam.votes.items():
        counts = np.bincount(votes)
        if (counts == counts.max()).sum() > 1:
            yield name
