"""Rules of validity for any measurements: the example of docs/extending.md, and what is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigurationError
from common.exam import repair
from common.scoring import multitude, validity
from common.settings import Settings, load, parse

TNM = Path(__file__).parents[3] / "docs" / "examples" / "tnm.toml"
FORBIDDEN = "validity={forbidden=[{t=0,n=[1,2]},{t=0,m=1}]}"
PAIR = """
name = "pair"
[images.gs]
kind = "grey"
[measurements]
a = {images = ["gs"]}
b = {images = ["gs"], grades = 2}
"""


@pytest.fixture(name="tnm", scope="module")
def _tnm() -> Settings:
    return load(TNM)


def test_tnm_stage_groups_leave_25_of_30_combinations(tnm: Settings) -> None:
    possible = validity.possible(tnm)
    assert possible.shape == (5, 3, 2)
    assert possible.sum() == 25
    assert possible[0].sum() == 1, "a carcinoma in situ has no metastases"


def test_allowed_and_forbidden_say_the_same_rule(tnm: Settings) -> None:
    forbidden = load(TNM, overrides=[FORBIDDEN])
    np.testing.assert_array_equal(validity.possible(forbidden), validity.possible(tnm))


def test_multitude_answers_a_stage_that_can_be(tnm: Settings) -> None:
    votes = np.array([[[0, 1, 1]] * 3 + [[1, 1, 1]] * 2])  # most say Tis, and all see metastases
    answer = multitude.decide(votes, values=(5, 3, 2), is_valid=validity.predicate(tnm))
    assert answer.decision.tolist() == [[1, 1, 1]]
    assert answer.contested.all()
    assert multitude.majority(votes, values=(5, 3, 2)).tolist() == [[0, 1, 1]]


def test_a_consensus_is_repaired_to_the_nearest_stage(tnm: Settings) -> None:
    fixed = repair(
        {"t": 0, "n": 2, "m": 1}, grades={"t": 5, "n": 3, "m": 2}, is_valid=validity.predicate(tnm)
    )
    assert fixed == {"t": 1, "n": 2, "m": 1}


def test_what_is_not_known_yet_may_still_fit(tnm: Settings) -> None:
    for rule in (tnm, load(TNM, overrides=[FORBIDDEN])):
        object_to = validity.objection(rule)
        assert object_to({"t": 0, "n": 0, "m": None}) is None
        assert object_to({"t": None, "n": 2, "m": 1}) is None
        assert object_to({"t": 0, "n": 2, "m": None}) is not None, "whatever m is"
    named = validity.objection(load(TNM, overrides=[FORBIDDEN]))({"t": 0, "n": 2, "m": 0})
    assert named == "validity.forbidden has t 0, n 1|2"


def test_the_rule_is_part_of_the_plan_and_survives_its_json(tnm: Settings) -> None:
    hashes = {load(TNM, overrides=[rule]).plan_hash() for rule in ('validity="any"', FORBIDDEN)}
    assert len(hashes | {tnm.plan_hash()}) == 3
    again = Settings.model_validate({"name": "again", **tnm.plan()})
    assert again.validity == tnm.validity
    assert again.plan_hash() == tnm.plan_hash()


def test_one_grade_and_a_list_of_it_are_the_same_rule() -> None:
    rules = ("validity={forbidden=[{a=0,b=1}]}", "validity={forbidden=[{a=[0,0],b=[1]}]}")
    one, other = (parse(PAIR, overrides=[rule]) for rule in rules)
    assert one.plan_hash() == other.plan_hash()


def test_eoss_by_name_and_as_a_table_are_the_same_pairs() -> None:
    text = (
        PAIR.replace("a =", "hypertrophy =")
        .replace("b =", "vascularity =")
        .replace("grades = 2", "grades = 4")
    )
    table = parse(text, overrides=["validity={forbidden=[{hypertrophy=0,vascularity=[1,2,3]}]}"])
    named = parse(text, overrides=["validity=eoss"])
    np.testing.assert_array_equal(validity.possible(table), validity.possible(named))
    every = itertools.product(range(4), repeat=2)
    assert sum(map(validity.predicate(named), every)) == 13


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{forbidden=[{c=0}]}", r"validity.forbidden \(c 0\) names c; the measurements are \['a', 'b'\]"),
        ("{allowed=[{a=[1,4]}]}", r"validity.allowed \(a 1\|4\) names a 4; its grades are 0 to 3"),
        ("{forbidden=[{b=[0,1]}]}", "validity leaves no combination of grades that can be"),
        ("{allowed=[{a=0,b=0}],forbidden=[{a=0}]}", "validity leaves no combination"),
        ("{}", "validity has neither allowed nor forbidden combinations"),
        ("{forbidden=[{}]}", "at least 1 item"),
        ("{forbidden=[{a=[]}]}", "at least 1 item"),
        ("{forbidden=[{a=-1}]}", "greater than or equal to 0"),
        ("{permitted=[{a=1}]}", "no such setting"),
        ('"all"', "'eoss' or 'any'"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(rule: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse(PAIR, overrides=[f"validity={rule}"])
