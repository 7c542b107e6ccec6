"""Start weights from a file with torchvision's names and random values, and from folders of public encoders."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from common.errors import ConfigurationError, VerificationError
from common.machine import encoder_files, pretrained
from common.methods.stages import networks
from common.networks import build, torchvision_shim
from common.networks.spec import NetworkSpec
from common.sections.networks import NetworkSettings
from common.settings import Settings
from server.rounds.weights import StartWeights
from tests.encoders import probe_settings
from tests.public_encoders import OwnEncoder, make_encoders
from tests.site_folders import make_settings


def configured(weights: Path | str, *, backbone: str = "resnet18", rating: str = "") -> Settings:
    settings = make_settings(measurements=("hypertrophy",), grades=2)
    network = settings.network.model_copy(
        update={"backbone": backbone, "weights": str(weights), "image_px": 32, "hidden": 8}
    )
    fields = {"models": 1, "replicas": 1} | ({"pretraining": rating} if rating else {})
    return settings.model_copy(
        update={"network": network, "rating": settings.rating.model_copy(update=fields)}
    )


@cache
def random_state() -> dict[str, Tensor]:
    """ResNet-18 with torchvision's names, its classifier of 1000 classes too, and values of our own."""
    generator = torch.Generator().manual_seed(0)
    state = torchvision_shim.resnet18().state_dict()
    drawn = {
        name: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
        for name, t in state.items()
    }
    return drawn | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18-f37072fd.pth"
    torch.save(random_state(), path)
    return path


def started(spec: NetworkSpec, settings: Settings, folder: Path) -> Mapping[str, Tensor]:
    """A network's start by parameter and buffer, under the names that the modules have."""
    weights = torch.from_numpy(StartWeights(settings, folder).start(spec))
    module = build.assembled(spec, settings.network, weights, {})
    return module.state_dict()


def of_image(settings: Settings, image: str) -> NetworkSpec:
    return networks(settings)[f"rating/fold0/hypertrophy/gt0/a/{image}"]


def test_backbones_start_as_the_file_says_and_heads_at_random(file: Path, tmp_path: Path) -> None:
    settings = configured(file)
    found = started(of_image(settings, "gs"), settings, tmp_path)
    backbone = {k.removeprefix("backbone."): v for k, v in found.items() if k.startswith("backbone.")}
    compared = [name for name, value in backbone.items() if value.is_floating_point()]
    assert len(compared) == 100  # 20 convolutions, and weight, bias, mean, variance of 20 norms
    for name in compared:
        torch.testing.assert_close(backbone[name], random_state()[name], rtol=0, atol=0)
    assert found["head.weight"].abs().min() > 0


def test_every_backbone_of_every_image_starts_there(file: Path, tmp_path: Path) -> None:
    settings = configured(file)
    one, other = (started(of_image(settings, image), settings, tmp_path) for image in ("gs", "doppler"))
    assert torch.equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert not torch.equal(one["head.weight"], other["head.weight"])  # of another network, another seed


def test_puzzles_start_there_and_what_starts_from_puzzles_does_not(file: Path, tmp_path: Path) -> None:
    settings = configured(file, rating="jigsaw")
    found = started(networks(settings)["rating/jigsaw"], settings, tmp_path)
    assert torch.equal(found["backbone.conv1.weight"], random_state()["conv1.weight"])
    with pytest.raises(Exception, match="Expected a trained network"):
        StartWeights(settings, tmp_path).start(of_image(settings, "gs"))


