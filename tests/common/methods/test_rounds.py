from __future__ import annotations

from pathlib import Path

import pytest

import synofed
from common.methods.rounds import longest_stage_rounds, network_rounds, rounds_by_stage, total_rounds
from common.methods.stages import networks
from common.settings import Settings, load, parse
from common.training.local_settings import local_settings
from server.campaign.campaign_cost import stage_costs

CONFIGS = Path(synofed.__file__).parent / "configs"


def configured(name: str) -> Settings:
    return load(CONFIGS / f"{name}.toml")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rating", {"jigsaw": 50, "features": 50, "fusion": 50}),
        ("rating_small", {"jigsaw": 24, "features": 16, "fusion": 8}),
        ("christensen", {"cascade": 50}),
        ("rating_private", {"heads": 60}),
    ],
)
def test_the_rounds_of_each_stage_and_of_all(name: str, expected: dict[str, int]) -> None:
    settings = configured(name)
    assert rounds_by_stage(settings) == expected
    assert total_rounds(settings) == sum(expected.values())
    assert longest_stage_rounds(settings) == max(expected.values())


@pytest.mark.parametrize("name", ["rating_small", "andersen", "christensen", "rating_private", "quickstart"])
def test_cost_and_training_have_the_rounds_of_the_plan(name: str) -> None:
    settings = configured(name)
    if name == "andersen":
        settings = parse(
            (CONFIGS / "andersen.toml").read_text(encoding="utf-8"), overrides=["andersen.encoder=trained"]
        )
    by_stage = rounds_by_stage(settings)
    assert {cost.name: cost.rounds for cost in stage_costs(settings)} == by_stage
    rounds = {network_rounds(spec, settings) for spec in networks(settings).values()}
    assert rounds == set(by_stage.values())
    assert {local_settings(spec, settings).rounds for spec in networks(settings).values()} == rounds
