"""A private round on a device without memory: as the policy says, and nothing is booked twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from client.rounds import booking, memory
from client.site.site import Site
from common.machine import pretrained
from common.messages import Signed, TrainRequest, WeightsRef
from common.methods.stages import networks
from common.networks import build
from common.networks.probe import ProbeNetwork
from common.privacy.mechanism.network_step import PatientGradients
from common.settings import Settings
from tests import asking
from tests.asking import Centre
from tests.client.rounds import test_private_network as whole
from tests.client.rounds.test_private_network import update_of
from tests.private_heads import entropy
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings

TOO_FULL = {
    "allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "context": torch.AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be reported later"
    ),
    "driver": RuntimeError("CUDA driver error: out of memory"),
    "library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}
STEPS = 4


def heads(folder: Path) -> Settings:
    """Eight heads on four encoders."""
    settings = make_settings(
        images=("gs",),
        measurements=("hypertrophy",),
        grades=3,
        method="probe",
        weights=str(folder / "encoders"),
        text="[federation]\nrounds = 3\n[probe]\nneck = 6\nviews = 2\n"
        "[privacy]\nnoise_multiplier = 4.0\npatients = 6\nimages = 2\n",
    )
    make_encoders(folder / "encoders", settings)
    return pretrained.resolved(settings)


def round_of_heads(centre: Centre) -> TrainRequest:
    plan, layouts, weights, frozen = centre.settings, {}, {}, {}
    attached: dict[str, np.ndarray] = {}
    for name, spec in networks(plan).items():
        layout = build.layout(spec, plan.network)
        layouts[name], weights[name] = layout.hash, np.zeros(layout.size, dtype="<f4")
        parts = {piece.part: pretrained.part(spec, plan.network, piece.part).numpy() for piece in spec.frozen}
        frozen[name] = {part: WeightsRef.of(values) for part, values in parts.items()}
        attached |= {frozen[name][part].hash: values for part, values in parts.items()}
    request = replace(centre.train_request(), weights=weights, layouts=layouts)
    return replace(request, frozen=frozen, attached=attached)


def updates_of(centre: Centre) -> dict[str, np.ndarray | None]:
    answer = centre.train(round_of_heads(centre))
    assert isinstance(answer, Signed), centre.text_log()
    return {name: one.update for name, one in answer.reply.networks.items()}


def fail(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, *, at: set[int], error: Exception) -> None:
    """Let a method of the product throw what a device throws, at some of its calls, counted from one."""
    original: Callable[..., object] = getattr(kind, name)
    calls = itertools.count(1)

    def failing(self: object, *given: object, **named: object) -> object:
        result = original(self, *given, **named)
        if next(calls) in at:
            raise error
        return result

    monkeypatch.setattr(kind, name, failing)


def begin_chance(patch: pytest.MonkeyPatch) -> None:
    """Let the operating system's entropy come from its beginning."""
    numbers = itertools.count()
    patch.setattr(booking, "os", SimpleNamespace(urandom=lambda size: entropy(next(numbers))))


def site_of(folder: Path, way: str, plan: Settings | None = None) -> Centre:
    policy = whole.POLICY.replace(
        'methods = ["rating"]', f'methods = ["rating", "probe"]\nout_of_memory = "{way}"'
    )
    return whole.approved(folder, plan=plan, policy=policy + "keep_outbox_days = 0\n")


PASSES = 2 + STEPS
"""As many a round has: two trials, and in each step one for all who take part."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """A whole network's update where memory suffices."""
    with pytest.MonkeyPatch.context() as patch:
        begin_chance(patch)
        centre = site_of(tmp_path_factory.mktemp("enough"), "smaller_batch")
        return update_of(centre.train(centre.train_request()))


