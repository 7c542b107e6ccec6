"""Whose exams stand behind tables: whatever is asked, and however often, differences are about whole blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ensemble import held_out
from client.ensemble.held_out import Behind, HeldOut
from common.errors import SiteStateError
from common.exam import MISSING

MINIMUM = 3


def exams(
    patients: Sequence[str],
    *,
    each: int = 2,
    devices: Mapping[str, str] | None = None,
    ungraded: Sequence[str] = (),
) -> HeldOut:
    """Exams of patients, whose grade follows from who they are."""
    owners = [patient for patient in patients for _ in range(each)]
    graded = [MISSING if owner in ungraded else sum(map(ord, owner)) % 4 for owner in owners]
    return HeldOut(
        exams=[f"{patient}-{number}" for patient in patients for number in range(each)],
        patients=owners,
        devices=[(devices or {}).get(owner, "A") for owner in owners],
        references={"hypertrophy": np.array(graded, dtype=np.int64)},
        grades={"hypertrophy": 4},
    )


def asked(folder: Path, now: HeldOut, *, minimum: int = MINIMUM) -> tuple[Behind, ...]:
    return held_out.behind(folder, now, minimum=minimum)


def people(now: HeldOut, found: Sequence[Behind]) -> set[str]:
    return {now.patients[row] for one in found for row in one.rows}


def named(count: int, *, first: int = 0) -> list[str]:
    return [f"p{number:02d}" for number in range(first, first + count)]


def frozen(folder: Path) -> Path:
    return folder / "evaluation" / "held_out.json"


def test_all_patients_stand_behind_the_first_table(tmp_path: Path) -> None:
    now = exams(named(8))
    (found,) = asked(tmp_path, now)
    assert (found.score, found.device) == ("hypertrophy", "A")
    np.testing.assert_array_equal(found.rows, np.arange(16))
    np.testing.assert_array_equal(found.reference, now.references["hypertrophy"])
    assert frozen(tmp_path).stat().st_mode & 0o077 == 0
    assert "p0" not in frozen(tmp_path).read_text(encoding="utf-8")


def test_too_few_patients_of_a_machine_are_in_no_table(tmp_path: Path) -> None:
    now = exams(named(6), devices={"p00": "B", "p01": "B"})
    few = {one.device: one for one in asked(tmp_path, now)}
    assert people(now, [few["A"]]) == set(named(4, first=2))
    assert len(few["B"].rows) == 0


def test_a_patient_who_withdraws_takes_a_whole_block_along_for_good(tmp_path: Path) -> None:
    before = exams(named(9))
    first = people(before, asked(tmp_path, before))
    held_out.forget(tmp_path, "p04")
    after = exams([name for name in named(9) if name != "p04"])
    second = people(after, asked(tmp_path, after))
    assert len(first - second) == MINIMUM
    assert "p04" in first - second
    assert people(after, asked(tmp_path, after)) == second  # the others of the block do not come back
    more = exams([*sorted(set(after.patients)), *named(2, first=20)])
    assert people(more, asked(tmp_path, more)) == second  # nor together with new ones


def test_new_patients_wait_until_they_are_a_block(tmp_path: Path) -> None:
    asked(tmp_path, exams(named(4)))
    two_more = exams(named(6))
    assert people(two_more, asked(tmp_path, two_more)) == set(named(4))
    three_more = exams(named(7))
    assert people(three_more, asked(tmp_path, three_more)) == set(named(7))


def test_corrected_grades_and_machines_do_not_move_a_table(tmp_path: Path) -> None:
    now = exams(named(6))
    (before,) = asked(tmp_path, now)
    corrected = replace(
        now,
        references={"hypertrophy": (now.references["hypertrophy"] + 1) % 4},
        devices=["B", "B", *now.devices[2:]],
    )
    after = {one.device: one for one in asked(tmp_path, corrected)}
    np.testing.assert_array_equal(after["A"].rows, before.rows)
    np.testing.assert_array_equal(after["A"].reference, before.reference)
    assert len(after["B"].rows) == 0


def test_a_campaign_that_cannot_use_one_exam_does_without_its_block(tmp_path: Path) -> None:
    whole = exams(named(6))
    asked(tmp_path, whole)
    lacking = replace(
        whole,
        exams=whole.exams[1:],
        patients=whole.patients[1:],
        devices=whole.devices[1:],
        references={"hypertrophy": whole.references["hypertrophy"][1:]},
    )
    assert len(people(lacking, asked(tmp_path, lacking))) == 6 - MINIMUM
    assert len(people(whole, asked(tmp_path, whole))) == 6


def test_a_campaign_with_fewer_grades_does_without_blocks_that_have_more(tmp_path: Path) -> None:
    now = exams(named(9))
    asked(tmp_path, now)
    cut = np.minimum(now.references["hypertrophy"], 1)
    (found,) = asked(tmp_path, replace(now, grades={"hypertrophy": 2}, references={"hypertrophy": cut}))
    assert (found.reference < 2).all()


def test_a_higher_minimum_joins_blocks(tmp_path: Path) -> None:
    now = exams(named(9))
    asked(tmp_path, now)
    assert len(people(now, asked(tmp_path, now, minimum=5))) == 6  # the third block is too small by itself
    assert len(people(now, asked(tmp_path, now))) == 9


def test_what_was_frozen_and_cannot_be_read_stops_everything(tmp_path: Path) -> None:
    asked(tmp_path, exams(named(4)))
    frozen(tmp_path).write_text("{", encoding="utf-8")
    with pytest.raises(SiteStateError, match="put it back from a backup"):
        asked(tmp_path, exams(named(4)))
    with pytest.raises(SiteStateError, match="put it back from a backup"):
        held_out.forget(tmp_path, "p01")


def test_a_site_that_never_gave_tables_has_nothing_to_forget(tmp_path: Path) -> None:
    held_out.forget(tmp_path, "p01")
    assert list(tmp_path.iterdir()) == []


EVENTS = st.lists(
    st.tuples(st.sampled_from(["join", "withdraw", "lack", "ungrade", "ask"]), st.integers(0, 29)),
    min_size=1,
    max_size=25,
)


@given(events=EVENTS, minimum=st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_no_two_tables_differ_in_fewer_patients_than_the_minimum(
    tmp_path_factory: pytest.TempPathFactory, events: Sequence[tuple[str, int]], minimum: int
) -> None:
    """Whatever happens between them; and whom they have in common are whole blocks, too."""
    folder = tmp_path_factory.mktemp("site")
    here, gone = set(named(10)), set[str]()
    shown: list[set[str]] = []
    for event, number in events:
        name = f"p{number:02d}"
        lacking, ungraded = set[str](), set[str]()
        if event == "join" and name not in gone:
            here.add(name)
        elif event == "withdraw" and name in here:
            here.remove(name)
            gone.add(name)
            held_out.forget(folder, name)
        elif event == "lack":
            lacking = {name}
        elif event == "ungrade":
            ungraded = {name}
        now = exams(sorted(here - lacking), each=1, ungraded=sorted(ungraded))
        found = people(now, asked(folder, now, minimum=minimum))
        assert not found or len(found) >= minimum
        shown.append(found)
    for one, other in combinations(shown, 2):
        for part in (one - other, other - one, one & other):
            assert not part or len(part) >= minimum
