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


OWN = "their.package:Thing"


@pytest.mark.parametrize(
    ("section", "field"),
    [
        (None, "method"),
        ("network", "backbone"),
        ("andersen", "backbone"),
        ("andersen", "binary_backbone"),
        ("federation", "algorithm"),
    ],
)
def test_a_star_of_methods_does_not_permit_somebody_elses_code(section, field):
    settings = make_settings()
    if section is None:
        foreign = settings.model_copy(update={field: OWN})
    else:
        part = getattr(settings, section).model_copy(update={field: OWN})
        foreign = settings.model_copy(update={section: part})
    with pytest.raises(PolicyError, match=rf"{field} is 'their\.package:Thing'.*policy.code"):
        OPEN.check_plan(foreign)
    with pytest.raises(PolicyError, match=r"policy\.code"):
        OPEN.model_copy(update={"code": ("their.package:Other",)}).check_plan(foreign)
    for code in (OWN, "*"):
        OPEN.model_copy(update={"code": (code,)}).check_plan(foreign)


def test_a_rule_of_ones_own_runs_at_the_centre_and_needs_no_permission():
    settings = make_settings()
    federation = settings.federation.model_copy(update={"rule": OWN})
    OPEN.check_plan(settings.model_copy(update={"federation": federation}))


def test_more_rounds_than_permitted_are_refused():
    with pytest.raises(PolicyError, match=r"has 10 rounds, policy.maximum_rounds"):
        OPEN.model_copy(update={"maximum_rounds": 9}).check_plan(make_settings())
