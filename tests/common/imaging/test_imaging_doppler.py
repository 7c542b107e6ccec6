import colorsys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.imaging.doppler import flow_mask


@given(
    rgb=hnp.arrays(np.uint8, (3, 4, 3)),
    saturation=st.floats(0, 1),
)
def test_mask_is_hsv_saturation_above_the_threshold(rgb: np.ndarray, saturation: float) -> None:
    mask = flow_mask(rgb, saturation=saturation)
    for y, x in np.ndindex(3, 4):
        value = colorsys.rgb_to_hsv(*(rgb[y, x] / 255))[1]
        if abs(value - saturation) > 1e-9:  # at the threshold itself the two round differently
            assert mask[y, x] == (255 if value > saturation else 0)


def test_grey_pictures_have_no_flow_and_every_vendors_colours_do() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert not flow_mask(grey, saturation=0.40).any()
    colours = np.array([[[220, 30, 20], [30, 60, 230], [250, 160, 20], [240, 240, 30]]], dtype=np.uint8)
    assert (flow_mask(colours, saturation=0.40) == 255).all()
