import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.exam import Roi, consensus, repair
from common.scoring.eoss import is_valid_pair

GRADES = st.integers(0, 3)
EOSS = {"hypertrophy": 4, "vascularity": 4}


def test_an_roi_is_read() -> None:
    assert Roi.parse(" 1 2  30 16 ") == Roi(x=1, y=2, width=30, height=16)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "got 0 numbers, not 4"),
        ("1 2 30", "got 3 numbers, not 4"),
        ("1 2 30 40 5", "got 5 numbers, not 4"),
        ("1 2 30 x", "'x' is no whole number"),
        ("a b c d", "'a' is no whole number"),
        ("nan 1 20 30", "'nan' is no whole number"),
        ("1e9 0 20 30", "'1e9' is no whole number"),
        ("1.5 2 30 40", "'1.5' is no whole number"),
        ("1_0 2 30 40", "'1_0' is no whole number"),
        ("0 0 30 " + "9" * 5000, "is no whole number"),
        ("30,17,224,224", "set apart by blanks"),
        ("30; 17; 224; 224", "set apart by blanks"),
        ("-1 0 30 40", "negative"),
        ("0 -1 30 40", "negative"),
        ("30 17 0 0", "area is zero"),
        ("30 17 0 224", "area is zero"),
        ("30 17 40 -224", "area is zero"),
        ("30 17 1 1", "narrower or lower than 16 pixels"),
        ("30 17 224 15", "narrower or lower than 16 pixels"),
    ],
)
def test_an_roi_that_is_none_is_refused_and_its_fault_named(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Roi.parse(text)


@pytest.mark.parametrize(
    ("grades", "median", "majority"),
    [
        ([2], 2, 2),
        ([1, 2], 1, 1),
        ([0, 3, 3], 3, 3),
        ([0, 1, 2, 3], 1, 0),
        ([0, 2, 2, 3, 3, 3], 2, 3),
        ([], None, None),
    ],
)
def test_consensus_of_several_readers(grades: list[int], median: int | None, majority: int | None) -> None:
    readings = [(f"r{i}", grade) for i, grade in enumerate(grades)]
    assert consensus(readings, "median") == median
    assert consensus(readings, "majority") == majority


def test_consensus_of_one_reader() -> None:
    assert consensus([("a", 1), ("b", 3)], "reader:b") == 3
    assert consensus([("a", 1)], "reader:b") is None


@given(grades=st.lists(GRADES, min_size=1, max_size=7), rule=st.sampled_from(["median", "majority"]))
def test_consensus_is_some_readers_grade_and_does_not_depend_on_their_order(
    grades: list[int], rule: str
) -> None:
    readings = [(f"r{i}", grade) for i, grade in enumerate(grades)]
    chosen = consensus(readings, rule)
    assert chosen in grades
    assert consensus(readings[::-1], rule) == chosen


@given(h=GRADES, v=GRADES)
def test_repair_gives_the_nearest_valid_pair(h: int, v: int) -> None:
    fixed = repair({"hypertrophy": h, "vascularity": v}, grades=EOSS, is_valid=is_valid_pair)
    pair = fixed["hypertrophy"], fixed["vascularity"]
    assert pair[0] is not None and pair[1] is not None
    assert is_valid_pair((pair[0], pair[1]))
    valid = [p for p in itertools.product(range(4), range(4)) if is_valid_pair(p)]
    assert abs(pair[0] - h) + abs(pair[1] - v) == min(abs(a - h) + abs(b - v) for a, b in valid)
    if is_valid_pair((h, v)):
        assert pair == (h, v)


def test_repair_takes_the_lower_of_two_and_leaves_gaps() -> None:
    def fixed(h: int | None, v: int | None) -> dict[str, int | None]:
        return repair({"hypertrophy": h, "vascularity": v}, grades=EOSS, is_valid=is_valid_pair)

    assert fixed(0, 1) == {"hypertrophy": 0, "vascularity": 0}
    assert fixed(0, 3) == {"hypertrophy": 1, "vascularity": 3}
    assert fixed(None, 3) == {"hypertrophy": None, "vascularity": 3}
