from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import (
    MPEG4HP41,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from client.data.ingest import region, scans
from client.data.ingest.mapping import DeviceSection
from client.data.pictures.decoder import several
from common.errors import DataError
from common.exam import Roi
from tests.client.data.dicom_files import FLOW, TISSUE, speckle, with_flow, write_dicom

ALL = ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", "MONOCHROME2")
SHOWN = with_flow(speckle(1))


def _expected(photometric: str) -> np.ndarray:
    if photometric.startswith("MONO"):
        return np.repeat(SHOWN[..., :1], 3, axis=2)
    if photometric == "PALETTE COLOR":
        red = SHOWN[..., 0] > SHOWN[..., 1]
        value = (SHOWN[..., 0] >> 1) * 2
        return np.stack([value, np.where(red, 0, value), np.where(red, 0, value)], axis=-1)
    return SHOWN


@pytest.mark.parametrize("photometric", ALL)
@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [
        (ExplicitVRLittleEndian, 2),
        (ImplicitVRLittleEndian, 2),
        (RLELossless, 2),
        (JPEGBaseline8Bit, 12),
        (JPEG2000Lossless, 2),
    ],
)
def test_every_kind_of_pixels_gives_the_picture_that_was_shown(
    tmp_path: Path, photometric: str, syntax: UID, tolerance: int
) -> None:
    if photometric == "PALETTE COLOR" and syntax == JPEGBaseline8Bit:
        pytest.skip("indices of a palette do not survive lossy compression")
    if photometric == "YBR_FULL_422" and syntax == RLELossless:
        pytest.skip("RLE knows no subsampling")
    if syntax == JPEG2000Lossless and photometric.startswith("YBR"):
        photometric = "RGB"  # the encoder stores the transform of RGB itself
    if syntax == JPEG2000Lossless and photometric == "PALETTE COLOR":
        pytest.skip("the factory compresses colours, not indices")
    if syntax == JPEGBaseline8Bit and photometric == "RGB":
        photometric = "YBR_FULL_422"  # JPEG stores no RGB
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, photometric=photometric, syntax=syntax)
    picture = scans.read(path, frame=1)
    assert picture.rgb.shape == SHOWN.shape
    error = np.abs(picture.rgb.astype(int) - _expected(photometric))
    inner = np.ones(error.shape[:2], bool)
    if "422" in photometric or syntax == JPEGBaseline8Bit:
        inner[56:84, 56:94] = False  # subsampled colour bleeds over the edge of the patch
        inside = _expected(photometric)[70, 75].tolist()
        assert picture.rgb[70, 75].tolist() == pytest.approx(inside, abs=tolerance)
    assert error[inner].max() <= tolerance


def test_of_sixteen_bits_the_upper_eight_of_those_stored_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    data = write_dicom(path, SHOWN, photometric="MONOCHROME2")
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = (SHOWN[..., 0].astype("<u2") << 4).tobytes()
    data.save_as(path, enforce_file_format=True)
    assert (scans.read(path, frame=1).rgb[..., 0] == SHOWN[..., 0]).all()


def test_a_window_is_applied_as_a_viewer_does(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, photometric="MONOCHROME2", tags={"WindowCenter": 40, "WindowWidth": 40})
    shown = scans.read(path, frame=1).rgb[..., 0]
    assert shown[SHOWN[..., 0] <= 19].max() == 0
    assert shown[SHOWN[..., 0] >= 60].min() == 255


def test_a_palette_of_sixteen_bits_that_holds_eight_is_not_black(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    data = write_dicom(path, SHOWN, photometric="PALETTE COLOR")
    before = scans.read(path, frame=1).rgb
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        table = np.frombuffer(data[keyword].value, np.uint16) >> 8
        setattr(data, keyword, table.astype(np.uint16).tobytes())
    data.save_as(path, enforce_file_format=True)
    assert (scans.read(path, frame=1).rgb == before).all()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_of_a_clip_the_chosen_frame_is_kept(tmp_path: Path, syntax: UID) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, syntax=syntax, frames=3)
    first, third = scans.read(path, frame=1).rgb, scans.read(path, frame=3).rgb
    assert (first == SHOWN).all()
    assert (third == np.clip(SHOWN.astype(int) + 80, 0, 255)).all()
    with pytest.raises(DataError, match="expected at least 4 pictures in the clip, got 3"):
        scans.read(path, frame=4)


