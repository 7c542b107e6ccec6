from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from client.site.policy import Policy
from common.errors import HoursError, PolicyError
from tests.site_folders import make_settings

OPEN = Policy(allow_unprotected=True, methods=("*",), metrics=("counts",))


def test_nothing_is_permitted_unless_the_site_says_so() -> None:
    with pytest.raises(PolicyError, match="allow_unprotected"):
        Policy().check_plan(make_settings())
    with pytest.raises(PolicyError, match=r"policy.methods"):
        Policy(allow_unprotected=True).check_plan(make_settings())
    assert not Policy().permits("score_histograms")


def test_what_is_permitted_may_run() -> None:
    OPEN.check_plan(make_settings())
    OPEN.model_copy(update={"methods": ("rating",)}).check_plan(make_settings())


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
def test_a_star_of_methods_does_not_permit_somebody_elses_code(section: str | None, field: str) -> None:
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


def test_a_rule_of_ones_own_runs_at_the_centre_and_needs_no_permission() -> None:
    settings = make_settings()
    federation = settings.federation.model_copy(update={"rule": OWN})
    OPEN.check_plan(settings.model_copy(update={"federation": federation}))


def test_more_rounds_than_permitted_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"has 10 rounds, policy.maximum_rounds"):
        OPEN.model_copy(update={"maximum_rounds": 9}).check_plan(make_settings())


def test_the_rounds_of_every_stage_are_looked_at() -> None:
    settings = make_settings(text='pretraining = "jigsaw"\n[rating.jigsaw]\nrounds = 12')
    with pytest.raises(PolicyError, match=r"has 12 rounds, policy.maximum_rounds"):
        OPEN.model_copy(update={"maximum_rounds": 11}).check_plan(settings)


def test_updates_that_are_weighed_by_counts_need_counts() -> None:
    silent = OPEN.model_copy(update={"metrics": ()})
    with pytest.raises(PolicyError, match=r"'counts' to policy.metrics"):
        silent.check_plan(make_settings())
    silent.check_plan(make_settings(text='[federation]\nrule = "median"'))


def test_outside_its_hours_the_site_says_when() -> None:
    nights = OPEN.model_copy(update={"hours": ("mon-fri 19:00-07:00",), "time_zone": "Europe/Copenhagen"})
    nights.check_hours(datetime(2026, 1, 5, 18, 0, tzinfo=UTC))  # a Monday, 19:00 there
    with pytest.raises(HoursError, match="mon-fri 19:00-07:00"):
        nights.check_hours(datetime(2026, 1, 5, 17, 59, tzinfo=UTC))
    OPEN.check_hours()
    assert OPEN.windows() == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"hours": ["at night"]},
        {"hours": ["mon-fry 19:00-07:00"]},
        {"hours": ["mon 25:00-07:00"]},
        {"time_zone": "Europe/Nowhere"},
        {"time_zone": "../../etc/passwd"},
        {"metrics": ["everything"]},
        {"keep_outbox_days": -1},
        {"maximum_update_bytes": 0},
        {"approval": "none"},
        {"score_histograms": True},
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Policy.model_validate(wrong)
