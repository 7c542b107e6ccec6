"""An ensemble says what its networks say, in every way of computing, whoever wrote them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from common.ensemble import inference
from common.ensemble.architecture import architecture, weights_of
from common.ensemble.inference import Ensemble, Member, Place, ensemble
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.networks.stacking import UnstackableError, Weights
from common.sections.networks import NetworkSettings

IMAGES = ("gs", "doppler")
SMALL = NetworkSettings(backbone="small", image_px=32, width=4, hidden=16)
KINDS = ((IMAGES, 2), (IMAGES[1:], 2), (IMAGES[:1], 4))
"""Images and classes: fused networks, single-image networks, and some that tell four classes apart."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So many small operations on several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(
    settings: NetworkSettings,
    images: Sequence[str],
    seed: int,
    *,
    classes: int = 2,
    layer: int | None = None,
) -> nn.Module:
    """A network with random weights and, where it has such, random running statistics."""
    target = Target(measurement="any", kind="nominal", classes=classes)
    built = build.network(NetworkSpec(name="any", images=tuple(images), target=target, layer=layer), settings)
    generator = torch.Generator().manual_seed(seed)
    for name, values in weights_of(built):
        matrix = values.ndim > 1
        values.data.normal_(0, (2 / values[0].numel()) ** 0.5 if matrix else 0.2, generator=generator)
        if not matrix and not name.endswith(("bias", "running_mean")):
            values.data.abs_().add_(0.5)
    return built.eval()


def mixed(settings: NetworkSettings, count: int, seed: int = 0) -> list[Member]:
    """Networks of each kind in turn."""
    kinds = [(i, *KINDS[i % 3]) for i in range(count)]
    return [
        Member(name=f"{i}", images=images, network=network(settings, images, seed + i, classes=classes))
        for i, images, classes in kinds
    ]


