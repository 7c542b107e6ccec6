"""Reads one DICOM picture: its pixels as RGB, its public tags, its regions. Private elements are never looked at."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import UInt8
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from client.data.pictures import clips
from client.data.pictures.decoder import DEPTHS, LARGEST_PX, depth, eight_bit, several
from common.errors import DataError

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
LARGEST_BYTES = 2_000_000_000
MODALITIES = ("US", "IVUS", "OT", "SC", "")
TWO_DIMENSIONAL = 1
TISSUE, COLOUR_FLOW = 1, 2
"""Region Data Type, PS3.3 C.8.5.5.1."""
CENTIMETRES = 3
"""Physical Units, likewise."""
IDENTIFYING = (
    "PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames", "AccessionNumber",
    "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "OperatorsName",
    "PerformingPhysicianName", "StationName", "StudyID", "StudyInstanceUID", "SeriesInstanceUID",
    "SOPInstanceUID", "DeviceSerialNumber",
)  # fmt: skip
"""Whose values may stand nowhere in what is written, not even inside another value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One item of SequenceOfUltrasoundRegions; the lower right corner belongs to it.

    Attributes:
        flow: whether it shows colour flow, else tissue.
        mm_per_px: of both axes; ``None`` where the file does not say, or they differ by more than a hundredth.
    """

    left: int
    top: int
    right: int
    bottom: int
    flow: bool
    mm_per_px: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as a machine exported it.

    Attributes:
        rgb: its pixels.
        tags: keyword -> text, public elements of the top level only; empty for other files.
        regions: two-dimensional regions of tissue and colour flow.
        kind: what was read, for the record: transfer syntax and photometric interpretation, or the format.
        notes: what was guessed or left aside, each to be read after "with".
        moving: all frames of a clip, if they were asked for, of which ``rgb`` is the first.
        frame_rate: frames per second, where the file says so.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    tags: Mapping[str, str]
    regions: tuple[Region, ...]
    kind: str
    notes: tuple[str, ...] = ()
    moving: UInt8[np.ndarray, "frames h w 3"] | None = None
    frame_rate: float | None = None


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts so is DICOM."""
    return start[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MAGIC)] == MAGIC