@pytest.mark.parametrize(
    "at", [{1}, {2}, {4}, {PASSES}, {1, 2}, {1, 5}], ids=lambda at: "+".join(map(str, sorted(at)))
)
def test_a_whole_network_goes_on_with_the_same_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: np.ndarray, at: set[int]
) -> None:
    """Wherever it fails, and as often: the same patients and the same noise, each step booked once."""
    begin_chance(monkeypatch)
    centre = site_of(tmp_path, "smaller_batch")
    fail(monkeypatch, PatientGradients, "_pass", at=at, error=TOO_FULL["allocator"])
    found = update_of(centre.train(centre.train_request()))
    assert centre.text_log().count("has too little memory") == len(at)
    np.testing.assert_allclose(found, undisturbed, rtol=0, atol=1e-5 * np.abs(undisturbed).max())
    assert len(whole.booked(centre)) == STEPS


def test_where_memory_is_short_after_a_draw_and_the_policy_refuses_the_draw_stays_booked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw is a charge; the round may be asked for again, and is drawn anew."""
    centre = site_of(tmp_path, "refuse")
    request = centre.train_request()
    with monkeypatch.context() as patch:
        fail(patch, PatientGradients, "_pass", at={4}, error=TOO_FULL["allocator"])
        centre.refused(centre.train(request), "memory", says="set policy.out_of_memory in site.toml")
    drawn = len(whole.booked(centre))
    assert 1 <= drawn < STEPS
    assert isinstance(centre.train(request), Signed)
    assert len(whole.booked(centre)) == drawn + STEPS


@pytest.mark.parametrize("error", TOO_FULL.values(), ids=TOO_FULL.keys())
def test_a_network_that_does_not_fit_is_refused_before_anything_is_booked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    centre = site_of(tmp_path, "refuse")
    fail(monkeypatch, PatientGradients, "_pass", at={1}, error=error)
    centre.refused(
        centre.train(centre.train_request()), "memory", says="set policy.out_of_memory in site.toml"
    )
    assert whole.booked(centre) == []


@pytest.mark.parametrize("way", ["smaller_batch", "refuse"])
def test_heads_are_booked_once_however_often_their_features_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    plan = heads(tmp_path)
    begin_chance(monkeypatch)
    expected = updates_of(enough := site_of(tmp_path / "enough", way, plan))
    assert len(whole.booked(enough)) == 1
    begin_chance(monkeypatch)
    short = site_of(tmp_path / "short", way, plan)
    fail(monkeypatch, ProbeNetwork, "read", at={1, 4}, error=TOO_FULL["context"])
    if way == "refuse":
        request = round_of_heads(short)
        short.refused(short.train(request), "memory", says="set policy.out_of_memory in site.toml")
        assert whole.booked(short) == []
        return
    found = updates_of(short)
    for name, update in expected.items():
        assert update is not None and update.any()
        np.testing.assert_array_equal(found[name], update)
    assert len(whole.booked(short)) == 1
    assert short.text_log().count("has too little memory") == 2


def test_from_a_card_to_the_processor(tmp_path: Path) -> None:
    site = Site.open(asking.site(tmp_path / "north", policy=asking.CAUTIOUS + 'out_of_memory = "cpu"\n'))
    tried: list[str] = []

    def work(where: torch.device, share: int) -> str:
        tried.append(f"{where} {share}")
        if where.type == "cuda":
            raise TOO_FULL["context"]
        return "done"

    assert memory.within(site, torch.device("cuda:0"), work) == "done"
    assert tried == ["cuda:0 1", "cpu 1"]


def test_no_other_error_is_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    site = Site.open(
        asking.site(tmp_path / "north", policy=asking.CAUTIOUS + 'out_of_memory = "smaller_batch"\n')
    )
    broken = RuntimeError("CUDA error: an illegal memory access was encountered")

    def work(where: torch.device, share: int) -> None:
        raise broken

    with pytest.raises(RuntimeError, match="illegal memory access") as raised:
        memory.within(site, torch.device("cpu"), work)
    assert raised.value is broken