def pictures(n: int, px: int = 32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {image: torch.randn(n, 3, px, px, generator=generator) for image in IMAGES}
    return {image: values.contiguous(memory_format=torch.channels_last) for image, values in drawn.items()}


def one_by_one(members: Sequence[Member], read: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {member.name: member.network([read[image] for image in member.images]) for member in members}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Logits and probabilities within 1e-4 (relative to the largest logit, where that exceeds 1)."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        largest = max(1.0, values.abs().max().item())
        torch.testing.assert_close(found[name], values, rtol=0, atol=1e-4 * largest)
        torch.testing.assert_close(found[name].softmax(1), values.softmax(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [1, 5])
def test_every_way_says_what_the_networks_say(n: int) -> None:
    members, read = mixed(SMALL, 6), pictures(n)
    expected = one_by_one(members, read)
    built = ensemble(members)
    assert [stack.names for stack in built.stacks] == [("0", "3"), ("1", "4"), ("2", "5")]
    for way in ("loop", "stacked", "fastest"):
        assert_equal(built.logits(read, way=way), expected)


@pytest.mark.parametrize(
    ("backbone", "px", "layer", "images", "n"),
    [
        ("resnet18", 32, None, IMAGES, 1),
        ("resnet18", 32, None, IMAGES[1:], 3),
        ("mobilenet_v2", 32, None, IMAGES, 2),
        ("vgg16", 32, None, IMAGES[1:], 2),
        ("inception_v3", 75, 1, IMAGES[1:], 2),
    ],
)
def test_large_backbones_can_be_stacked(
    backbone: str, px: int, layer: int | None, images: tuple[str, ...], n: int
) -> None:
    settings = NetworkSettings(backbone=backbone, image_px=px, hidden=16)
    members = [
        Member(name=f"{seed}", images=images, network=network(settings, images, seed, layer=layer))
        for seed in range(2)
    ]
    read = pictures(n, px)
    expected = one_by_one(members, read)
    built = ensemble(members)
    for way in ("loop", "stacked"):
        assert_equal(built.logits(read, way=way), expected)


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**20))
def test_small_networks_in_any_number(count: int, n: int, seed: int) -> None:
    members, read = mixed(SMALL, count, seed), pictures(n, seed=seed)
    expected = one_by_one(members, read)
    assert_equal(ensemble(members).logits(read, way="stacked"), expected)


def test_more_pictures_than_are_stacked_at_once() -> None:
    members = mixed(SMALL, 9)
    read = pictures(2 * inference.PICTURES // 3 + 1)
    expected = one_by_one(members, read)
    assert_equal(ensemble(members).logits(read, way="stacked"), expected)


def test_contiguous_weights_say_the_same() -> None:
    members, read = mixed(SMALL, 6), pictures(3)
    expected = one_by_one(members, read)
    assert_equal(
        ensemble(members, place=Place(memory_format=torch.contiguous_format)).logits(read, way="stacked"),
        expected,
    )


def test_bfloat16_says_nearly_the_same_in_half_the_memory() -> None:
    members, read = mixed(SMALL, 6), pictures(5)
    expected = one_by_one(members, read)
    built = ensemble(members, place=Place(precision="bfloat16"))
    for way in ("loop", "stacked", "fastest"):
        for name, values in built.logits(read, way=way).items():
            assert values.dtype == torch.float32
            torch.testing.assert_close(values.softmax(1), expected[name].softmax(1), rtol=0, atol=0.02)
    sizes = {values.dtype: values.nbytes for values in bulk(members)}
    assert set(sizes) == {torch.bfloat16}


def bulk(members: Sequence[Member]) -> list[Tensor]:
    return [values for member in members for _, values in weights_of(member.network) if values.ndim > 1]


def test_no_pictures_no_rows() -> None:
    found = ensemble(mixed(SMALL, 3)).logits(pictures(0))
    assert [tuple(values.shape) for values in found.values()] == [(0, 2), (0, 2), (0, 4)]


def test_weights_are_kept_once() -> None:
    built = ensemble(iter(mixed(SMALL, 6)))
    for stack in built.stacks:
        storages = {
            values.untyped_storage().data_ptr() for each in stack.networks for _, values in weights_of(each)
        }
        assert len(storages) == len(list(weights_of(stack.networks[0])))


def test_an_ensemble_can_be_asked_by_several_threads() -> None:
    members, read = mixed(SMALL, 6), pictures(2)
    expected = one_by_one(members, read)
    built = ensemble(members)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: built.logits(read), range(12)):
            assert_equal(found, expected)


def test_a_network_of_the_ensemble_can_still_be_asked_for_gradients() -> None:
    members, read = mixed(SMALL, 6), pictures(1)
    ensemble(members).logits(read)
    picture = read["doppler"].clone().requires_grad_()
    members[1].network([picture])[0, 1].backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0


class Clocked(nn.Module):
    """A network that needs as many milliseconds, of a clock of its own, as it is told to."""

    now = 0.0

    def __init__(self, *, alone: float, stacked: float) -> None:
        super().__init__()
        self.alone, self.stacked = alone, stacked
        self.conv = nn.Conv2d(3, 2, 8, 8)

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        Clocked.now += 1e-3 * (self.stacked if isinstance(self.conv.weight, Weights) else self.alone)
        found: Tensor = self.conv(pictures[0]).mean((2, 3))
        return found


def now() -> float:
    return Clocked.now


def clocked(*, alone: float, stacked: float) -> Ensemble:
    members = [
        Member(name=name, images=("gs",), network=Clocked(alone=alone, stacked=stacked)) for name in "abcd"
    ]
    return ensemble(members, place=Place(clock=now))


@pytest.mark.parametrize(
    ("stacked", "way"), [(1.0, "stacked"), (3.5, "stacked"), (3.9, "loop"), (9.0, "loop")]
)
@pytest.mark.parametrize("n", [1, 7, 100])
def test_stacking_is_chosen_where_it_is_faster(n: int, stacked: float, way: str) -> None:
    (stack,) = clocked(alone=1.0, stacked=stacked).stacks
    assert stack.fastest([pictures(n)["gs"]]) == way


def test_a_choice_is_made_once_for_all_ensembles_alike() -> None:
    first, second = clocked(alone=1.25, stacked=1.0), clocked(alone=1.25, stacked=1.0)
    first.logits(pictures(1))
    before = Clocked.now
    second.logits(pictures(1))
    assert Clocked.now - before == pytest.approx(1e-3)


def test_a_network_that_takes_long_is_not_even_tried() -> None:
    built = clocked(alone=11.0, stacked=1.0)
    before = Clocked.now
    built.logits(pictures(9))
    assert Clocked.now - before == pytest.approx(0.011 * (3 + 4))


class Own(nn.Module):
    """A user's own network, which does what it wants."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5, 4)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)
        self.does = does

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        x = self.conv(pictures[0]).permute(0, 2, 3, 1)
        logits: Tensor = self.head(self.does(self.norm(x)).mean((1, 2)))
        return logits


class Listed(nn.Module):
    """Keeps its layers in a list too, where only itself finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 5)
        self.layers = [self.conv]
        self.lock = threading.Lock()

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        found: Tensor = self.layers[0](pictures[0]).mean((2, 3))
        return found


