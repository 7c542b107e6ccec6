"""Counts of patients: none is of fewer than the site's own rule asks for, nor follows from the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UpdateError
from common.evaluation.inside import site_statistics
from common.evaluation.inside.site_statistics import Counted, SiteStatistics


@given(
    values=st.lists(st.tuples(st.integers(0, 30).map(str), st.sampled_from("abcde")), max_size=80),
    minimum=st.integers(1, 8),
)
def test_no_count_is_of_fewer_than_the_minimum(values: list[tuple[str, str]], minimum: int) -> None:
    found = site_statistics.count(values, minimum=minimum)
    assert all(count >= minimum for count in found.values.values())
    assert found.others == 0 or found.others >= minimum
    patients = {value: {p for p, v in values if v == value} for _, value in values}
    assert all(len(patients[value]) == count for value, count in found.values.items())
    unnamed = {p for value, of in patients.items() if value not in found.values for p in of}
    if found.values:  # nobody follows by subtraction
        assert found.others == len(unnamed)


def test_who_is_too_few_is_put_together_with_the_next() -> None:
    values = [(str(patient), "a") for patient in range(9)]
    values += [(str(patient), "b") for patient in range(9, 15)]
    values += [("15", "c"), ("16", "d")]
    assert site_statistics.count(values, minimum=5) == Counted(values={"a": 9}, others=8)
    assert site_statistics.count(values[-2:], minimum=5) == Counted(values={}, others=0)


@pytest.mark.parametrize(
    ("age", "decade"),
    [(0, "0 to 9"), (49, "40 to 49"), (50, "50 to 59"), (90, "90 and over"), (104, "90 and over")],
)
def test_decades(age: int, decade: str) -> None:
    assert site_statistics.decade(age) == decade


def test_what_no_site_can_say_is_refused() -> None:
    said = SiteStatistics(
        site="north", minimum_cohort=5, characteristics={"device": Counted(values={"A": 6}, others=5)}
    ).dump()
    assert site_statistics.parse(said).characteristics["device"].values == {"A": 6}
    for wrong in (said.replace('"A":6', '"A":4'), said.replace('"others":5', '"others":3'), "{}", said[:-1]):
        with pytest.raises(UpdateError, match="a site's statistics"):
            site_statistics.parse(wrong)
