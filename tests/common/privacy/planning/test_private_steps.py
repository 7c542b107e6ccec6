"""What a plan's private steps are: one answer for sites, centre and audit."""

from common.methods.stages import networks
from common.privacy.planning.private_steps import class_weights, kind, steps, steps_per_round
from common.settings import Settings
from tests.site_folders import make_settings

WHOLE = """models = 1
replicas = 1
codes = "classes"
[federation]
rounds = 3
[training]
local_steps = 4
sampling = "all"
[privacy]
noise_multiplier = 4.0
patients = 6
"""
WEIGHTS = "[privacy.class_weights]\nhypertrophy = [1.0, 2.0, 4.0]\n"


def whole(text: str = "") -> Settings:
    """One whole network that tells three grades apart."""
    return make_settings(images=("gs",), measurements=("hypertrophy",), grades=3, text=WHOLE + text)


def heads() -> Settings:
    text = "[federation]\nrounds = 3\n[privacy]\nnoise_multiplier = 4.0\npatients = 6\n" + WEIGHTS
    return make_settings(measurements=("hypertrophy",), grades=3, text=text, method="probe", weights="public")


def test_heads_are_one_sum_a_round_and_whole_networks_are_steps() -> None:
    assert (kind(heads().method), steps(heads()), steps_per_round(heads())) == ("private-sum", 3, 1)
    assert (kind(whole().method), steps(whole()), steps_per_round(whole())) == ("private-step", 12, 4)


def test_class_weights_are_the_plans_of_networks_that_tell_grades_apart() -> None:
    plan = whole(WEIGHTS)
    (spec,) = networks(plan).values()
    assert class_weights(spec, plan) == (1, 2, 4)
    assert class_weights(spec, whole()) == (1, 1, 1)
    bits = plan.model_copy(update={"rating": plan.rating.model_copy(update={"codes": "ecoc"})})
    assert class_weights(next(iter(networks(bits).values())), bits) == (1, 1)
    assert {class_weights(head, heads()) for head in networks(heads()).values()} == {(1, 2, 4)}