def test_jpeg_lossless_is_decoded() -> None:
    from pydicom.data import get_testdata_file

    found = get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False)
    assert isinstance(found, str)
    assert scans.read(Path(found), frame=1).rgb.shape == (100, 100, 3)


def test_what_nothing_installed_decodes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    data = write_dicom(path, SHOWN, syntax=JPEG2000Lossless)
    data.file_meta.TransferSyntaxUID = HTJ2KLossless
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match="no decoder for High-Throughput JPEG 2000"):
        scans.read(path, frame=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: setattr(data, "Modality", "CT"), "another modality"),
        (lambda data: data.__delattr__("PixelData"), "no picture"),
        (lambda data: setattr(data.file_meta, "TransferSyntaxUID", MPEG4HP41), "is a film"),
        (lambda data: setattr(data, "Rows", 60_000), "cannot be decoded"),
        (lambda data: data.update({"Rows": 60_000, "Columns": 60_000}), "pixels"),
    ],
)
def test_what_is_no_ultrasound_still_is_refused_by_name(
    tmp_path: Path, change: Callable[[FileDataset], None], says: str
) -> None:
    path = tmp_path / "erika.dcm"
    data = write_dicom(path, SHOWN, syntax=RLELossless)
    change(data)
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match=says) as caught:
        scans.read(path, frame=1)
    assert "erika" not in str(caught.value).casefold()


@pytest.mark.parametrize("keep", [200, 900, 5000])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError):
        scans.read(path, frame=1)


def test_private_and_nested_elements_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, regions=[(1, 1, 90, 90, TISSUE)])
    tags = scans.read(path, frame=1).tags
    assert not any("PRIVATE" in value for value in tags.values())
    assert "SequenceOfUltrasoundRegions" not in tags
    assert "PixelData" not in tags
    assert tags["ManufacturerModelName"] == "MyLab Twice"


def _panels(path: Path, devices: tuple[DeviceSection, ...] = ()) -> tuple[region.Panel, ...]:
    return region.panels(scans.read(path, frame=1), path.name, devices)


def test_a_colour_box_lies_on_its_tissue_and_two_scans_stand_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(
        path, SHOWN, regions=[(110, 10, 189, 99, TISSUE), (10, 10, 89, 99, TISSUE), (120, 20, 169, 69, FLOW)]
    )
    left, right = _panels(path)
    assert (left.box, left.image) == (Roi(x=10, y=10, width=80, height=90), "")
    assert (right.box, right.image) == (Roi(x=110, y=10, width=80, height=90), "doppler")
    assert right.colour_box == Roi(x=120, y=20, width=50, height=50)


def test_a_spectrum_is_no_scan(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    data = write_dicom(path, SHOWN, regions=[(10, 10, 89, 99, TISSUE)])
    data.SequenceOfUltrasoundRegions[0].RegionSpatialFormat = 3
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match="none of a two-dimensional scan"):
        scans.read(path, frame=1)


def test_a_corner_one_pixel_outside_is_forgiven_and_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, regions=[(20, 20, 200, 160, TISSUE)])
    assert _panels(path)[0].box == Roi(x=20, y=20, width=180, height=140)
    write_dicom(path, SHOWN, regions=[(20, 20, 202, 150, TISSUE)])
    with pytest.raises(DataError, match="region tag inside 200 x 160"):
        _panels(path)


def test_a_profile_goes_before_the_tag_and_fits_by_maker_model_size_and_name(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, regions=[(0, 0, 50, 50, TISSUE)])
    profile = {
        "name": "twice",
        "manufacturer": "^esaote$",
        "model": "mylab",
        "size": (200, 160),
        "panels": [{"box": (0, 0, 100, 160), "image": "gs"}, {"box": (100, 0, 100, 160), "image": "doppler"}],
    }
    found = _panels(path, (DeviceSection.model_validate(profile),))
    assert [(p.image, p.box.x, p.by) for p in found] == [
        ("gs", 0, "profile twice"),
        ("doppler", 100, "profile twice"),
    ]
    for other in ({"manufacturer": "GE"}, {"size": (201, 160)}, {"file": "^b"}):
        assert _panels(path, (DeviceSection.model_validate(profile | other),))[0].by == "region tag"


