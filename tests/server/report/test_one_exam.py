"""The exam that a report opens with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from server.report import one_exam
from server.report.content import Content
from server.report.examples import StoredExample

Votes = Mapping[str, Sequence[int]]


def example(
    votes: Votes, *, hypertrophy: int, vascularity: int, name: str = "e", tie: bool = False
) -> StoredExample:
    return StoredExample(
        exam_id=name,
        site="north",
        pictures={"gs": "data:a", "gs-heatmap": "data:b"},
        reference={"hypertrophy": 1, "vascularity": 1},
        decision={"hypertrophy": hypertrophy, "vascularity": vascularity},
        votes=votes,
        majority={name: max(sorted(set(given)), key=list(given).count) for name, given in votes.items()},
        tie=tie,
    )


AGREED = example({"hypertrophy": [1, 1], "vascularity": [1, 1]}, hypertrophy=1, vascularity=1, name="agreed")
DIVIDED = example(
    {"hypertrophy": [1, 1, 2], "vascularity": [1, 1, 1]}, hypertrophy=1, vascularity=1, name="divided"
)
OVERRULED = example(
    {"hypertrophy": [0, 0, 1], "vascularity": [1, 1, 0]}, hypertrophy=1, vascularity=1, name="overruled"
)


def content(*, heatmaps: Sequence[StoredExample] = (), examples: Sequence[StoredExample] = ()) -> Content:
    return Content(
        name="run", config="", settings={}, manifest={}, metrics={}, rounds=(),
        examples=examples, far_off=(), heatmaps=heatmaps,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("exam", "said"),
    [
        (
            AGREED,
            "All models agree, and each measurement's own majority makes a combination that can be: MULTITUDE",
        ),
        (DIVIDED, "The models disagree, and each measurement's own majority makes a combination that can be"),
        (
            example({"hypertrophy": [1, 2], "vascularity": [1, 1]}, hypertrophy=1, vascularity=1, tie=True),
            "changes nothing here. Another combination has as many votes: the lower grade goes first.",
        ),
        (
            OVERRULED,
            "The majorities by themselves, hypertrophy 0 with vascularity 1, make a combination that cannot be. Of "
            "those that can, hypertrophy 1 with vascularity 1 has the most votes.",
        ),
        (
            example({"hypertrophy": [0, 0], "vascularity": [1, 2]}, hypertrophy=0, vascularity=0, tie=True),
            "Several that can have as many votes, and the lower grades go first: hypertrophy 0 with vascularity 0.",
        ),
    ],
)
def test_it_is_said_what_multitude_did(exam: StoredExample, said: str) -> None:
    assert said in one_exam.how_decided(exam)


def test_what_multitude_changed_goes_before_what_models_disagree_on_and_heatmaps_before_all() -> None:
    first = one_exam.chosen(content(heatmaps=[AGREED, DIVIDED, OVERRULED]))
    assert first is not None
    assert first.name == "north · overruled"
    assert first.rows == [("Hypertrophy", "0 0 1", 0, 1, 1), ("Vascularity", "1 1 0", 1, 1, 1)]
    assert first.pictures == [("GS", "data:a"), ("GS, heatmap", "data:b")]
    assert (first.models, first.right) == (3, True)
    divided = one_exam.chosen(content(heatmaps=[AGREED, DIVIDED], examples=[OVERRULED]))
    assert divided is not None
    assert divided.name == "north · divided"


def test_a_run_of_before_votes_were_noted_shows_none() -> None:
    assert one_exam.chosen(content(examples=[replace(AGREED, votes={})])) is None
    assert one_exam.chosen(content()) is None
