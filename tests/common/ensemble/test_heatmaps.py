import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.ensemble.heatmaps import (
    HeatmapSettings,
    attributions,
    heatmaps,
    networks_above_zero,
    overlay,
    scaled,
)
from common.errors import ConfigurationError, DataError
from common.networks.backbones import initialise
from common.networks.fusion import FusionNetwork
from common.networks.spec import NetworkSpec, Target
from common.sections.networks import NetworkSettings

NETWORK = NetworkSettings(image_px=16, width=4, hidden=8)
FEW = HeatmapSettings(steps=4, noisy_copies=3, noise_sigma=0.5)
STILL = HeatmapSettings(steps=50, noise_sigma=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(exams: int = 2, seed: int = 5) -> list[Tensor]:
    drawn = generator(seed)
    return [torch.randn(exams, 3, 16, 16, generator=drawn) for _ in range(2)]


def fusion(seed: int = 0) -> nn.Module:
    built = FusionNetwork(NETWORK, moves=[False, False], classes=2)
    initialise(built, generator(seed))
    return built.eval()


class Linear(nn.Module):
    """Log odds 2 w0 . x0 + 2 w1 . x1 - 1, with different weights everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(2, 3, 16, 16, generator=generator(9)))

    def forward(self, given: list[Tensor]) -> Tensor:
        each = [(w * x).sum((1, 2, 3)) for w, x in zip(self.get_buffer("weights"), given, strict=True)]
        half = torch.stack(each).sum(0)
        return torch.stack([1 - half, half], dim=1)


def test_of_a_linear_network_they_are_weight_times_input() -> None:
    network, given_pictures = Linear(), pictures()
    found = attributions([network], given_pictures, settings=STILL, generator=generator())
    for weights, values, result in zip(network.get_buffer("weights"), given_pictures, found, strict=True):
        torch.testing.assert_close(result, (2 * weights * values).sum(1), rtol=1e-4, atol=1e-4)


def test_noise_is_added_to_the_input_and_averaged() -> None:
    network, (first, second) = Linear(), pictures()
    drawn = generator(3)
    noise = [FEW.noise_sigma * torch.randn(3, 3, 16, 16, generator=drawn).mean(0) for _ in range(2)]
    found = attributions([network], [first, second], settings=FEW, generator=generator(3))
    weights = network.get_buffer("weights")
    torch.testing.assert_close(found[0], (2 * weights[0] * (first + noise[0])).sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], (2 * weights[1] * (second + noise[1])).sum(1), rtol=1e-4, atol=1e-4)


class Curved(nn.Module):
    """Smooth, and without norms: those undo the scale of their input, and a path from zero changes only that."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 4, 3, 2, 1) for _ in range(2))
        self.head = nn.Linear(8, 2)
        initialise(self, generator(seed))

    def forward(self, given: list[Tensor]) -> Tensor:
        each = [torch.tanh(conv(x)).mean((2, 3)) for conv, x in zip(self.convolutions, given, strict=True)]
        logits: Tensor = self.head(torch.cat(each, dim=1))
        return logits


def test_they_add_up_to_the_change_of_the_log_odds() -> None:
    """Completeness: Sundararajan et al. 2017, proposition 1."""
    networks, given_pictures = [Curved(1), Curved(2)], pictures()
    found = attributions(networks, given_pictures, settings=STILL, generator=generator())
    total = torch.stack([values.sum((1, 2)) for values in found]).sum(0)
    changes = []
    with torch.no_grad():
        for network in networks:
            there = network(given_pictures)
            here = network([torch.zeros_like(values[:1]) for values in given_pictures])
            changes.append((there[:, 1] - there[:, 0]) - (here[:, 1] - here[:, 0]))
    assert torch.stack(changes).mean(0).abs().min() > 0.01
    torch.testing.assert_close(total, torch.stack(changes).mean(0), rtol=1e-3, atol=1e-5)


def test_what_is_added_to_both_logits_changes_nothing() -> None:
    class Shifted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, given: list[Tensor]) -> Tensor:
            logits: Tensor = self.inner(given)
            return logits + given[0].square().sum((1, 2, 3))[:, None]

    plain, shifted = (
        attributions([network], pictures(), settings=FEW, generator=generator())
        for network in (fusion(), Shifted(fusion()))
    )
    for one, other in zip(plain, shifted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_networks_count_alike() -> None:
    together = attributions([fusion(1), fusion(2)], pictures(), settings=FEW, generator=generator())
    apart = [attributions([fusion(s)], pictures(), settings=FEW, generator=generator()) for s in (1, 2)]
    for both, one, other in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, (one + other) / 2)


def test_the_same_generator_gives_the_same_heatmaps_and_another_does_not() -> None:
    torch.manual_seed(1)
    first = heatmaps([fusion()], pictures(), settings=FEW, generator=generator(7))
    torch.manual_seed(2)  # nothing is taken from the global generator
    again = heatmaps([fusion()], pictures(), settings=FEW, generator=generator(7))
    other = heatmaps([fusion()], pictures(), settings=FEW, generator=generator(8))
    for one, same, different in zip(first, again, other, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, different)


