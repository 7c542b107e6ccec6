import pytest

from client.policy import Policy
from common.errors import PolicyError
from tests.site_folders import make_settings

OPEN = Policy(allow_unprotected=True, methods=("*",))


def test_nothing_is_permitted_unless_the_site_says_so():
    with pytest.raises(PolicyError, match="allow_unprotected"):
        Policy().check_plan(make_settings())
    with pytest.raises(PolicyError, match=r"policy.methods"):
        Policy(allow_unprotected=True).check_plan(make_settings())
    assert not Policy().permits_histograms


def test_what_is_permitted_may_run():
    OPEN.check_plan(make_settings())
    Policy(allow_unprotected=True, methods=("rating",)).check_plan(make_settings())


def test_a_star_does_not_permit_somebody_elses_code():
    foreign = make_settings().model_copy(update={"method": "their.package:Method"})
    with pytest.raises(PolicyError, match=r"their\.package:Method"):
        OPEN.check_plan(foreign)
    OPEN.model_copy(update={"methods": ("their.package:Method",)}).check_plan(foreign)


def test_more_rounds_than_permitted_are_refused():
    with pytest.raises(PolicyError, match=r"has 10 rounds, policy.maximum_rounds"):
        OPEN.model_copy(update={"maximum_rounds": 9}).check_plan(make_settings())
