from pathlib import Path

import pytest

from common.errors import ConfigurationError
from common.settings import load, parse

SHIPPED = sorted(
    path for path in (Path(__file__).parents[2] / "configs").glob("*.toml") if ".example" not in path.suffixes
)
CONFIGS = [path for path in SHIPPED if "[rows." not in path.read_text(encoding="utf-8")]
MINIMAL = """
name = "x"
[images.gs]
kind = "grey"
[measurements.steatosis]
grades = 3
images = ["gs"]
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_that_ships_can_be_read(path: Path) -> None:
    assert load(path).name


def test_overrides_are_toml_or_text() -> None:
    settings = parse(MINIMAL, overrides=["federation.rounds=7", "training.optimiser=sgd", 'name="y"'])
    assert (settings.federation.rounds, settings.training.optimiser, settings.name) == (7, "sgd", "y")


def test_all_that_is_wrong_is_said_at_once() -> None:
    text = MINIMAL + "[federation]\nround = 3\nrounds = 0\n[network]\nbackbone = 'vgg'\n"
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    message = str(raised.value)
    assert "federation.round: no such setting" in message
    assert "federation.rounds: " in message
    assert "network.backbone" in message


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("federation.round", "federation.rounds"),
        ("federaton.rounds", "federation"),
        ("local_steps", "training.local_steps or rating.jigsaw.local_steps or rating.head.local_steps"),
        (
            "federation.batch_size",
            "training.batch_size or rating.jigsaw.batch_size or rating.head.batch_size",
        ),
    ],
)
def test_an_unknown_setting_stands_beside_what_may_be_meant(given: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"no such setting: is {meant} meant\?$"):
        parse(MINIMAL, overrides=[f"{given}=3"])


def test_an_unknown_setting_that_is_like_no_other_gets_no_guess() -> None:
    with pytest.raises(ConfigurationError, match=r"colour: no such setting$"):
        parse(MINIMAL, overrides=["colour=3"])


def test_a_study_is_no_configuration_of_a_run() -> None:
    with pytest.raises(ConfigurationError, match=r"got a study's, of several: synofed study x\.toml$"):
        parse("[rows.a]\n", source="x.toml")


def test_unknown_image_and_eoss_without_its_measurements_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the images are"):
        parse(MINIMAL.replace('images = ["gs"]', 'images = ["doppler"]'))
    with pytest.raises(ConfigurationError, match="eoss"):
        parse('validity = "eoss"\n' + MINIMAL)


def test_a_missing_file_and_broken_toml_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Expected a configuration file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="not TOML"):
        parse("name = ")
    with pytest.raises(ConfigurationError, match="key=value"):
        parse(MINIMAL, overrides=["rounds"])


def test_a_mean_needs_both_of_its_sides() -> None:
    assert parse(MINIMAL, overrides=['personal.candidates=["network", "mean"]']).personal is not None
    with pytest.raises(ConfigurationError, match='"mean", which needs "network" beside it'):
        parse(MINIMAL, overrides=['personal.candidates=["mean"]'])


def test_the_plan_has_what_changes_what_leaves_and_nothing_else() -> None:
    plain = parse(MINIMAL)
    same = (
        "compute.threads=2",
        "name=z",
        "evaluate.bootstrap=200",
        "evaluate.baselines=true",
        "personal.steps=9",
    )
    for override in same:
        assert parse(MINIMAL, overrides=[override]).plan_hash() == plain.plan_hash()
    for override in ("seed=1", "federation.rounds=11", "evaluate.held_out=0.4", "network.image_px=32"):
        assert parse(MINIMAL, overrides=[override]).plan_hash() != plain.plan_hash()


def test_andersens_later_settings_leave_older_plans_as_they_were_and_no_image_split_is_private() -> None:
    text = """
name = "a"
method = "andersen"
[images.doppler]
kind = "doppler"
[measurements.vascularity]
images = ["doppler"]
"""
    plain = parse(text)
    assert set(plain.plan()["andersen"]) == {
        "binary_backbone", "backbone", "encoder", "layers", "learning_rates", "batch_sizes",
    }  # fmt: skip
    assert plain.split_by == "patient"
    image = parse(text, overrides=["andersen.split=image"])
    assert image.split_by == "image"
    assert image.plan_hash() != plain.plan_hash()
    assert parse(text, overrides=["andersen.split=image", "method=rating"]).split_by == "patient"
    private = [
        "andersen.split=image",
        "privacy={max_grad_norm=1,noise_multiplier=1,sample_rate=0.5,patients=90}",
    ]
    with pytest.raises(
        ConfigurationError, match=r'andersen\.split "image" is for campaigns without \[privacy\]'
    ):
        parse(text, overrides=private)
