from dataclasses import replace

import pytest
import torch
from torch import nn

from common.errors import UpdateError
from common.networks import build
from common.networks.layout import flatten, layout_of, load
from common.networks.spec import NetworkSpec
from common.sections.networks import NetworkSettings
from tests.exam_tensors import FUSION, NETWORK, SINGLE

RESNET18 = NetworkSettings(backbone="resnet18", image_px=32)


@pytest.mark.parametrize("spec", [FUSION, SINGLE])
@pytest.mark.parametrize("settings", [NETWORK, RESNET18], ids=["small", "resnet18"])
def test_loading_then_flattening_gives_the_same_vector(spec: NetworkSpec, settings: NetworkSettings) -> None:
    network = build.network(spec, settings)
    flat = torch.randn(build.layout(spec, settings).size)
    load(network, flat)
    assert torch.equal(flatten(network), flat)


def test_layout_is_that_of_the_network() -> None:
    assert build.layout(FUSION, NETWORK) == layout_of(build.network(FUSION, NETWORK))


def test_size_counts_all_floating_tensors() -> None:
    network = build.network(SINGLE, RESNET18)
    floating = [t for t in network.state_dict().values() if t.is_floating_point()]
    assert build.layout(SINGLE, RESNET18).size == sum(t.numel() for t in floating)


def test_running_statistics_travel_and_counters_do_not() -> None:
    layout = build.layout(SINGLE, RESNET18)
    names = [name for name, _ in layout.entries]
    assert "backbone.bn1.running_mean" in names
    assert not any(name.endswith("num_batches_tracked") for name in names)
    assert layout.trained_size < layout.size
    assert all("running" not in name for name in names[: layout.parameters])


def test_hash_depends_on_names_and_shapes_only() -> None:
    layout = build.layout(FUSION, NETWORK)
    other_target = FUSION.model_copy(update={"name": "other", "fold": 3, "replica": 1})
    assert build.layout(other_target, NETWORK).hash == layout.hash
    assert len(layout.hash) == 64
    assert build.layout(SINGLE, NETWORK).hash != layout.hash
    assert build.layout(FUSION, NETWORK.model_copy(update={"width": 5})).hash != layout.hash
    renamed = replace(layout, entries=(("x", layout.entries[0][1]), *layout.entries[1:]))
    assert renamed.hash != layout.hash


def test_hash_stays_what_it_was() -> None:
    # Provenance: this implementation; a change here means that stored networks no longer fit.
    layout = layout_of(nn.Linear(2, 3))
    assert layout.hash == "f045586ce9a9c401dda90f3ca5fd5301caf89bdb71a568e1171bd29c9845bd31"


@pytest.mark.parametrize("wrong", [1, 0, 7])
def test_a_vector_of_another_length_is_refused(wrong: int) -> None:
    with pytest.raises(UpdateError, match="Expected 9 values"):
        load(nn.Linear(2, 3), torch.zeros(wrong))
