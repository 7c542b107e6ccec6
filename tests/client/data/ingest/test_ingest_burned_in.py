"""The detector of text on phantom screens, where every letter's place is known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file

from client.data.ingest import scans
from client.data.pictures import burned_in
from common.imaging.doppler import flow_mask
from simulation.phantom import devices, patients, screen
from tests.client.data.dicom_files import speckle, with_text
from tests.client.data.speckles import fine_speckle

Bytes = NDArray[np.uint8]
Pair = tuple[Bytes, Bytes]
"""A screen without and with its text, as RGB."""


@pytest.fixture(scope="module")
def screens() -> Iterator[list[Pair]]:
    made: list[Pair] = []
    annotate = screen.annotate

    def both(
        picture: Bytes, device: devices.Device, texts: screen.Texts, layout: screen.Layout, *, doppler: bool
    ) -> Bytes:
        written = annotate(picture, device, texts, layout, doppler=doppler)
        made.append((_rgb(picture), _rgb(written)))
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen, "annotate", both)
        chosen = [*devices.FITTED[:3], devices.random_device(np.random.default_rng(0))]
        for i, device in enumerate(chosen):
            patients.make_patient(3, "site", i, device, exams=6)
    yield made


def _rgb(picture: Bytes) -> Bytes:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def _letters(pair: Pair) -> NDArray[np.bool_]:
    return np.asarray((pair[0] != pair[1]).any(axis=2))


def _covered(boxes: tuple[burned_in.Box, ...], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape[:2], np.bool_)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def test_the_header_of_every_phantom_screen_is_found(screens: list[Pair]) -> None:
    assert len(screens) == 48
    for pair in screens:
        letters = _letters(pair)
        letters[20:] = False
        covered = _covered(burned_in.find(pair[1]), pair[1].shape)
        assert (letters & covered).sum() >= 0.97 * letters.sum()


def test_names_of_joints_inside_the_scan_are_found(screens: list[Pair]) -> None:
    shares = []
    for pair in screens:
        height, width = pair[1].shape[:2]
        letters = _letters(pair)
        inside = letters[int(0.7 * height) :, int(0.6 * width) :]
        if inside.sum() > 30:
            covered = _covered(burned_in.find(pair[1]), pair[1].shape)
            shares.append((inside & covered[int(0.7 * height) :, int(0.6 * width) :]).sum() / inside.sum())
    assert len(shares) >= 5
    assert min(shares) >= 0.97


def test_screens_without_text_give_hardly_an_alarm(screens: list[Pair]) -> None:
    alarms = [len(burned_in.find(clean)) for clean, _ in screens]
    assert sum(alarms) <= 1


def test_after_masking_nothing_is_found_and_the_rest_is_untouched(screens: list[Pair]) -> None:
    for _, written in screens[:8]:
        boxes = burned_in.find(written)
        masked = burned_in.mask(written, boxes)
        assert burned_in.find(masked) == ()
        covered = _covered(boxes, written.shape)
        assert (masked[~covered] == written[~covered]).all()


@pytest.mark.parametrize("size", [9, 12, 16, 24])
@pytest.mark.parametrize("dark", [False, True])
def test_text_of_many_sizes_is_found_light_on_dark_and_dark_on_light(size: int, dark: bool) -> None:
    blank = np.full((120, 360, 3), 12, np.uint8)
    written = with_text(blank, "KOWALSKI 1957-03-12", (20, 40), size=size)
    letters = (written != blank).any(axis=2)
    shown = np.asarray(255 - written) if dark else written
    covered = _covered(burned_in.find(shown), shown.shape)
    assert (letters & covered).sum() >= 0.97 * letters.sum()


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "examples_jpeg2k.dcm"])
def test_real_power_doppler_is_no_text_and_the_header_above_it_is(name: str) -> None:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    rgb = scans.read(Path(found), frame=1).rgb
    height, width = rgb.shape[:2]
    covered = _covered(burned_in.find(rgb), rgb.shape)
    scan = slice(int(0.3 * height), int(0.65 * height)), slice(int(0.1 * width), int(0.9 * width))
    flow = flow_mask(rgb, saturation=0.4)[scan] > 0
    assert flow.sum() > 3000
    assert not (flow & covered[scan]).any()
    header = slice(0, int(0.2 * height)), slice(0, width)
    letters = rgb[header].min(axis=2) > 150
    assert (letters & covered[header]).sum() > 0.9 * letters.sum()


@pytest.mark.parametrize("colour", [(240, 220, 60), (60, 230, 90), (255, 150, 30), (60, 220, 255)])
def test_coloured_text_is_found_inside_the_scan(colour: tuple[int, int, int]) -> None:
    image = Image.fromarray(speckle(4))
    ImageDraw.Draw(image).text((30, 60), "WEBER 1957-03", fill=colour, font=ImageFont.load_default(size=14))
    written = np.asarray(image)
    letters = (written != speckle(4)).any(axis=2)
    covered = _covered(burned_in.find(written), written.shape)
    assert (letters & covered).sum() >= 0.97 * letters.sum()


def test_a_box_stays_inside_the_picture_and_speckle_is_no_text() -> None:
    assert all(burned_in.find(speckle(seed)) == () for seed in range(20))
    for box in burned_in.find(with_text(speckle(1), "WEBER 4711", (120, 148))):
        assert 0 <= box.top < box.bottom <= 160
        assert 0 <= box.left < box.right <= 200


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 40, 3), (17, 2, 3)])
def test_tiny_pictures_are_no_trouble(shape: tuple[int, int, int]) -> None:
    assert burned_in.find(np.zeros(shape, np.uint8)) == ()


GRAINS = [(0.6, 0.6), (0.6, 1.5), (1.0, 1.0), (1.0, 2.5), (1.5, 0.6), (1.5, 1.5), (2.5, 1.0), (2.5, 5.0)]
"""Standard deviations of the point spread function in pixels, down and across."""


@pytest.mark.parametrize("range_db", [40, 50, 60, 70])
@pytest.mark.parametrize(("axial", "lateral"), GRAINS)
def test_speckle_of_any_grain_is_left_alone_and_text_in_it_is_found(
    axial: float, lateral: float, range_db: float
) -> None:
    picture = fine_speckle(1, axial=axial, lateral=lateral, range_db=range_db)
    assert burned_in.share(picture.shape, burned_in.find(picture)) <= 0.01
    written = with_text(picture, "WEBER 1957-03-12", (30, 100), size=14)
    letters = (written != picture).any(axis=2)
    boxes = burned_in.find(written)
    assert (letters & _covered(boxes, written.shape)).sum() >= 0.97 * letters.sum()
    assert burned_in.share(written.shape, boxes) <= 0.10  # the text, and hardly more


def test_the_share_counts_a_pixel_once() -> None:
    box = burned_in.Box(top=0, left=0, bottom=5, right=10)
    assert burned_in.share((10, 10), [box, box]) == 0.5
    assert burned_in.share((0, 10), []) == 0.0


@pytest.mark.parametrize("at_once", [1, 3, 1024])
def test_strokes_are_grouped_alike_however_many_are_looked_at_together(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = with_text(with_text(speckle(3), "WEBER 1957", (10, 20)), "KOWALSKI", (60, 100))
    expected = burned_in.find(written)
    assert len(expected) >= 2
    monkeypatch.setattr(burned_in, "AT_ONCE", at_once)
    assert burned_in.find(written) == expected