def test_an_exam_has_its_heatmaps_whatever_is_beside_it() -> None:
    together = heatmaps([fusion()], pictures(exams=3), settings=FEW, generator=generator(7))
    for exam in range(3):
        one = [values[exam : exam + 1] for values in pictures(exams=3)]
        alone = heatmaps([fusion()], one, settings=FEW, generator=generator(7))
        for whole, single in zip(together, alone, strict=True):
            assert torch.equal(whole[exam], single[0])


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_the_size_of_a_batch_is_only_about_speed(batch: int) -> None:
    whole = attributions([fusion()], pictures(), settings=FEW, generator=generator())
    parts = attributions(
        [fusion()], pictures(), settings=FEW.model_copy(update={"batch": batch}), generator=generator()
    )
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_they_are_one_picture_an_image_between_cut_and_one() -> None:
    first, second = pictures(exams=2)
    found = heatmaps(
        [Single()], [first], settings=HeatmapSettings(steps=3, noisy_copies=2, cut=0.4), generator=generator()
    )
    assert [values.shape for values in found] == [(2, 16, 16)]
    found = heatmaps([fusion()], [first, second], settings=FEW, generator=generator())
    assert [values.shape for values in found] == [(2, 16, 16)] * 2
    for values in found:
        assert values.dtype == torch.float32
        assert values.amax((1, 2)).tolist() == [1.0, 1.0]
        assert ((values == 0) | (values >= FEW.cut)).all()


class Single(nn.Module):
    def forward(self, given: list[Tensor]) -> Tensor:
        (picture,) = given
        brightness = picture.mean((1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1)


def test_they_are_made_inside_inference_mode_too() -> None:
    network = fusion()
    outside = heatmaps([network], pictures(), settings=FEW, generator=generator())
    with torch.inference_mode():
        inside = heatmaps([network], pictures(), settings=FEW, generator=generator())
    for one, other in zip(outside, inside, strict=True):
        assert torch.equal(one, other)


def test_progress_counts_networks_of_exams() -> None:
    told: list[tuple[int, int]] = []
    heatmaps(
        [fusion(1), fusion(2)],
        pictures(exams=2),
        settings=FEW,
        generator=generator(),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_network_that_is_not_finite_is_refused() -> None:
    broken = fusion()
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(DataError, match="finite attributions"):
        heatmaps([broken], pictures(), settings=FEW, generator=generator())


def test_scaling_keeps_what_speaks_for_the_class() -> None:
    values = torch.tensor([[[-9.0, 1.0, 2.0, 10.0]], [[-1.0, -2.0, -3.0, 0.0]]])
    settings = HeatmapSettings(outliers=0.0, cut=0.2)
    expected = torch.tensor([[[0.0, 0.0, 0.2, 1.0]], [[0.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(scaled(values, settings), expected)


def test_an_outlier_does_not_darken_the_rest() -> None:
    values = torch.full((1, 10, 10), 1.0)
    values[0, 0, 0] = 2.0  # less than 2 % of the mass
    assert scaled(values, HeatmapSettings())[0].min() == 1.0
    assert scaled(values, HeatmapSettings(outliers=0.0))[0].min() == 0.5


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_scaling_does_not_depend_on_the_unit(seed: int, factor: float) -> None:
    values = torch.randn(2, 5, 5, generator=generator(seed))
    torch.testing.assert_close(scaled(values * factor, STILL), scaled(values, STILL), rtol=1e-4, atol=1e-4)


def test_the_overlay_is_yellow_with_the_heatmap_as_alpha() -> None:
    grey = np.full((2, 2), 100, dtype=np.uint8)
    heatmap = np.array([[0.0, 1.0], [0.5, 0.2]], dtype=np.float32)
    shown = overlay(grey, heatmap)
    assert shown.dtype == np.uint8
    assert shown.tolist() == [[[100] * 3, [255, 255, 0]], [[178, 178, 50], [131, 131, 80]]]
    colour = np.stack([grey, grey, grey], axis=2)
    assert np.array_equal(overlay(colour, heatmap), shown)
    with pytest.raises(DataError, match="heatmap of"):
        overlay(grey, heatmap[:1])


def spec(measurement: str, *, images: tuple[str, ...] = ("gs",), **target: object) -> NetworkSpec:
    name = f"{measurement}/{'+'.join(images)}/{target}"
    return NetworkSpec(name=name, images=images, target=Target(measurement=measurement, **target))


def test_the_networks_are_those_above_zero_of_the_first_measurement_that_read_most() -> None:
    both = ("gs", "doppler")
    wanted = spec("hypertrophy", images=both, threshold=0)
    others = [
        spec("vascularity", threshold=0),
        spec("hypertrophy", threshold=0),  # on the way to the fusion
        spec("hypertrophy", images=both, threshold=1),
        spec("hypertrophy", images=both, kind="nominal", threshold=None, classes=4),
    ]
    measurements = ["hypertrophy", "vascularity"]
    assert networks_above_zero([*others, wanted], measurements=measurements) == [wanted]
    assert networks_above_zero(others[:1], measurements=measurements) == others[:1]
    assert networks_above_zero([spec("other", threshold=0)], measurements=measurements)
    with pytest.raises(ConfigurationError, match="no heatmaps"):
        networks_above_zero(others[3:], measurements=measurements)


def test_of_mobilenet_they_add_up_to_its_log_odds_less_those_of_the_baseline() -> None:
    settings = NetworkSettings(backbone="mobilenet_v2", image_px=32, hidden=8)
    network = FusionNetwork(settings, moves=[False, False], classes=2)
    initialise(network, generator())
    drawn = generator(5)
    given_pictures = [torch.randn(1, 3, 32, 32, generator=drawn) for _ in range(2)]
    network.eval()
    found = attributions([network], given_pictures, settings=STILL, generator=generator())
    with torch.no_grad():
        logits = network([torch.cat([values, torch.zeros_like(values)]) for values in given_pictures])
    odds = logits[:, 1] - logits[:, 0]
    total = sum(float(values.sum()) for values in found)
    assert abs(float(odds[0] - odds[1])) > 0.001
    # the integral's error, of 50 steps; 1000 bring it to 0.3 %
    assert total == pytest.approx(float(odds[0] - odds[1]), rel=0.2)