def quiet() -> None:
    """Keep pydicom from minding small rules, of which machines break many, and from printing values of a file."""
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def read(content: bytes, *, frame: int | None, moving: bool = False) -> Picture:
    """Read one picture; of a clip the chosen one, or all.

    Args:
        content: of the file.
        frame: 1 for the first; a still has only that. ``None``: the first, and a note if there are others.
        moving: whether all frames of a clip are wanted.

    Raises:
        DataError: if it is no picture, or cannot be decoded. The message holds nothing of the file's values.
    """
    quiet()
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        tags = _tags(dataset)
        regions = _regions(dataset)
        without_scan = bool(dataset.get("SequenceOfUltrasoundRegions")) and not regions
    except Exception as error:  # a damaged file makes the parser raise nearly anything
        raise DataError(f"expected a whole DICOM file ({type(error).__name__})") from None
    if without_scan:
        raise DataError("has regions, but none of a two-dimensional scan (a curve or a spectrum)")
    frames = _check(dataset, frame=frame or 1, moving=moving)
    syntax = dataset.file_meta.TransferSyntaxUID
    kind = f"{syntax.name}, {dataset.PhotometricInterpretation}"
    if moving and _is_film(syntax):
        images, _, rate = clips.film(_stream(dataset), mode="RGB", wanted=None)
        whole = np.stack([np.asarray(image) for image in images])
        return Picture(
            rgb=whole[0],
            tags=tags,
            regions=regions,
            kind=kind,
            moving=whole,
            frame_rate=_rate(dataset) or rate,
        )
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise DataError(f"no decoder for {syntax.name}: install synofed[jpeg], or export it uncompressed")
    try:
        first, *others = (_rgb(dataset, index=i) for i in (range(frames) if moving else [(frame or 1) - 1]))
    except Exception as error:
        raise DataError(f"its pixels cannot be decoded ({syntax.name}, {type(error).__name__})") from None
    if len({guess for _, guess in (first, *others)}) > 1:
        raise DataError(clips.FLICKERS)
    notes = [first[1], several(frames) if frame is None and frames > 1 and not moving else ""]
    return Picture(
        rgb=first[0],
        tags=tags,
        regions=regions,
        kind=kind,
        notes=tuple(filter(None, notes)),
        moving=np.stack([rgb for rgb, _ in (first, *others)]) if others else None,
        frame_rate=_rate(dataset),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a file tells before its pixels.

    Attributes:
        tags: as of a :class:`Picture`.
        regions: how many of them there are.
        size: width and height in pixels.
    """

    tags: Mapping[str, str]
    regions: int
    size: tuple[int, int]


def head(path: Path) -> Head:
    """Read the tags of a file; its pixels are left on the disk.

    Raises:
        DataError: if it is no whole file; the message holds nothing of its values.
    """
    quiet()
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        size = int(dataset.get("Columns", 0)), int(dataset.get("Rows", 0))
        return Head(tags=_tags(dataset), regions=len(_regions(dataset)), size=size)
    except Exception as error:  # as above
        raise DataError(f"expected a whole DICOM file ({type(error).__name__})") from None


def _tags(dataset: FileDataset) -> dict[str, str]:
    """All public elements of the top level that are short texts or numbers."""
    tags: dict[str, str] = {}
    for element in dataset:
        if (
            element.tag.is_private
            or not element.keyword
            or element.VR in ("SQ", "OB", "OW", "UN", "OD", "OF")
        ):
            continue
        value = element.value
        texts = value if isinstance(value, MultiValue | list) else [value]
        tags[element.keyword] = "\\".join(str(text) for text in texts if text is not None).strip()
    return tags


def _regions(dataset: Dataset) -> tuple[Region, ...]:
    return tuple(
        Region(
            left=item.RegionLocationMinX0,
            top=item.RegionLocationMinY0,
            right=item.RegionLocationMaxX1,
            bottom=item.RegionLocationMaxY1,
            flow=item.RegionDataType == COLOUR_FLOW,
            mm_per_px=_spacing(item),
        )
        for item in dataset.get("SequenceOfUltrasoundRegions") or ()
        if item.RegionSpatialFormat == TWO_DIMENSIONAL and item.RegionDataType in (TISSUE, COLOUR_FLOW)
    )


def _spacing(item: Dataset) -> float | None:
    """Millimetres per pixel of a region, PS3.3 C.8.5.5.1.15 to 17; a scan is never finer than a micrometre."""
    units = item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection")
    across, down = (abs(float(item.get(name) or 0)) * 10 for name in ("PhysicalDeltaX", "PhysicalDeltaY"))
    if units != (CENTIMETRES, CENTIMETRES) or not 1e-3 < across < 10 or abs(across - down) > 0.01 * across:
        return None
    return round(across, 6)


def _is_film(syntax: UID) -> bool:
    return "MPEG" in syntax.name or "HEVC" in syntax.name


def _stream(dataset: FileDataset) -> bytes:
    """The film in its fragments, PS3.5 8.2.5 to 8.2.8: all of it stands where one frame of others does."""
    try:
        return next(generate_frames(dataset.PixelData, number_of_frames=1))
    except Exception as error:  # as above
        raise DataError(f"expected a whole film in its fragments ({type(error).__name__})") from None


def _rate(dataset: FileDataset) -> float | None:
    """Frames per second, PS3.3 C.7.6.5: from the time of a frame in ms, or as the clip is to be shown."""
    try:
        time_ms = float(dataset.get("FrameTime") or 0)
        shown = float(dataset.get("CineRate") or dataset.get("RecommendedDisplayFrameRate") or 0)
    except (TypeError, ValueError):
        return None
    return 1000 / time_ms if time_ms > 0 else (shown if shown > 0 else None)


def _check(dataset: FileDataset, *, frame: int, moving: bool) -> int:
    """Refuse what is no ultrasound picture, before a pixel is decoded; the number of its pictures."""
    if "PixelData" not in dataset:
        raise DataError("holds no picture (a report or a directory)")
    if str(dataset.get("Modality", "")) not in MODALITIES:
        raise DataError("is of another modality than ultrasound")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise DataError("names no transfer syntax")
    syntax = dataset.file_meta.TransferSyntaxUID
    if _is_film(syntax) and not moving:
        raise DataError(f"is a film ({syntax.name}): export a still of it, or ask for clips in pair.images")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if moving and frames > clips.MOST_FRAMES:
        raise DataError(f"expected at most {clips.MOST_FRAMES} frames, got {frames}")
    if frame > max(frames, 1):
        raise DataError(f"expected at least {frame} pictures in the clip, got {frames}")
    if not 0 < int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0)) <= LARGEST_PX:
        raise DataError(f"expected 1 to {LARGEST_PX} pixels")
    return frames


def _rgb(dataset: FileDataset, *, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """The pixels, and a note where their depth is a guess."""
    values = pixel_array(dataset, index=index)
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        return _through_palette(values, dataset), ""
    if values.ndim == 3:  # pixel_array has made RGB of all YBR kinds
        bits, note = _depth(values, dataset)
        return eight_bit(values, bits=bits), note
    grey, note = _grey(values, dataset)
    if photometric == "MONOCHROME1":
        grey = np.uint8(255) - grey
    return np.repeat(grey[..., None], 3, axis=2), note


def _through_palette(values: NDArray[np.generic], dataset: FileDataset) -> UInt8[np.ndarray, "h w 3"]:
    """The colours of indices, of tables written out or in segments (PS3.3 C.7.9.2).

    The whole table tells its depth: some machines write 8-bit values into 16-bit entries.
    """
    entries, first = (int(n) for n in dataset.RedPaletteColorLookupTableDescriptor[:2])
    whole = apply_color_lut(np.arange(entries or 2**16, dtype=np.int64) + first, dataset)
    colours = apply_color_lut(values, dataset)
    return eight_bit(colours[..., :3], bits=8 if whole.max() <= 255 else 16)


def _depth(values: NDArray[np.generic], dataset: FileDataset) -> tuple[int, str]:
    """Bits that are used: those stored, but where all 16 are said to be, as few as the largest value needs."""
    bits = int(dataset.BitsStored)
    return depth(int(values.max())) if bits == DEPTHS[-1] else (bits, "")


def _grey(values: NDArray[np.generic], dataset: FileDataset) -> tuple[UInt8[np.ndarray, "h w"], str]:
    """As a viewer shows it: slope, then the first window, then 8 bits; a note where the depth is a guess."""
    if "RescaleSlope" not in dataset and "WindowCenter" not in dataset and "VOILUTSequence" not in dataset:
        bits = int(dataset.BitsStored)
        if int(values.min()) < 0 or (int(dataset.get("PixelRepresentation", 0)) and bits < DEPTHS[-1]):
            return eight_bit(values.astype(np.int64) + 2 ** (bits - 1), bits=bits), ""
        bits, note = _depth(values, dataset)
        return eight_bit(values, bits=bits), note
    shown = np.asarray(apply_voi_lut(apply_modality_lut(values, dataset), dataset), dtype=np.float64)
    lowest, highest = float(shown.min()), float(shown.max())
    if "WindowCenter" in dataset or "VOILUTSequence" in dataset:
        lowest, highest = 0.0, max(highest, 2.0 ** int(dataset.BitsStored) - 1)
    return np.round((shown - lowest) / max(highest - lowest, 1.0) * 255).clip(0, 255).astype(np.uint8), ""
