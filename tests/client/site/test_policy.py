from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from client.site.policy import Policy
from common.errors import ConfigurationError, HoursError, PolicyError
from common.methods.christensen import Christensen
from common.methods.stages import NetworkResult, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings
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
        permitted = OPEN.model_copy(update={"code": (code,)})
        if field == "method":  # only now is it asked what it trains
            with pytest.raises(
                ConfigurationError, match=r"method = 'their\.package:Thing' cannot be imported"
            ):
                permitted.check_plan(foreign)
        else:
            permitted.check_plan(foreign)


def test_a_rule_of_ones_own_runs_at_the_centre_and_needs_no_permission() -> None:
    settings = make_settings()
    federation = settings.federation.model_copy(update={"rule": OWN})
    OPEN.check_plan(settings.model_copy(update={"federation": federation}))


STAGES = make_settings(text='pretraining = "jigsaw"\n[rating.jigsaw]\nrounds = 12')
"""Jigsaw 12, features 10, fusion 10."""


class Greedy(Christensen):
    """One stage, which may choose a network that asks for more rounds than the campaign has."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        target = Target(measurement="hypertrophy")
        yield Stage(
            name="all",
            networks=(NetworkSpec(name="few", images=("gs",), target=target),),
            alternatives=(NetworkSpec(name="many", images=("gs",), target=target, rounds=50_000),),
        )


def test_the_policy_limits_the_rounds_of_all_stages_together() -> None:
    newest = OPEN.model_copy(update={"version": 2})
    newest.model_copy(update={"maximum_rounds": 32}).check_plan(STAGES)
    with pytest.raises(
        PolicyError,
        match=r"has 32 rounds \(jigsaw 12, features 10, fusion 10\), policy.maximum_rounds .* is 31",
    ):
        newest.model_copy(update={"maximum_rounds": 31}).check_plan(STAGES)


def test_a_policy_of_the_first_version_limits_each_stage() -> None:
    OPEN.model_copy(update={"maximum_rounds": 12}).check_plan(STAGES)
    with pytest.raises(PolicyError, match=r"has 12 rounds in one stage .*policy.maximum_rounds .* is 11"):
        OPEN.model_copy(update={"maximum_rounds": 11}).check_plan(STAGES)


@pytest.mark.parametrize("version", [1, 2])
def test_the_rounds_that_a_method_gives_its_networks_are_looked_at(version: int) -> None:
    greedy = make_settings().model_copy(update={"method": f"{__name__}:Greedy"})
    policy = OPEN.model_copy(update={"version": version, "code": ("*",), "maximum_rounds": 20})
    with pytest.raises(PolicyError, match="has 50000 rounds"):
        policy.check_plan(greedy)


def test_a_version_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValidationError, match="version"):
        Policy.model_validate({"version": 3})


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


DIAGNOSIS = make_settings(
    measurements=("synovitis",),
    text="""
[measurements.rheumatoid]
column = "diagnosis"
classes = [["RA+", "RA-"], ["PsA", "SpA"]]
images = ["gs"]
""",
)


def test_a_diagnosis_is_learnt_only_where_the_policy_says_so() -> None:
    assert DIAGNOSIS.diagnoses == ("rheumatoid",)
    with pytest.raises(PolicyError, match=r"learn a diagnosis \(rheumatoid\): set policy.diagnosis = true"):
        OPEN.check_plan(DIAGNOSIS)
    permitting = OPEN.model_copy(update={"diagnosis": True})
    permitting.check_plan(DIAGNOSIS)
    assert permitting.of_class(DIAGNOSIS) == {"rheumatoid": 20}
    assert permitting.of_class(make_settings()) == {}


def test_tables_of_held_out_patients_by_diagnosis_do_not_leave() -> None:
    asking = DIAGNOSIS.model_copy(
        update={"campaign": DIAGNOSIS.campaign.model_copy(update={"evaluation": True})}
    )
    permitting = OPEN.model_copy(update={"diagnosis": True})
    permitting.check_plan(asking)  # this site sends no tables anyway
    with pytest.raises(PolicyError, match="tables are of grades alone"):
        permitting.model_copy(update={"federated_evaluation": True}).check_plan(asking)


def test_a_policy_that_says_nothing_of_diagnoses_is_signed_as_before() -> None:
    assert not {"diagnosis", "diagnosis_cohort"} & set(Policy().model_dump())
    assert Policy(diagnosis=True).model_dump()["diagnosis"] is True