Segment: TypeAlias = tuple[int, list[int]] | tuple[int, int, int]
SEGMENTED: dict[str, list[Segment]] = {
    "red": [(0, [0, 3000]), (1, 126, 65535), (0, [9]), (2, 2, 0)],
    "green": [(0, [65535]), (1, 256, 0)],
    "blue": [(0, [7, 7, 7]), (1, 254, 7)],
}
"""Segments of each colour: 0 discrete values, 1 a line of so many to a value, 2 so many segments again."""


def _words(segments: list[Segment]) -> list[int]:
    words: list[int] = []
    for segment in segments:
        match segment:
            case kind, values:
                words += [kind, len(values), *values]
            case 1, count, end:
                words += [1, count, end]
            case kind, count, start:
                words += [kind, count, start & 0xFFFF, start >> 16]
    return words


def _expanded(segments: list[Segment], before: int | None = None) -> list[int]:
    """PS3.3 C.7.9.2, one value after the other."""
    table: list[int] = []
    for segment in segments:
        match segment:
            case _, values:
                table += values
            case 1, count, end:
                start = table[-1] if table else before
                assert start is not None
                table += [round(start + (end - start) * (i + 1) / count) for i in range(count)]
            case _, count, _:
                table += _expanded(segments[:count], table[-1])
    return table


def _segmented(path: Path, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """A file whose palette is in segments: the indices in it, and the colours they stand for."""
    data = write_dicom(path, SHOWN, photometric="PALETTE COLOR")
    shift = 16 - depth
    tables = []
    for colour in ("Red", "Green", "Blue"):
        delattr(data, f"{colour}PaletteColorLookupTableData")
        segments = [
            (part[0], [value >> shift for value in part[1]])
            if len(part) == 2
            else (*part[:2], part[2] >> shift)
            if part[0] == 1
            else part
            for part in SEGMENTED[colour.lower()]
        ]
        table = _expanded(segments)
        tables.append(table)
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [len(table) % 2**16, 0, 16])
        words = np.array(_words(segments), "<u2").tobytes()
        setattr(data, f"Segmented{colour}PaletteColorLookupTableData", words)
    data.save_as(path, enforce_file_format=True)
    index = np.frombuffer(data.PixelData, np.uint8).reshape(SHOWN.shape[:2])
    return index, np.stack([np.array(table)[index] for table in tables], axis=-1)


@pytest.mark.parametrize("depth", [16, 8])
def test_a_palette_in_segments_is_expanded_as_the_standard_says(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "aloka.dcm"
    _, colours = _segmented(path, depth)
    shown = scans.read(path, frame=1).rgb.astype(int)
    assert np.abs(shown - (colours >> (depth - 8))).max() <= 1
    assert shown.max() == 255


@pytest.mark.parametrize(("stored", "used"), [(16, 12), (16, 10), (16, 16), (12, 12), (12, 10)])
def test_sixteen_bits_that_are_not_used_are_scaled_and_said(tmp_path: Path, stored: int, used: int) -> None:
    path = tmp_path / "a.dcm"
    data = write_dicom(path, SHOWN, photometric="MONOCHROME2")
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, stored, stored - 1
    values = SHOWN[..., 0].astype("<u2")
    values[0, 0] = 255
    data.PixelData = (values << (used - 8)).tobytes()
    data.save_as(path, enforce_file_format=True)
    picture = scans.read(path, frame=1)
    guessed = stored == 16 > used
    assert (picture.rgb[..., 0] == values >> (0 if guessed else stored - used)).all()
    assert bool(picture.notes) == guessed


def test_of_a_clip_that_nobody_chose_from_the_first_frame_is_taken_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, SHOWN, frames=3)
    picture = scans.read(path, frame=None)
    assert (picture.rgb == SHOWN).all()
    assert picture.notes == (several(3),)
    assert scans.read(path, frame=1).notes == ()
