"""Depth, turn and number of pictures: each read right, refused with the true reason, or said."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from client.data.ingest import scans
from client.data.pictures.decoder import depth, eight_bit, several
from client.data.pictures.pictures import read_cut
from common.errors import DataError
from common.exam import ImageRef
from common.sections.networks import ImageSettings
from tests.client.data.picture_files import png16, tiff

EIGHT = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint16)
EIGHT[0, 0] = 255
DEPTHS = [8, 10, 12, 14, 16]
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Orientation -> how an upright picture is stored under it."""


def read(
    folder: Path, content: bytes, *, frame: int | None = None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Red channel and notes, as ``data ingest`` reads a file."""
    (folder / "a").write_bytes(content)
    picture = scans.read(folder / "a", frame=frame)
    return picture.rgb[..., 0], picture.notes


def used(bits: int, dtype: str = "<u2") -> NDArray[np.uint16]:
    return (EIGHT << (bits - 8)).astype(dtype)


def saved(*pictures: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if len(pictures) > 1 else {}
    pictures[0].save(stream, kind, **more, **options)
    return stream.getvalue()


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("kind", ["png", "png rgb", "png rgba", "tiff", "tiff big-endian", "tiff rgb"])
def test_so_many_bits_in_sixteen_are_scaled_and_said(tmp_path: Path, kind: str, bits: int) -> None:
    grey = used(bits)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    content = {
        "png": lambda: png16(grey),
        "png rgb": lambda: png16(rgb),
        "png rgba": lambda: png16(np.dstack([rgb, np.full_like(grey, 65535)])),
        "tiff": lambda: tiff(grey.tobytes(), (24, 20)),
        "tiff big-endian": lambda: tiff(grey.astype(">u2").tobytes(), (24, 20), order=">"),
        "tiff rgb": lambda: tiff(rgb.tobytes(), (24, 20), channels=3),
    }[kind]()
    values, notes = read(tmp_path, content)
    assert np.array_equal(values, EIGHT)
    guess = f"16 bits per channel, of which {bits} are used, read as {bits} bits (a guess)"
    assert notes == (() if bits == 16 else (guess,))


@pytest.mark.parametrize("bits", DEPTHS)
def test_what_a_file_says_of_its_depth_is_no_guess(tmp_path: Path, bits: int) -> None:
    for content in (
        png16(used(bits), significant=bits),
        tiff(used(bits).tobytes(), (24, 20), tags={281: 2**bits - 1}),
    ):
        values, notes = read(tmp_path, content)
        assert np.array_equal(values, EIGHT)
        assert notes == ()


def test_twelve_bits_scaled_to_sixteen_as_png_asks_and_twelve_packed_by_tiff(tmp_path: Path) -> None:
    assert np.array_equal(read(tmp_path, png16(used(16), significant=12))[0], EIGHT)
    even, odd = used(12)[:, 0::2].astype(int), used(12)[:, 1::2].astype(int)
    packed = np.stack([even >> 4, ((even & 15) << 4) | (odd >> 8), odd & 255], axis=-1).astype(np.uint8)
    values, notes = read(tmp_path, tiff(packed.tobytes(), (24, 20), bits=12))
    assert np.array_equal(values, EIGHT)
    assert notes == ()


@pytest.mark.parametrize("bits", DEPTHS)
def test_where_white_is_zero_sixteen_bits_are_turned_too(tmp_path: Path, bits: int) -> None:
    inverted = (2**bits - 1 - used(bits).astype(int)).astype("<u2")
    values, _ = read(tmp_path, tiff(inverted.tobytes(), (24, 20), tags={262: 0}))
    assert np.array_equal(values, EIGHT)


def test_a_dark_picture_of_sixteen_bits_is_never_brightened_in_silence(tmp_path: Path) -> None:
    dark = np.random.default_rng(1).integers(0, 300, (20, 24), dtype=np.uint16)
    assert read(tmp_path, png16(dark))[1]
    values, notes = read(tmp_path, png16(np.zeros((20, 24), np.uint16)))
    assert not values.any()
    assert notes == ()


@given(largest=st.integers(0, 2**16 - 1))
def test_the_depth_that_is_taken_always_holds_the_largest_value(largest: int) -> None:
    bits, note = depth(largest)
    assert largest < 2**bits
    assert bool(note) == (bits < 16)
    assert not largest or bits == 8 or largest >= 2 ** (bits - 2)


@given(bits=st.integers(1, 16))
def test_eight_bits_keep_the_order_and_the_ends(bits: int) -> None:
    shades = eight_bit(np.arange(2**bits), bits=bits).astype(int)
    assert (shades[0], shades[-1]) == (0, 255)
    assert (np.diff(shades) >= 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "TIFF lzw", "PNG 16", "TIFF 16", "PNG rgb 16"])
def test_a_picture_is_turned_as_its_tag_says(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16], upright[16:, :8] = 200, 96
    stored = Image.fromarray(upright)
    if (turn := TURNS[orientation]) is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.asarray(stored).astype(np.uint16) * 257
    if kind == "PNG rgb 16":
        tag = exif.tobytes().removeprefix(b"Exif\0\0")
        content = png16(np.repeat(values[..., None], 3, axis=2), chunks={b"eXIf": tag})
    else:
        picture = Image.fromarray(values) if kind.endswith("16") else stored
        options = {"compression": "tiff_lzw"} if "lzw" in kind else {}
        content = saved(picture, kind=kind.split(" ", maxsplit=1)[0], exif=exif, **options)
    shown = read(tmp_path, content)[0].astype(int)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).max() <= 12
    grey = read_cut(tmp_path, ImageRef(path="a"), ImageSettings(kind="grey"), image_px=32).pixels
    assert grey[0, 8, 8] > 150  # what is trained on is turned alike
    assert grey[0, 8, -8] < 50


def test_a_picture_without_a_turn_or_with_one_that_is_none_stays(tmp_path: Path) -> None:
    for orientation in (0, 9, 300):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert np.array_equal(
            read(tmp_path, saved(Image.fromarray(EIGHT.astype(np.uint8)), exif=exif))[0], EIGHT
        )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "MPO"])
def test_of_several_pictures_the_first_is_taken_and_said_or_the_chosen_one(tmp_path: Path, kind: str) -> None:
    one, other = (Image.new("L", (40, 30), shade) for shade in (200, 40))
    content = saved(one, other, other, kind=kind) if kind != "PNG" else saved(one, other, kind="PNG")
    frames = 2 if kind == "PNG" else 3
    values, notes = read(tmp_path, content)
    assert np.abs(values.astype(int) - 200).max() <= 2
    assert notes == (several(frames),)
    values, notes = read(tmp_path, content, frame=2)
    assert np.abs(values.astype(int) - 40).max() <= 2
    assert notes == ()
    with pytest.raises(DataError, match=f"expected at least 9 pictures in the file, got {frames}"):
        read(tmp_path, content, frame=9)
    with pytest.raises(DataError, match=f"expected one picture in the file, got {frames}"):
        read_cut(tmp_path, ImageRef(path="a"), ImageSettings(kind="grey"), image_px=32)


def test_a_tiffs_smaller_copy_is_no_page(tmp_path: Path) -> None:
    small = Image.new("L", (10, 8), 9)
    small.encoderinfo = {"tiffinfo": {254: 1}}
    content = saved(Image.new("L", (40, 30), 200), small, kind="TIFF")
    values, notes = read(tmp_path, content)
    assert (values.shape, notes) == ((30, 40), ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello", "no known picture"),
        (b"%PDF-1.7 ...", "is PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "is HEIC"),
        (b"\0\0\0\x18ftypmp42" + bytes(200), "is film"),
        (saved(Image.new("L", (40, 30)), kind="GIF"), "is GIF"),
        (saved(Image.new("L", (40, 30)), Image.new("L", (40, 30), 9), kind="GIF"), "is GIF"),
        (saved(Image.new("L", (40, 30)), kind="BMP"), "is BMP"),
        (saved(Image.new("L", (40, 30)), kind="WEBP"), "is WebP"),
        (saved(Image.new("L", (40, 30)), kind="JPEG2000"), "is JPEG 2000"),
        (saved(Image.new("L", (40, 30)), kind="JPEG2000", no_jp2=True), "is JPEG 2000"),
        (saved(Image.fromarray(np.ones((30, 40), np.float32)), kind="TIFF"), "floating-point"),
        (saved(Image.fromarray(np.full((30, 40), 70_000, np.int32)), kind="TIFF"), "32"),
        (saved(Image.fromarray(np.full((30, 40), -5, np.int32)), kind="TIFF"), "sign"),
        (png16(EIGHT, claimed=(9000, 9000)), "at most 50 million pixels"),
        (png16(EIGHT, claimed=(12000, 9000)), "at most 50 million pixels"),
        (png16(EIGHT, claimed=(20000, 20000)), "at most 50 million pixels"),
        (saved(Image.new("L", (40, 30)))[:45], "a whole PNG"),
        (b"\x89PNG\r\n\x1a\nxxxxxxxxxxxx", "a whole PNG"),
        (png16(np.dstack([EIGHT, EIGHT])), "or no transparency"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_true_reason(
    tmp_path: Path, content: bytes, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read(tmp_path, content)
    with pytest.raises(DataError, match=says):
        read_cut(tmp_path, ImageRef(path="a"), ImageSettings(kind="colour"), image_px=32)
