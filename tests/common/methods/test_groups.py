"""Groups of networks, which a centre and a site make of one plan by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import ConfigurationError
from common.methods import groups
from common.methods.stages import NetworkResult, Stage, method, stacked
from common.networks.spec import NetworkSpec, Target
from common.sections.methods import SvdhSettings
from common.settings import Settings
from tests.site_folders import make_settings

SECURE = "[federation.secure]\nsites = 3\nsurvivors = 3\ncolluders = 1\n"
STAGED = 'fusion = "staged"\npretraining = "jigsaw"\nreplicas = 2\n'


def one_score(name: str, text: str) -> Settings:
    return make_settings(measurements=("hypertrophy",), images=("doppler",), method=name, text=text + SECURE)


@pytest.mark.parametrize("secure", [False, True])
def test_a_centre_asks_for_groups_that_a_site_knows(secure: bool) -> None:
    settings = make_settings(text=STAGED + (SECURE if secure else ""))
    known = {(group.name, tuple(group.layouts)) for group in groups.planned(settings)}
    asked = [
        group for stage in method("rating").stages(settings, {}) for group in groups.of_stage(stage, settings)
    ]
    assert known == {(group.name, tuple(group.layouts)) for group in asked}
    assert len(known) == len(asked) >= 3
    names = [name for group in asked for name in group.layouts]
    assert sorted(names) == sorted(
        spec.name for s in method("rating").stages(settings, {}) for spec in s.networks
    )
    assert all(len(group.tasks) == 1 for group in asked) == secure


def test_with_noise_all_heads_are_one_group() -> None:
    noised = "[privacy]\npatients = 9\nnoise_multiplier = 4.0\n"
    for text in (noised, noised.replace("noise_multiplier = 4.0", 'mechanism = "none"')):
        (group,) = groups.planned(make_settings(method="probe", weights="imagenet", text=text + SECURE))
        assert group.tasks == {"hypertrophy", "vascularity"}


def test_a_stage_that_chooses_may_ask_for_any_choice_and_for_no_mixture() -> None:
    text = '[andersen]\nencoder = "trained"\nbackbone = "small"\nbinary_backbone = "small"\nlayers = 3\n'
    settings = one_score("andersen", text)
    known = {(group.name, tuple(group.layouts)) for group in groups.planned(settings)}
    (*_, ensemble) = method("andersen").stages(settings, {})
    best = {
        f"andersen/hypertrophy/layer{layer}": NetworkResult(
            best_round=1, auc=0.5, threshold=0.5, accuracy=layer / 10
        )
        for layer in range(3)
    }
    (*_, chosen) = method("andersen").stages(settings, best)
    for stage in (ensemble, chosen):
        for group in groups.of_stage(stage, settings):
            assert (group.name, tuple(group.layouts)) in known
    mixed = replace(chosen, networks=(*ensemble.networks[:1], *chosen.networks[1:]))
    assert (
        len(chosen.networks) == 1
        or not {(group.name, tuple(group.layouts)) for group in groups.of_stage(mixed, settings)} <= known
    )


def test_alternatives_that_are_no_whole_choices_are_no_groups() -> None:
    settings = make_settings(text=STAGED + SECURE)
    (*_, fusion) = method("rating").stages(settings, {})
    odd = Stage(name="odd", networks=fusion.networks[:2], alternatives=fusion.networks[2:5])
    with pytest.raises(ConfigurationError, match="whole choices of 2 networks each, got 3"):
        list(groups._choices(odd))


def test_tasks_are_measurements_and_thresholds() -> None:
    tasks = {group.tasks for group in groups.planned(make_settings(text=STAGED + SECURE))}
    found = {task for names in tasks for task in names}
    assert {"hypertrophy>0", "hypertrophy>2", "vascularity>1"} < found
    assert {task for task in found if "puzzles" in task} == {"gs puzzles"}


@pytest.mark.parametrize("group_bytes", [1, 2**40])
def test_networks_that_are_stacked_are_asked_about_one_folds_patients_together(group_bytes: int) -> None:
    settings = make_settings(measurements=("hypertrophy",), method="svdh").model_copy(
        update={"svdh": SvdhSettings(backbones=("small", "vgg16"))}
    )
    federation = settings.federation.model_copy(update={"group_bytes": group_bytes})
    settings = settings.model_copy(update={"federation": federation})
    specs = [
        NetworkSpec(
            name=f"fold{fold}/{backbone}/{kind}",
            images=("gs",),
            target=Target(measurement="x", kind=kind, threshold=None, classes=2),
            fold=fold,
            backbone=backbone,
        )
        for fold in range(2)
        for kind in ("regression", "nominal")
        for backbone in ("vgg16", "small")
    ]
    packed = groups.of_stage(Stage(name="s", networks=tuple(specs)), settings)
    assert len(packed) == (6 if group_bytes == 1 else 1)
    assert [spec for group in packed for spec in group.networks] == specs
    found = [stacked(group.networks, settings) for group in packed]
    together = {name: [s.backbone for s in members] for one in found for name, members in one.items()}
    assert together == {f"x/fold{fold}": ["small", "vgg16"] for fold in range(2)}
    mean = settings.model_copy(update={"svdh": SvdhSettings(stacking="mean")})
    assert stacked(specs, mean) == {}
