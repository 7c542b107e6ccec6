"""Networks computed at once say what each says alone; what has no rule is refused."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from common.ensemble.architecture import gather, weights_of
from common.networks import build
from common.networks.backbones import initialise
from common.networks.spec import NetworkSpec, Target
from common.networks.stacking import UnstackableError, logits, side_by_side, stacked_network
from common.sections.methods import JigsawSettings
from common.sections.networks import NetworkSettings

Layers = Callable[[Tensor], Tensor]


class Reader(nn.Module):
    """A network as the committee knows it: a list of pictures in, logits out."""

    def __init__(self, layers: Callable[[], nn.Module], *, features: int = 5, images: int = 1) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(layers() for _ in range(images))
        self.head = nn.Linear(features * images, 3)

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        found = [
            layers(picture).mean((2, 3)) for layers, picture in zip(self.backbones, pictures, strict=True)
        ]
        logits: Tensor = self.head(torch.cat(found, 1))
        return logits


class Does(nn.Module):
    """A convolution, then what a test wants to be done with its output."""

    def __init__(self, then: Layers) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.scale = nn.Parameter(torch.ones(5, 1, 1))
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.conv(x))


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Random weights and statistics, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in weights_of(network):
        values.data.normal_(0, 0.5, generator=generator)
        if name.endswith("running_var"):
            values.data.abs_().add_(0.1)
    return network.eval()


def assert_stacked_equals_loop(
    build: Callable[[], nn.Module], *, count: int = 3, n: int = 2, seed: int = 0, images: int = 1
) -> None:
    networks = [randomised(build(), seed + i) for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    pictures = [torch.randn(n, 3, 16, 16, generator=generator) for _ in range(images)]
    with torch.inference_mode():
        expected = torch.stack([network(pictures) for network in networks])
        found = logits(merge(networks), pictures, count)
    assert type(found) is Tensor
    assert (
        count == 1 or (expected[0] - expected[1]).abs().max() > 1e-3
    )  # networks that say the same would hide a mix-up
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def merge(networks: Sequence[nn.Module]) -> nn.Module:
    gathered = partial(
        gather, networks, dtype=torch.float32, device=torch.device("cpu"), memory_format=torch.channels_last
    )
    weights = {name: gathered(name) for name, _ in list(weights_of(networks[0]))}
    return stacked_network(networks[0], weights, len(networks))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(3, 5, 3, 2, 1),
    "grouped convolution": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 10, 3, groups=2), nn.Conv2d(10, 5, 1)
    ),
    "grouped convolution of the picture": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 5, 1)
    ),
    "dilated convolution without bias": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 3, dilation=2, padding="same", bias=False)
    ),
    "GroupNorm": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 5, 1)),
    "GroupNorm of the picture": lambda: nn.Sequential(nn.GroupNorm(1, 3), nn.Conv2d(3, 5, 3)),
    "BatchNorm": lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, eps=0.1), nn.ReLU()),
    "BatchNorm of the picture": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3)),
    "pools": lambda: nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(3, 5, 3), nn.AvgPool2d(2), nn.MaxPool2d(2, 1), nn.AdaptiveAvgPool2d(1)
    ),
    "activations": lambda: nn.Sequential(
        *(nn.Conv2d(3, 5, 3), nn.ReLU6(), nn.SiLU(), nn.Sigmoid(), nn.GELU(), nn.LeakyReLU(), nn.Dropout(0.5))
    ),
    "sum with a number": lambda: Does(lambda x: (1 - x) * 0.5 + x.relu() / 2 - 1),
    "sum with the picture": lambda: nn.Sequential(
        Does(lambda x: x), nn.Conv2d(5, 3, 1), Shortcut(), nn.Conv2d(6, 5, 1)
    ),
    "squeeze and excite": lambda: Does(lambda x: x * x.mean((2, 3), keepdim=True)),
    "maximum over the picture": lambda: Does(lambda x: x - x.amax((2, 3), keepdim=True)),
}


class Shortcut(nn.Module):
    """Concatenates activations with a constant that all networks share."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 3, *x.shape[2:])], dim=1)


@pytest.mark.parametrize("layers", LAYERS)
def test_layers_at_once_are_the_layers_of_each(layers: str) -> None:
    assert_stacked_equals_loop(lambda: Reader(LAYERS[layers]))


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**20))
def test_any_number_of_networks_pictures_and_images(count: int, n: int, images: int, seed: int) -> None:
    assert_stacked_equals_loop(
        lambda: Reader(LAYERS["BatchNorm"], images=images), count=count, n=n, seed=seed, images=images
    )


def test_a_network_sees_the_shapes_it_would_see_alone() -> None:
    seen: list[tuple[torch.Size, int, int]] = []

    def look(x: Tensor) -> Tensor:
        seen.append((x.shape, x.size(1), x.dim()))
        return x / x.shape[1]

    assert_stacked_equals_loop(lambda: Reader(lambda: Does(look)), count=3, n=2)
    assert set(seen) == {(torch.Size((2, 5, 14, 14)), 5, 4)}


