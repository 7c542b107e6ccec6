import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from common.networks import build
from common.networks.backbones import SmallResNet, initialise
from common.networks.layout import load
from common.networks.spec import NetworkSpec, Piece, Target
from common.sections.networks import NetworkSettings
from tests.exam_tensors import FUSION, NETWORK, SINGLE

RESNET18 = NetworkSettings(backbone="resnet18", image_px=64)


def built(spec: NetworkSpec, settings: NetworkSettings, seed: int = 1) -> nn.Module:
    network = build.network(spec, settings)
    load(network, build.initial_weights(spec, settings, seed=seed))
    return network.eval()


@pytest.mark.parametrize("spec", [FUSION, SINGLE])
@pytest.mark.parametrize("settings", [NETWORK, RESNET18], ids=["small", "resnet18"])
def test_pictures_become_logits(spec: NetworkSpec, settings: NetworkSettings) -> None:
    pictures = [torch.randn(2, 3, settings.image_px, settings.image_px) for _ in spec.images]
    logits = built(spec, settings)(pictures)
    assert logits.shape == (2, 2)
    assert logits.isfinite().all()


def test_the_published_fusion_head_is_1024_256_2() -> None:
    head = build.network(FUSION, RESNET18).head
    assert isinstance(head, nn.Sequential)
    assert [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)] == [
        (1024, 256),
        (256, 2),
    ]


def test_a_nominal_target_has_a_logit_a_grade() -> None:
    spec = SINGLE.model_copy(
        update={"target": Target(measurement="vascularity", kind="nominal", threshold=None, classes=4)}
    )
    assert built(spec, NETWORK)([torch.randn(2, 3, 32, 32)]).shape == (2, 4)


def test_each_image_has_its_own_backbone() -> None:
    network = built(FUSION, NETWORK)
    grey, doppler = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    assert not torch.allclose(network([grey, doppler]), network([doppler, grey]))


def test_the_small_backbone_does_not_mix_exams() -> None:
    network = built(FUSION, NETWORK).train()
    pictures = [torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)]
    alone = torch.cat([network([p[i : i + 1] for p in pictures]) for i in range(4)])
    torch.testing.assert_close(network(pictures), alone)


@pytest.mark.parametrize("settings", [NETWORK, RESNET18], ids=["small", "resnet18"])
def test_start_weights_depend_on_their_seed_alone(settings: NetworkSettings) -> None:
    state = torch.get_rng_state()
    weights = build.initial_weights(SINGLE, settings, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(build.initial_weights(SINGLE, settings, seed=5), weights)
    assert not torch.equal(build.initial_weights(SINGLE, settings, seed=6), weights)
    assert weights.isfinite().all()


@pytest.mark.parametrize("spec", [FUSION, SINGLE])
def test_a_head_of_zeros_says_nothing_of_a_backbone_that_starts_as_ever(spec: NetworkSpec) -> None:
    zero = NETWORK.model_copy(update={"head": "zero"})
    assert zero.model_dump() == {**NETWORK.model_dump(), "head": "zero"}
    assert "head" not in NETWORK.model_dump()  # plans of before keep their hash
    plain, other = built(spec, NETWORK), built(spec, zero)
    pictures = [torch.rand(2, 3, NETWORK.image_px, NETWORK.image_px) for _ in spec.images]
    assert plain(pictures).abs().max() > 0
    assert (other(pictures) == 0).all()
    same = [torch.equal(one, two) for one, two in zip(plain.parameters(), other.parameters(), strict=True)]
    assert same.count(False) == 2  # weight and bias of the last layer
    assert not any(same[-2:])


def test_start_weights_are_the_same_in_concurrent_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: build.initial_weights(FUSION, NETWORK, seed=5), range(8)))
    assert all(torch.equal(weights, drawn[0]) for weights in drawn)


def test_replicas_start_apart() -> None:
    assert not torch.equal(
        build.initial_weights(FUSION, NETWORK, seed=1), build.initial_weights(FUSION, NETWORK, seed=2)
    )


def test_convolutions_start_as_he_et_al_have_it() -> None:
    network = built(SINGLE, NetworkSettings(width=64), seed=3)
    convolution = network.get_submodule("backbone.stages.2.conv2")
    assert isinstance(convolution, nn.Conv2d)
    fan_out = convolution.out_channels * 9
    assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


@pytest.mark.soak
def test_the_small_backbone_does_not_import_torchvision() -> None:
    imports = "import sys; import common.training.local, common.ensemble.committee"
    program = f"{imports}; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.soak
@pytest.mark.ci
def test_torchvision_can_be_used_from_several_threads_at_once() -> None:
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from common.networks.torchvision_shim import resnet18\n"
        "with ThreadPoolExecutor(4) as pool: built = list(pool.map(lambda _: resnet18(), range(4)))\n"
        "import torchvision\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.soak
def test_operators_that_are_there_already_are_not_declared_again() -> None:
    program = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "for name in ('nms', 'qnms'):\n"
        "    library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "from common.networks.torchvision_shim import resnet18\n"
        "resnet18()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_narrow_network_has_the_same_gradient_each_time() -> None:
    """Four channels, channels last: where oneDNN writes out of bounds, the bits differ from run to run."""
    narrow = SmallResNet(4)
    initialise(narrow, torch.Generator().manual_seed(1))
    pictures = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    gradients = set()
    for _ in range(50):
        narrow.zero_grad()
        narrow(pictures).square().sum().backward()
        grads = [p.grad for p in narrow.parameters() if p.grad is not None]
        assert len(grads) == len(list(narrow.parameters()))
        gradients.add(b"".join(grad.numpy().tobytes() for grad in grads))
    assert len(gradients) == 1


@pytest.mark.parametrize("part", ["backbones", "backbones.0"])
def test_a_network_is_joined_of_its_parts_and_split_into_them(part: str) -> None:
    """With any part frozen, the same network: same weights each in its place, same answers."""
    whole = build.initial_weights(FUSION, NETWORK, seed=3)
    frozen = FUSION.model_copy(update={"pieces": (Piece(part=part, network=None, frozen=True),)})
    weights, parts = build.split(frozen, NETWORK, whole)
    assert len(weights) + len(parts[part]) == len(whole)
    assert torch.equal(build.joined(frozen, NETWORK, weights, parts), whole)
    assert build.unfrozen(frozen) == FUSION
    pictures = [torch.randn(2, 3, NETWORK.image_px, NETWORK.image_px) for _ in FUSION.images]
    one, other = build.assembled(frozen, NETWORK, weights, parts), build.assembled(FUSION, NETWORK, whole, {})
    assert torch.equal(one(pictures), other(pictures))


@pytest.mark.parametrize("groups", [1, 4, 64])
def test_a_convolution_in_groups_starts_as_wide_as_its_group(groups: int) -> None:
    convolution = nn.Conv2d(64, 64, 5, groups=groups)
    initialise(convolution, torch.Generator().manual_seed(0))
    expected = (2 / (64 / groups * 25)) ** 0.5
    assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.1)
