from hypothesis import given
from hypothesis import strategies as st

from common.imaging.roi import MARGIN, stored_px


@given(image_px=st.integers(16, 1024))
def test_the_stored_margin_is_even_and_at_least_what_is_asked_for(image_px: int) -> None:
    excess = stored_px(image_px) - image_px
    assert excess % 2 == 0
    assert excess / 2 >= image_px * MARGIN - 0.01
    assert excess / 2 <= image_px * MARGIN + 1.01
