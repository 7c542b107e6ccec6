from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common import preflight
from common.errors import ConfigurationError
from common.methods.stages import networks
from common.networks import build
from common.preflight import _Trial
from common.settings import Settings, load, parse
from tests.marks import SOAK_CI
from tests.site_folders import make_settings

CONFIGS = Path(__file__).parents[2] / "configs"


def configured(backbone: str, px: int, *, batch_size: int = 4, sampling: str = "balanced") -> Settings:
    return make_settings(
        backbone=backbone,
        image_px=px,
        text=f'[training]\nbatch_size = {batch_size}\nsampling = "{sampling}"',
    )


@pytest.mark.parametrize(
    ("backbone", "px", "smallest"),
    [
        pytest.param("inception_v3", 16, 75, marks=SOAK_CI),
        pytest.param("inception_v3", 74, 75, marks=SOAK_CI),
        ("vgg16", 16, 32),
        ("vgg16", 31, 32),
    ],
)
def test_pictures_too_small_for_a_network_are_refused_with_the_smallest_that_works(
    backbone: str, px: int, smallest: int
) -> None:
    with pytest.raises(
        ConfigurationError, match=f"Raise network.image_px to {smallest}, the smallest"
    ) as raised:
        preflight.check(configured(backbone, px))
    assert f"pictures of {px} px" in str(raised.value)
    preflight.check(configured(backbone, smallest))


BACKBONES = [
    *("small", "resnet18"),
    *(pytest.param(name, marks=SOAK_CI) for name in ("mobilenet_v2", "vgg16")),
    pytest.param("inception_v3", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_works_at_its_smallest_side_and_above(backbone: str) -> None:
    smallest = {"small": 16, "resnet18": 16, "mobilenet_v2": 16, "vgg16": 32, "inception_v3": 75}[backbone]
    for px in (smallest, smallest + 1, 224):
        preflight.check(configured(backbone, px))


def test_a_norm_over_a_batch_cannot_learn_from_one_value() -> None:
    with pytest.raises(
        ConfigurationError, match=r"batches of 1 exam.*Set training.batch_size .* to 2 or more"
    ) as raised:
        preflight.check(configured("resnet18", 32, batch_size=1))
    assert "raise network.image_px to 33" in str(raised.value)  # then the last layer has four values
    preflight.check(configured("resnet18", 33, batch_size=1))
    preflight.check(configured("resnet18", 32, batch_size=2))
    preflight.check(configured("resnet18", 32, batch_size=1, sampling="all"))  # never fewer than two classes
    preflight.check(configured("small", 32, batch_size=1))


def test_tiles_too_small_are_refused_too() -> None:
    puzzles = 'pretraining = "jigsaw"\n[rating.jigsaw]\ntile_px = 16\nimage_px = 120'
    with pytest.raises(ConfigurationError, match=r"tiles of 16 px.*Raise rating.jigsaw.tile_px to 32"):
        preflight.check(make_settings(backbone="vgg16", image_px=32, text=puzzles))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_found_without_memory_is_what_is_found_with_it(backbone: str) -> None:
    for px in (16, 32, 33, 75):
        settings = configured(backbone, px)
        spec = next(iter(networks(settings).values()))
        for exams in (1, 2):
            trial = _Trial(spec=spec, network=settings.network, exams=exams, side_px=px)
            assert bool(trial.said("meta")) == bool(trial.said("cpu"))


class LooksAtValues(nn.Module):
    """A backbone of one's own that cannot be run without numbers."""

    def __init__(self, settings: object) -> None:
        super().__init__()
        self.features = 3
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.linear(x.mean((2, 3)))
        return features if float(x.sum()) == 0 else -features


class Broken(LooksAtValues):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


def test_backbones_of_ones_own_are_tried_with_numbers_where_shapes_do_not_tell() -> None:
    preflight.check(configured(f"{__name__}:LooksAtValues", 16))
    with pytest.raises(ConfigurationError, match=r"Broken .* cannot: RuntimeError"):
        preflight.check(configured(f"{__name__}:Broken", 16))


def test_a_norm_that_keeps_statistics_is_refused_under_privacy() -> None:
    config = CONFIGS / "opacus_one_network.toml"
    preflight.check(load(config))
    with pytest.raises(
        ConfigurationError, match="norms that keep nothing of what they have seen, got BatchNorm2d"
    ):
        preflight.check(load(config, overrides=["network.backbone=resnet18"]))


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_can_be_trained(config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    if "[measurements" not in text:
        pytest.skip("no plan")
    preflight.check(parse(text))


def test_nothing_is_drawn_or_kept() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    settings = configured("resnet18", 32)
    preflight.check(settings)
    assert torch.equal(before, torch.random.get_rng_state())
    assert next(
        build.described(next(iter(networks(settings).values())), settings.network).parameters()
    ).is_meta