UNKNOWN: dict[str, Layers] = {
    "another axis": lambda x: torch.cat([x, x], 0)[: len(x)],
    "mean over channels": lambda x: x - x.mean(1, keepdim=True),
    "maximum over channels": lambda x: x - x.amax(1, keepdim=True),
    "softmax over channels": lambda x: x.softmax(1),
    "order of channels": lambda x: x.flip(1),
    "a decision": lambda x: x if x.sum() > 0 else -x,
    "broadcast channels": lambda x: x + torch.ones(1, 1, 1, 1),
    "indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "training": lambda x: F.dropout(x, 0.5),
    "a constant": lambda x: F.conv2d(x, torch.ones(5, 5, 1, 1)),
}


@pytest.mark.parametrize("then", UNKNOWN)
def test_what_has_no_rule_is_refused(then: str) -> None:
    networks = [randomised(Reader(lambda: Does(UNKNOWN[then])), seed) for seed in range(2)]
    with pytest.raises(UnstackableError):
        logits(merge(networks), [torch.randn(2, 3, 16, 16)], 2)


def test_weights_outside_of_layers_are_refused() -> None:
    class Scaled(Does):
        def forward(self, x: Tensor) -> Tensor:
            scaled: Tensor = self.conv(x) * self.scale
            return scaled

    networks = [randomised(Reader(lambda: Scaled(F.relu)), seed) for seed in range(2)]
    with pytest.raises(UnstackableError):
        logits(merge(networks), [torch.randn(2, 3, 16, 16)], 2)


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        *((name, "images") for name in ("small", "resnet18", "mobilenet_v2", "vgg16")),
        ("small", "tiles"),
        pytest.param("inception_v3", "images", marks=pytest.mark.soak),
        pytest.param("resnet18", "tiles", marks=pytest.mark.soak),
    ],
)
def test_gradients_and_statistics_at_once_are_those_of_each(
    backbone: str, kind: Literal["images", "tiles"]
) -> None:
    """In double precision, where norms of few pictures do not make rounding large."""
    spec = NetworkSpec(name="x", images=("gs",), target=Target(measurement="grade", classes=5))
    if kind == "tiles":
        target = Target(measurement="gs", kind="permutation", classes=5)
        spec = spec.model_copy(update={"target": target, "jigsaw": JigsawSettings()})
    px = 75 if backbone == "inception_v3" else 32
    given = NetworkSettings(backbone=backbone, width=4, hidden=8, image_px=px)
    networks = [build.network(spec, given) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for network in networks:
        initialise(network, generator)
        network.double().train()
    shape = (3, 3, px, px) if kind == "images" else (2, 9, 3, 32, 32)
    pictures = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    weights = {
        name: torch.stack([dict(weights_of(network))[name].detach() for network in networks])
        for name, _ in weights_of(networks[0])
    }
    parameters = dict(networks[0].named_parameters())
    for name in parameters:
        weights[name].requires_grad_()
    merged = stacked_network(networks[0], weights, 2)
    found = logits(merged, [side_by_side(pictures.flatten(0, 1), 2)], 2)
    found.square().sum().backward()
    expected = [network([own]) for network, own in zip(networks, pictures, strict=True)]
    for place, (network, answer) in enumerate(zip(networks, expected, strict=True)):
        answer.square().sum().backward()
        torch.testing.assert_close(found[place], answer, rtol=1e-9, atol=1e-9)
        for name, values in weights_of(network):
            mine = weights[name].grad if name in parameters else weights[name]
            assert mine is not None
            wanted = values.grad if name in parameters else values
            torch.testing.assert_close(mine[place], wanted, rtol=1e-7, atol=1e-9, msg=name)
    assert not torch.equal(expected[0], expected[1])


def test_an_answer_that_is_not_logits_is_refused() -> None:
    class Maps(Reader):
        def forward(self, pictures: Sequence[Tensor]) -> Tensor:
            maps: Tensor = self.backbones[0](pictures[0])
            return maps

    networks = [randomised(Maps(lambda: Does(F.relu)), seed) for seed in range(2)]
    with pytest.raises(UnstackableError, match="axes"):
        logits(merge(networks), [torch.randn(2, 3, 16, 16)], 2)


def test_weights_are_kept_once() -> None:
    networks = [randomised(Reader(LAYERS["BatchNorm"]), seed) for seed in range(2)]
    merged = merge(networks)
    for name, values in weights_of(networks[1]):
        owner, _, attribute = name.rpartition(".")
        together = getattr(merged.get_submodule(owner), attribute).as_subclass(Tensor)
        assert values.untyped_storage().data_ptr() == together.untyped_storage().data_ptr()
