from pathlib import Path

import numpy as np
import pytest
import torch

from common import settings as settings_file
from common.errors import ConfigurationError
from common.methods.multimodal import START, Multimodal
from common.methods.stages import Output, networks, stages_of
from common.networks import build
from common.preflight import check
from common.settings import Settings
from server.rounds.weights import StartWeights
from tests.site_folders import PUZZLES, make_settings

CONFIGS = Path(__file__).parents[3] / "configs"
SMALL = settings_file.load(CONFIGS / "multimodal_small.toml")
IMAGES = ("gs", "gs_clip", "doppler", "doppler_clip")


def test_there_is_one_network_for_each_image_and_it_knows_whether_it_moves() -> None:
    (stage,) = stages_of(SMALL)
    assert [spec.images for spec in stage.networks] == [(image,) for image in IMAGES]
    assert [spec.clips for spec in stage.networks] == [(), ("gs_clip",), (), ("doppler_clip",)]
    assert {(spec.start, spec.target.kind, spec.target.classes) for spec in stage.networks} == {
        (START, "nominal", 4)
    }
    assert Multimodal().scores(SMALL) == {"combined": 4}


def test_all_begin_with_the_same_backbone(tmp_path: Path) -> None:
    start = StartWeights(SMALL, tmp_path)
    specs = list(networks(SMALL).values())
    backbones = [
        build.part(spec, SMALL.network, torch.from_numpy(start.start(spec)), "backbone") for spec in specs
    ]
    for other in backbones[1:]:
        assert (other == backbones[0]).all()


def test_each_network_has_a_vote() -> None:
    rng = np.random.default_rng(0)
    outputs = [
        Output(spec=spec, probabilities=rng.dirichlet(np.ones(4), 7).astype(np.float32), threshold=0.5)
        for spec in networks(SMALL).values()
    ]
    votes = Multimodal().votes(outputs, SMALL)
    assert votes.shape == (7, 4, 1)
    assert (votes[:, 2, 0] == outputs[2].probabilities.argmax(axis=1)).all()


@pytest.mark.parametrize("name", ["multimodal", "multimodal_small"])
def test_the_configurations_can_train(name: str) -> None:
    settings = settings_file.load(
        CONFIGS / f"{name}.toml", overrides=["network.weights=none", "network.image_px=48"]
    )
    check(settings)


def test_a_plan_with_frames_is_another_plan() -> None:
    without = settings_file.load(CONFIGS / "multimodal_small.toml", overrides=["images.gs_clip.frames=4"])
    assert without.plan_hash() != SMALL.plan_hash()
    assert "frames" not in SMALL.plan()["images"]["gs"] and SMALL.plan()["images"]["gs_clip"]["frames"] == 8


def test_puzzles_of_a_clip_are_refused_when_planned() -> None:
    settings: Settings = make_settings(text=PUZZLES)
    images = {name: image.model_copy(update={"frames": 4}) for name, image in settings.images.items()}
    with pytest.raises(ConfigurationError, match="Expected a still to cut into puzzles"):
        networks(settings.model_copy(update={"images": images}))


def test_fused_networks_of_ratings_read_clips() -> None:
    settings = make_settings()
    images = {**settings.images, "doppler": settings.images["doppler"].model_copy(update={"frames": 4})}
    found = networks(settings.model_copy(update={"images": images}))
    assert {spec.clips for spec in found.values()} == {(), ("doppler",)}
    check(settings.model_copy(update={"images": images}))
