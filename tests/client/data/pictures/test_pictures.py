import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.data.pictures.pictures import read_cut
from common.errors import DataError
from common.exam import ImageRef, Roi
from common.imaging.roi import stored_px
from common.sections.networks import ImageSettings

GREY = ImageSettings(kind="grey")
DOPPLER = ImageSettings(kind="doppler")
COLOUR = ImageSettings(kind="colour")
PX = 32
MARGIN_PX = (stored_px(PX) - PX) // 2
CENTRE = slice(MARGIN_PX, MARGIN_PX + PX)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A grey picture with structure of some pixels."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8 + 2, width // 8 + 2), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def cut(
    folder: Path, name: str, image: ImageSettings = GREY, *, roi: Roi | None = None, px: int = PX
) -> np.ndarray:
    return read_cut(folder, ImageRef(path=name, roi=roi), image, image_px=px).pixels


@given(
    width=st.integers(60, 200),
    height=st.integers(60, 200),
    inset=st.tuples(*[st.floats(0, 0.3)] * 4),
    px=st.sampled_from([16, 32, 50]),
)
def test_the_centre_of_a_stored_picture_is_the_roi_resized(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    inset: tuple[float, float, float, float],
    px: int,
) -> None:
    folder = tmp_path_factory.mktemp("roi")
    picture = smooth(width, height)
    picture.save(folder / "a.png")
    left, top = int(inset[0] * width), int(inset[1] * height)
    right, bottom = int(width - inset[2] * width), int(height - inset[3] * height)
    roi = Roi(x=left, y=top, width=right - left, height=bottom - top)
    margin = (stored_px(px) - px) // 2
    centre = cut(folder, "a.png", roi=roi, px=px)[0, margin:-margin, margin:-margin].astype(int)
    direct = np.asarray(
        picture.resize((px, px), Image.Resampling.BILINEAR, box=(left, top, right, bottom)), dtype=int
    )
    # Rounding; and at the picture's border, where the filter sees the repeated edge in place of nothing.
    assert np.abs(centre - direct)[2:-2, 2:-2].max() <= 2
    assert np.abs(centre - direct).mean() <= 2


def test_the_margin_shows_what_lies_around_and_repeats_the_edge_beyond(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[None] * 2, 100, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    stored = cut(tmp_path, "a.png", roi=Roi(x=0, y=30, width=40, height=40))[0]
    assert stored.shape == (stored_px(PX), stored_px(PX))
    assert (stored[:, : MARGIN_PX - 2] == 0).all()  # left of the picture: its edge
    assert stored[:, -1].min() > 80  # right of the ROI: the ramp goes on
    assert (np.diff(stored[0].astype(int))[MARGIN_PX:] > 0).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (PX, PX), dtype=np.uint16)
    Image.fromarray(values * 256 + 17).save(tmp_path / name)
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "8.png")
    assert np.array_equal(cut(tmp_path, name), cut(tmp_path, "8.png"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_any_mode_of_a_picture_is_read(tmp_path: Path, mode: str) -> None:
    smooth(50, 40).convert("RGB").convert(mode if mode != "LA" else "L").convert(mode).save(
        tmp_path / "a.png"
    )
    assert cut(tmp_path, "a.png").shape == (1, stored_px(PX), stored_px(PX))
    assert cut(tmp_path, "a.png", COLOUR).shape == (3, stored_px(PX), stored_px(PX))


def test_a_grey_picture_is_a_doppler_picture_without_flow(tmp_path: Path) -> None:
    smooth(50, 40).save(tmp_path / "a.png")
    grey, mask = cut(tmp_path, "a.png", DOPPLER)
    assert not mask.any()
    assert np.array_equal(grey, cut(tmp_path, "a.png")[0])


@pytest.mark.parametrize("px", [32, 64, 96])
def test_a_spot_of_flow_keeps_its_area_however_small_the_picture_becomes(tmp_path: Path, px: int) -> None:
    rgb = np.full((224, 224, 3), 60, dtype=np.uint8)
    rgb[101, 50] = rgb[130:132, 97:99] = (220, 40, 30)  # one pixel and four, which a threshold would lose
    Image.fromarray(rgb).save(tmp_path / "a.png")
    mask = cut(tmp_path, "a.png", DOPPLER, px=px)[1]
    assert mask.sum() / 255 * (224 / px) ** 2 == pytest.approx(5, rel=0.15)
    assert (mask > 0).sum() <= 8  # and stays a spot


def test_flow_is_masked_at_full_resolution(tmp_path: Path) -> None:
    rgb = np.full((80, 80, 3), 60, dtype=np.uint8)
    rgb[20:40, 20:60] = (220, 40, 30)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    mask = cut(tmp_path, "a.png", DOPPLER)[1, CENTRE, CENTRE]
    expected = np.zeros((PX, PX), dtype=np.uint8)
    expected[PX // 4 : PX // 2, PX // 4 : 3 * PX // 4] = 255
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "roi",
    [
        Roi(x=0, y=0, width=51, height=10),
        Roi(x=45, y=0, width=6, height=5),
        Roi(x=0, y=40, width=1, height=1),
    ],
)
def test_an_roi_outside_the_picture_is_refused_with_both_sizes(tmp_path: Path, roi: Roi) -> None:
    smooth(50, 40).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="expected an ROI inside 50 x 40 pixels, got"):
        cut(tmp_path, "a.png", roi=roi)


def test_an_roi_of_one_pixel_works(tmp_path: Path) -> None:
    smooth(50, 40).save(tmp_path / "a.png")
    assert cut(tmp_path, "a.png", roi=Roi(x=49, y=39, width=1, height=1)).shape[1] == stored_px(PX)


def encoded(suffix: str) -> bytes:
    stream = io.BytesIO()
    smooth(60, 60).convert("RGB").save(stream, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    content = encoded(suffix)
    for size in (0, 3, 30, len(content) // 2):
        (tmp_path / f"a.{suffix}").write_bytes(content[:size])
        with pytest.raises(DataError, match=r"expected a whole|is empty|of no known picture"):
            cut(tmp_path, f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_bytes_give_a_picture_or_a_data_error(tmp_path: Path, suffix: str) -> None:
    content = np.frombuffer(encoded(suffix), dtype=np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = content.copy()
        where = rng.integers(0, min(len(damaged), 400), size=4)
        damaged[where] = rng.integers(0, 256, size=4)
        (tmp_path / "a").write_bytes(damaged.tobytes())
        try:
            assert cut(tmp_path, "a").dtype == np.uint8
        except DataError as error:
            assert "expected" in str(error)


def test_another_format_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    smooth(40, 40).save(tmp_path / "a.bmp")
    with pytest.raises(DataError, match="is BMP, expected DICOM, PNG, JPEG or TIFF"):
        cut(tmp_path, "a.bmp")
    for name in ("none.png", "."):
        with pytest.raises(DataError, match="the file cannot be read"):
            cut(tmp_path, name)


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    Image.new("1", (8000, 7000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="expected at most 50 million pixels"):
        cut(tmp_path, "a.png")


def test_the_message_names_no_path(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        cut(tmp_path, "mueller-hand.png")
    assert "mueller" not in str(caught.value)