def test_pth_safetensors_and_a_folder_of_them_are_the_same(file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    tensors = tmp_path / "folder" / "resnet18.safetensors"
    safetensors.torch.save_file(random_state(), tensors)
    sources = [configured(file), configured(tensors), configured(tensors.parent)]
    starts = [StartWeights(s, tmp_path).start(of_image(s, "gs")) for s in sources]
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_array_equal(starts[0], starts[2])
    hashes = {pretrained.resolved(settings).plan_hash() for settings in sources}
    assert len(hashes) == 1, "the plan names what the weights are, not where they lie"


def test_other_weights_are_another_plan(file: Path, tmp_path: Path) -> None:
    torch.save(random_state() | {"conv1.weight": random_state()["conv1.weight"] + 1}, tmp_path / "other.pth")
    plans = {
        pretrained.resolved(configured(path)).plan_hash() for path in (file, tmp_path / "other.pth", "none")
    }
    assert len(plans) == 3


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    torch.save(random_state() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    settings = configured(tmp_path / "grey.pth")
    with pytest.raises(ConfigurationError, match=r"conv1.weight.*64, 3, 7, 7.*64, 1, 7, 7"):
        StartWeights(settings, tmp_path).start(of_image(settings, "gs"))


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    torch.save(
        {k: v for k, v in random_state().items() if k != "layer1.0.bn1.running_var"}, tmp_path / "part.pth"
    )
    settings = configured(tmp_path / "part.pth")
    with pytest.raises(ConfigurationError, match=r"layer1.0.bn1.running_var.*got none"):
        StartWeights(settings, tmp_path).start(of_image(settings, "gs"))


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_no_file_is_said_with_what_could_be_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"resnet18's weights.*none.*imagenet.*folder"):
        pretrained.resolved(configured(tmp_path / name))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(b"\x89PNG\r\n" * 20)
    with pytest.raises(ConfigurationError, match="Expected weights of a backbone"):
        pretrained.resolved(configured(path))


def test_a_file_of_no_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(ConfigurationError, match="names and tensors"):
        pretrained.resolved(configured(tmp_path / "list.pth"))


def test_the_small_backbone_has_no_pretrained_weights_but_a_file_of_ones_own(
    file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r'weights = "none" with backbone small.*resnet18'):
        pretrained.resolved(configured("imagenet", backbone="small"))
    anothers = configured(file, backbone="small")
    with pytest.raises(ConfigurationError, match="got none"):
        StartWeights(anothers, tmp_path).start(of_image(anothers, "gs"))


def test_offline_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no earlier download is found there
    monkeypatch.setenv(
        "https_proxy", "http://127.0.0.1:9"
    )  # nothing listens on discard: fails at once, anywhere
    with pytest.raises(
        ConfigurationError, match=r'network.weights = "path/to/resnet18.pth".*network.weights = "none"'
    ):
        pretrained.resolved(configured("imagenet"))


def test_a_head_on_frozen_parts_takes_nothing_from_the_file(file: Path) -> None:
    settings = configured(file)
    head = networks(settings)["rating/fold0/hypertrophy/gt0/a"]
    assert pretrained.backbone_parts(head) == []  # they are F and G, as they were trained
    assert pretrained.backbone_parts(of_image(settings, "gs")) == ["backbone"]


def encoders_at(folder: Path, *, width: int = 4) -> Path:
    """Two encoders per measurement, of random numbers."""
    settings = probe_settings(folder)
    network = settings.network.model_copy(update={"width": width})
    return make_encoders(folder, settings.model_copy(update={"network": network}))


def test_probes_take_each_part_of_their_own_encoder(tmp_path: Path) -> None:
    encoders_at(tmp_path / "e")
    settings = pretrained.resolved(probe_settings(tmp_path / "e"))
    tensors = encoder_files.read(tmp_path / "e").tensors
    specs = networks(settings)
    assert sorted(specs) == [
        f"probe/member{m}/{name}" for m in (0, 1) for name in ("hypertrophy", "vascularity")
    ]
    for name, spec in specs.items():
        weights = StartWeights(settings, tmp_path)
        frozen = {part: torch.from_numpy(flat) for part, flat in weights.frozen(spec).items()}
        assert set(frozen) == {"backbones.0", "backbones.1", "neck"}
        start = torch.from_numpy(weights.start(spec))
        state = build.assembled(spec, settings.network, start, frozen).state_dict()
        source = f"encoder{spec.replica}/{spec.target.measurement}"
        for key in ("neck.weight", "backbones.1.stages.2.conv1.weight"):
            part = "neck" if key.startswith("neck") else "backbones.1"
            expected = tensors[f"{source}/{part}/{key.removeprefix(f'{part}.')}"]
            assert torch.equal(state[key], expected), name


def test_the_plan_names_encoders_by_what_they_are(tmp_path: Path) -> None:
    encoders_at(tmp_path / "e")
    (tmp_path / "moved").mkdir()
    for name in (encoder_files.TENSORS, encoder_files.ABOUT):
        (tmp_path / "moved" / name).write_bytes((tmp_path / "e" / name).read_bytes())
    one, moved, fewer = (
        pretrained.resolved(settings).plan_hash()
        for settings in (
            probe_settings(tmp_path / "e"),
            probe_settings(tmp_path / "moved"),
            probe_settings(tmp_path / "e", probe={"encoders": 1, "initialisations": 2}),
        )
    )
    assert one == moved != fewer


def test_encoders_that_do_not_fit_are_refused_with_every_difference(tmp_path: Path) -> None:
    encoders_at(tmp_path / "e", width=5)
    settings = probe_settings(tmp_path / "e", probe={"encoders": 3, "neck": 2})
    with pytest.raises(ConfigurationError) as refused:
        pretrained.resolved(settings)
    assert str(refused.value).splitlines()[1:] == [
        "  probe.neck: expected 3, got 2",
        "  network.width: expected 5, got 4",
        "  probe.encoders: expected at most 2, got 3",
    ]


def test_changed_encoders_are_refused(tmp_path: Path) -> None:
    encoders_at(tmp_path / "e")
    content = bytearray((tmp_path / "e" / encoder_files.TENSORS).read_bytes())
    content[-1] ^= 1
    (tmp_path / "e" / encoder_files.TENSORS).write_bytes(bytes(content))
    with pytest.raises(VerificationError, match=r"SHA-256 that about.json states"):
        pretrained.resolved(probe_settings(tmp_path / "e"))


@pytest.mark.parametrize("what", ["nothing", "no tensors", "no JSON"])
def test_a_folder_without_encoders_says_how_they_are_made(tmp_path: Path, what: str) -> None:
    if what != "nothing":
        encoders_at(tmp_path / "e")
    if what == "no tensors":
        (tmp_path / "e" / encoder_files.TENSORS).unlink()
    if what == "no JSON":
        (tmp_path / "e" / encoder_files.ABOUT).write_text("{")
    with pytest.raises(
        ConfigurationError, match=r"synofed pretrain|make them anew|about.json cannot be used"
    ):
        pretrained.resolved(probe_settings(tmp_path / "e"))


def test_probes_on_torchvision_take_its_backbone_for_every_image(file: Path, tmp_path: Path) -> None:
    fields = {"backbone": "resnet18", "weights": str(file), "image_px": 32}
    probe = {"source": "torchvision", "encoders": 1, "neck": None}
    settings = pretrained.resolved(probe_settings(file, {"network": fields}, probe=probe))
    spec = networks(settings)["probe/member0/hypertrophy"]
    found = StartWeights(settings, tmp_path).frozen(spec)
    assert set(found) == {"backbones.0", "backbones.1"}
    np.testing.assert_array_equal(found["backbones.0"], found["backbones.1"])
    np.testing.assert_array_equal(
        found["backbones.0"][: 64 * 3 * 49], random_state()["conv1.weight"].flatten()
    )


def test_probes_take_any_encoder_of_ones_own_and_the_plan_names_its_licence_and_hash(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    network = {
        "backbone": "tests.public_encoders:OwnEncoder", "weights": str(file), "image_px": 32,
        "weights_licence": "CC BY 4.0, Hospital of Somewhere",
    }  # fmt: skip
    settings = probe_settings(
        file, {"network": network}, probe={"source": "torchvision", "encoders": 1, "neck": None}
    )
    state = OwnEncoder(settings.network).state_dict()
    safetensors.torch.save_file(state, file)
    settings = pretrained.resolved(settings)
    spec = networks(settings)["probe/member0/hypertrophy"]
    start = StartWeights(settings, tmp_path)
    wanted = torch.cat([state["convolution.weight"].flatten(), state["convolution.bias"]])
    frozen = start.frozen(spec)
    for part in ("backbones.0", "backbones.1"):
        np.testing.assert_array_equal(frozen[part], wanted)
    assert len(start.start(spec)) == 4 * (2 * 5 + 1)
    told = settings.plan()["network"]
    assert told["weights_licence"] == network["weights_licence"]
    assert len(told["weights_sha256"]) == 64
    other = settings.network.model_copy(update={"weights_licence": "MIT"})
    assert settings.model_copy(update={"network": other}).plan_hash() != settings.plan_hash()


def test_a_licence_of_no_weights_is_refused_and_none_is_in_no_plan() -> None:
    with pytest.raises(ValidationError, match="there are none"):
        NetworkSettings(weights_licence="MIT")
    assert "weights_licence" not in NetworkSettings().model_dump()
