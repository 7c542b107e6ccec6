"""Norms that move behind a public neck: what training reads of a picture, and the network that follows from it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from common.ensemble.inference import Member, ensemble
from common.errors import ConfigurationError
from common.methods.stages import networks
from common.networks import build
from common.networks.backbones import initialise
from common.networks.probe import ProbeNetwork
from common.networks.spec import NetworkSpec
from common.sections.methods import ProbeSettings
from common.settings import Settings
from tests.encoders import NECK, probe_settings

UNIT = 0.3
MOVES = 2 * (4 + 4 + 4 + 8 + 8 + 16 + 16)
"""Weights and biases of the norms of a small backbone of width 4."""


def probes(**probe: object) -> tuple[Settings, list[NetworkSpec]]:
    settings = probe_settings("nowhere", probe={"train": "norms", "norm_scale": UNIT} | probe)
    return settings, list(networks(settings).values())


def made(spec: NetworkSpec, settings: Settings, *, moves: Tensor | None = None) -> ProbeNetwork:
    """A network of random backbones, whose norms have moved."""
    whole = build.network(spec, settings.network)
    initialise(whole, torch.Generator().manual_seed(3))
    assert isinstance(whole, ProbeNetwork)
    if moves is not None:
        assert whole.norms is not None
        whole.norms.moves.data = moves
    return whole.eval()


def pictures(spec: NetworkSpec, *, exams: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(exams, 3, 16, 16, generator=generator) for _ in spec.images]


def test_a_member_trains_its_head_and_the_norms_of_its_backbones() -> None:
    settings, specs = probes()
    sizes = {build.layout(spec, settings.network).size for spec in specs}
    assert sizes == {4 * (NECK + 1) + 2 * MOVES}  # both images, for every measurement
    entries = [name for name, _ in build.layout(specs[0], settings.network).entries]
    assert entries == ["head.weight", "head.bias", "norms.moves"]


def test_nothing_has_moved_at_the_start_and_heads_start_as_they_do_alone() -> None:
    settings, specs = probes()
    alone = probe_settings("nowhere")
    for spec, plain in zip(specs, networks(alone).values(), strict=True):
        start = build.initial_weights(spec, settings.network, seed=4)
        head = build.initial_weights(plain, alone.network, seed=4)
        assert torch.equal(start[: len(head)], head)
        assert not start[len(head) :].any()


@torch.no_grad()
def test_what_is_read_are_the_numbers_and_their_derivatives() -> None:
    settings, specs = probes()
    for spec in specs[:2]:
        network, seen = made(spec, settings), pictures(spec)
        assert network.norms is not None
        read = network.read(seen)
        moves = len(network.norms.moves)
        assert read.shape == (3, NECK * (1 + moves))
        numbers, slopes = read[:, :NECK], read[:, NECK:].unflatten(1, (NECK, moves))
        torch.testing.assert_close(torch.nn.functional.normalize(numbers, dim=1), network.features(seen))
        double, wide = network.double(), [picture.double() for picture in seen]
        direction = torch.randn(moves, generator=torch.Generator().manual_seed(6)).double()
        ahead, behind = (double._necked(step * direction, wide) for step in (1e-6, -1e-6))
        torch.testing.assert_close(slopes.double() @ direction, (ahead - behind) / 2e-6, rtol=1e-3, atol=1e-3)


def test_an_exam_is_read_alike_whoever_else_is_read() -> None:
    settings, specs = probes()
    network, seen = made(specs[0], settings), pictures(specs[0])
    together = network.read(seen)
    for exam in range(3):
        alone = network.read([picture[exam : exam + 1] for picture in seen])
        torch.testing.assert_close(together[exam : exam + 1], alone, rtol=1e-4, atol=1e-5)


def test_moves_are_added_to_the_norms_in_their_unit() -> None:
    settings, specs = probes()
    spec = specs[0]
    plain = made(spec, settings)
    moves = torch.randn(2 * MOVES, generator=torch.Generator().manual_seed(7))
    network = made(spec, settings, moves=moves.clone())
    rest = iter(UNIT * moves)
    for backbone in plain.backbones:
        for module in backbone.modules():
            if isinstance(module, torch.nn.GroupNorm):
                for values in (module.weight, module.bias):
                    values.data += torch.stack([next(rest) for _ in values])
    assert not list(rest)
    seen = pictures(spec)
    torch.testing.assert_close(network(seen), plain(seen))


def test_it_can_be_asked_from_several_threads() -> None:
    settings, specs = probes()
    moves = torch.randn(2 * MOVES, generator=torch.Generator().manual_seed(7))
    network, seen = made(specs[0], settings, moves=moves), pictures(specs[0])
    expected = network(seen)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: network(seen), range(200)):
            torch.testing.assert_close(found, expected)


def test_an_ensemble_answers_as_its_networks_do() -> None:
    settings, specs = probes()
    spec, generator = specs[0], torch.Generator().manual_seed(8)
    moves = [torch.randn(2 * MOVES, generator=generator) for _ in range(3)]
    seen = pictures(spec)
    expected = [made(spec, settings, moves=one.clone())(seen) for one in moves]
    members = [
        Member(name=str(n), images=spec.images, network=made(spec, settings, moves=one.clone()))
        for n, one in enumerate(moves)
    ]
    found = ensemble(members).logits(dict(zip(spec.images, seen, strict=True)))
    for n, logits in enumerate(expected):
        torch.testing.assert_close(found[str(n)], logits, rtol=1e-4, atol=1e-5)


def test_norms_need_a_neck_and_backbones_that_have_norms() -> None:
    with pytest.raises(ValidationError, match=r"expected probe\.neck"):
        ProbeSettings(train="norms")
    settings, specs = probes()
    other = settings.network.model_copy(update={"backbone": "tests.public_encoders:OwnEncoder"})
    with pytest.raises(ConfigurationError, match="OwnEncoder has none"):
        build.layout(specs[0], other)


def test_plans_without_norms_are_what_they_were() -> None:
    plain, named = probe_settings("nowhere"), probe_settings("nowhere", probe={"train": "heads"})
    assert plain.plan_hash() == named.plan_hash() != probes()[0].plan_hash()
    assert "train" not in plain.model_dump()["probe"]
    assert "norms" not in next(iter(networks(plain).values())).model_dump_json()
