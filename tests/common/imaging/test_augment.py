import math
from typing import Literal, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.imaging import augment
from common.imaging.augment import AugmentParameters
from common.imaging.prepare import FLOW_COLOUR, MEAN, STD, picture
from common.imaging.roi import stored_px
from common.sections.networks import ImageSettings
from common.sections.training import AugmentationSettings

PX = 32
SIDE = stored_px(PX)
KINDS = {"grey": 1, "doppler": 2, "colour": 3}
RATING = AugmentationSettings()


Kind: TypeAlias = Literal["grey", "doppler", "colour"]


def stored(kind: Kind, count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, KINDS[kind], SIDE, SIDE), generator=generator, dtype=torch.uint8)
    if kind == "doppler":
        pixels[:, 1] = 255 * (pixels[:, 1] > 200)
    return pixels


def drawn(
    kind: Kind, count: int = 4, seed: int = 0, ranges: AugmentationSettings = RATING
) -> AugmentParameters:
    return augment.draw(
        count,
        image=ImageSettings(kind=kind),
        settings=ranges,
        image_px=PX,
        stored_px=SIDE,
        generator=torch.Generator().manual_seed(seed),
    )


def unchanged(
    count: int = 1, *, right: float = 0.0, down: float = 0.0, scale: float = 1.0
) -> AugmentParameters:
    ratio = PX / SIDE
    theta = torch.tensor([[scale * ratio, 0, 2 * ratio * right], [0, scale * ratio, 2 * ratio * down]])
    one = torch.ones(count)
    return AugmentParameters(theta=theta.expand(count, 2, 3), brightness=one, contrast=one)


@pytest.mark.parametrize("kind", KINDS)
def test_without_changes_the_picture_is_the_centre(kind: Kind) -> None:
    margin = (SIDE - PX) // 2
    centre = stored(kind)[..., margin : margin + PX, margin : margin + PX].float() / 255
    mean, std, flow = (torch.tensor(c).view(3, 1, 1) for c in (MEAN, STD, FLOW_COLOUR))
    rgb = centre if kind == "colour" else centre[:, :1].expand(-1, 3, -1, -1)
    if kind == "doppler":
        rgb = torch.where(centre[:, 1:] > 0, flow, rgb)
    got = picture(stored(kind), ImageSettings(kind=kind), image_px=PX)
    torch.testing.assert_close(got, (rgb - mean) / std, rtol=0, atol=1e-6)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_the_identity_drawn_is_the_identity(kind: Kind) -> None:
    image = ImageSettings(kind=kind)
    plain = picture(stored(kind), image, image_px=PX)
    resampled = picture(stored(kind), image, image_px=PX, parameters=unchanged(4))
    torch.testing.assert_close(resampled, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_per_element(kind: Kind) -> None:
    image, pixels, parameters = ImageSettings(kind=kind), stored(kind), drawn(kind)
    batched = picture(pixels, image, image_px=PX, parameters=parameters)
    for i in range(len(pixels)):
        one = AugmentParameters(
            theta=parameters.theta[i : i + 1],
            brightness=parameters.brightness[i : i + 1],
            contrast=parameters.contrast[i : i + 1],
        )
        alone = picture(pixels[i : i + 1], image, image_px=PX, parameters=one)
        torch.testing.assert_close(batched[i : i + 1], alone, rtol=0, atol=1e-5)


def test_nothing_is_changed_in_place() -> None:
    pixels = stored("doppler")
    before = pixels.clone()
    picture(pixels, ImageSettings(kind="doppler"), image_px=PX, parameters=drawn("doppler"))
    assert torch.equal(pixels, before)


def test_a_shift_moves_the_roi_by_a_fraction_of_its_side() -> None:
    ramp = torch.arange(SIDE).float().expand(1, 1, SIDE, SIDE)
    still = augment.cut(ramp, unchanged(), image_px=PX)
    moved = augment.cut(ramp, unchanged(right=0.1), image_px=PX)
    torch.testing.assert_close(moved - still, torch.full_like(still, 0.1 * PX))
    sunk = augment.cut(ramp.mT, unchanged(down=0.1), image_px=PX)
    torch.testing.assert_close(sunk, still.mT + 0.1 * PX)


def test_a_scale_above_one_shows_more() -> None:
    ramp = torch.arange(SIDE).float().expand(1, 1, SIDE, SIDE)
    wide = augment.cut(ramp, unchanged(scale=1.1), image_px=PX)
    steps = wide.diff(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, 1.1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(KINDS)))
def test_draws_stay_in_the_published_ranges(seed: int, kind: Kind) -> None:
    parameters = drawn(kind, count=64, seed=seed)
    ratio = PX / SIDE
    matrix = parameters.theta[:, :, :2] / ratio
    scale = matrix.det().sqrt()
    low, high = RATING.doppler_scale if kind == "doppler" else RATING.grey_scale
    assert ((scale > low - 1e-5) & (scale < high + 1e-5)).all()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    assert angle.abs().max() <= math.radians(5) + 1e-5
    shift = (parameters.theta[:, :, 2] / (2 * ratio)).abs().max()
    assert shift <= (1e-7 if kind == "doppler" else 0.1 + 1e-6)
    for factor in (parameters.brightness, parameters.contrast):
        assert ((factor >= 0.75 - 1e-6) & (factor <= 1.25 + 1e-6)).all()


def test_unrotated_rois_lie_within_the_stored_margin() -> None:
    parameters = drawn("grey", 1000, ranges=RATING.model_copy(update={"rotation_degrees": 0.0}))
    reach = parameters.theta[:, :, :2].abs().sum(2) + parameters.theta[:, :, 2].abs()
    assert reach.max() <= 1.0


def test_draws_depend_on_their_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = drawn("grey"), drawn("grey"), drawn("grey", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.theta, again.theta)
    assert not torch.equal(first.theta, other.theta)


def test_light_changes_as_said() -> None:
    pixels = torch.tensor([[[[0.2, 0.4], [0.4, 0.2]]]])
    parameters = AugmentParameters(
        theta=torch.zeros(1, 2, 3), brightness=torch.tensor([1.2]), contrast=torch.tensor([0.5])
    )
    # 1.2 * (0.2, 0.4) = (0.24, 0.48), mean 0.36, half of the distances to it
    torch.testing.assert_close(
        augment.relight(pixels, parameters), torch.tensor([[[[0.30, 0.42], [0.42, 0.30]]]])
    )


def test_light_stays_between_black_and_white() -> None:
    bright = AugmentParameters(
        theta=torch.zeros(1, 2, 3), brightness=torch.tensor([1.25]), contrast=torch.tensor([1.25])
    )
    relit = augment.relight(torch.rand(1, 1, 16, 16), bright)
    assert relit.min() >= 0
    assert relit.max() <= 1


def test_flow_has_one_colour_in_any_light() -> None:
    pixels = stored("doppler", 2)
    pixels[:, 1] = 255
    flow = picture(pixels, ImageSettings(kind="doppler"), image_px=PX, parameters=drawn("doppler", 2))
    expected = ((torch.tensor(FLOW_COLOUR) - torch.tensor(MEAN)) / torch.tensor(STD)).view(1, 3, 1, 1)
    torch.testing.assert_close(flow, expected.expand_as(flow))