OWN: dict[str, Callable[[], nn.Module]] = {
    "operations without a rule": lambda: Own(F.relu),
    "layers kept elsewhere": Listed,
}


@pytest.mark.parametrize("own", OWN)
def test_a_network_that_cannot_be_stacked_is_asked_by_itself(own: str) -> None:
    members = [Member(name=name, images=("gs",), network=OWN[own]().eval()) for name in "abc"]
    read = pictures(2)
    expected = one_by_one(members, read)
    built = ensemble(members)
    assert_equal(built.logits(read), expected)
    assert {stack.fastest([read["gs"]]) for stack in built.stacks} == {"loop"}


def test_stacking_what_cannot_be_stacked_is_an_error() -> None:
    members = [Member(name=name, images=("gs",), network=Own(F.relu).eval()) for name in "ab"]
    with pytest.raises(UnstackableError, match="permute"):
        ensemble(members).logits(pictures(1), way="stacked")


Factor: TypeAlias = float | str | Tensor


class Scaled(nn.Module):
    """Two of these with different factors are different functions, though their weights have the same shapes."""

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(3, 2, 5)

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        found: Tensor = self.conv(pictures[0]).mean((2, 3))
        return found * float(self.factor)


@pytest.mark.parametrize(
    "factors", [(1, 2), (1, 1.0, True), (torch.tensor(1.0), torch.tensor(2.0)), ("1", 1)]
)
def test_networks_that_differ_in_an_attribute_are_not_stacked(factors: tuple[Factor, ...]) -> None:
    networks = [Scaled(factor) for factor in factors]
    assert len({architecture(network) for network in networks}) == len(networks)
    members = [
        Member(name=str(i), images=("gs",), network=network.eval()) for i, network in enumerate(networks)
    ]
    read = pictures(2)
    expected = one_by_one(members, read)
    assert_equal(ensemble(members).logits(read), expected)


def test_a_network_with_a_hook_is_like_no_other() -> None:
    networks = [Scaled(1), Scaled(1)]
    assert architecture(networks[0]) == architecture(networks[1])
    networks[1].conv.register_forward_hook(lambda module, inputs, output: output + 1)
    assert architecture(networks[0]) != architecture(networks[1])


def test_networks_may_share_a_part() -> None:
    members = mixed(SMALL, 6)
    part = members[0].network.get_submodule("backbones.1")
    members[3].network.set_submodule("backbones.1", part)
    members[4].network.set_submodule("backbone", part)
    read = pictures(2)
    expected = one_by_one(members, read)
    built = ensemble(members)
    for way in ("loop", "stacked"):
        assert_equal(built.logits(read, way=way), expected)
