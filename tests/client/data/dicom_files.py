"""A factory of DICOM files as ultrasound machines write them, full of what may not get out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

NAME, BIRTH, ACCESSION, INSTITUTION = "Mustermann^Erika", "19570312", "ACC-7741902", "Klinikum Sonnenhang"
PRIVATE = "PRIVATE-OF-ERIKA-MUSTERMANN"
Bytes = NDArray[np.uint8]
TISSUE, FLOW = 1, 2


def speckle(seed: int, *, width: int = 200, height: int = 160) -> Bytes:
    """A grey picture of soft noise ``(height, width, 3)``, as wide across the beam as real speckle."""
    rng = np.random.default_rng(seed)
    small = rng.integers(10, 120, (height // 4, width // 10), dtype=np.uint8)
    grey = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


def with_flow(rgb: Bytes, box: tuple[int, int, int, int] = (60, 60, 90, 80)) -> Bytes:
    """A copy with a red patch: left, top, right, bottom."""
    out = rgb.copy()
    out[box[1] : box[3], box[0] : box[2]] = (220, 40, 10)
    return out


def with_text(rgb: Bytes, text: str, at: tuple[int, int], *, size: int = 12) -> Bytes:
    """A copy with text burned in."""
    from PIL import ImageFont

    image = Image.fromarray(rgb)
    ImageDraw.Draw(image).text(at, text, fill=(255, 255, 255), font=ImageFont.load_default(size=size))
    return np.asarray(image)


def on_screen(scan: Bytes, *, left: int = 40, top: int = 30, right: int = 20, bottom: int = 10) -> Bytes:
    """A scan on a black screen with the patient's name and id in its margin."""
    screen = np.pad(scan, ((top, bottom), (left, right), (0, 0)))
    return with_text(screen, "MUSTERMANN, Erika", (4, 6))


def write_dicom(
    path: Path,
    rgb: Bytes,
    *,
    patient_id: str = "0004711-X",
    photometric: str = "RGB",
    syntax: UID = ExplicitVRLittleEndian,
    regions: Sequence[tuple[int, int, int, int, int]] = (),
    frames: int = 1,
    tags: Mapping[str, object] | None = None,
) -> FileDataset:
    """Write one file.

    Args:
        path: of the file.
        rgb: pixels ``(h, w, 3)``; of a clip the first frame, the others are brighter by 40 each.
        patient_id: as the machine has it.
        photometric: RGB, YBR_FULL, YBR_FULL_422, PALETTE COLOR, MONOCHROME1 or MONOCHROME2.
        syntax: how pixels are encoded.
        regions: x0, y0, x1, y1 and the data type of each region.
        frames: of a clip.
        tags: further elements, or others in place of the usual.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.6.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    usual: dict[str, object] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "US",
        "PatientName": NAME,
        "PatientID": patient_id,
        "PatientBirthDate": BIRTH,
        "AccessionNumber": ACCESSION,
        "InstitutionName": INSTITUTION,
        "ReferringPhysicianName": "Weber^Hans",
        "StationName": "US-ROOM-12",
        "StudyDate": "20240301",
        "AcquisitionTime": "101500",
        "Manufacturer": "Esaote",
        "ManufacturerModelName": "MyLab Twice",
        "Laterality": "L",
    }
    for keyword, value in (usual | dict(tags or {})).items():
        setattr(data, keyword, value)
    data.private_block(0x0099, "ACME", create=True).add_new(0x01, "LO", PRIVATE)
    data.SequenceOfUltrasoundRegions = Items([_region(*region) for region in regions])
    _pixels(data, rgb, photometric, syntax, frames)
    data.save_as(path, enforce_file_format=True)
    return data


def _region(x0: int, y0: int, x1: int, y1: int, kind: int) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, kind, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = 0.008
    return item


def _pixels(data: FileDataset, rgb: Bytes, photometric: str, syntax: UID, frames: int) -> None:
    data.Rows, data.Columns = rgb.shape[:2]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PhotometricInterpretation = photometric
    grey = photometric.startswith("MONO") or photometric == "PALETTE COLOR"
    data.SamplesPerPixel = 1 if grey else 3
    if not grey:
        data.PlanarConfiguration = 0
    if photometric == "PALETTE COLOR":
        _palette(data)
    shown = [np.clip(rgb.astype(np.int16) + 40 * i, 0, 255).astype(np.uint8) for i in range(frames)]
    if frames > 1:
        data.NumberOfFrames = frames
    if syntax in (JPEGBaseline8Bit, JPEG2000, JPEG2000Lossless):
        data.PixelData = encapsulate([_compressed(frame, photometric, syntax) for frame in shown])
        data["PixelData"].is_undefined_length = True
        return
    planes = [_plane(frame, photometric) for frame in shown]
    if syntax == RLELossless:
        data.compress(RLELossless, np.stack(planes) if frames > 1 else planes[0], generate_instance_uid=False)
    else:
        raw = b"".join(_raw(plane, photometric) for plane in planes)
        data.PixelData = raw + b"\0" * (len(raw) % 2)


def _plane(rgb: Bytes, photometric: str) -> Bytes:
    """Stored values of one frame."""
    grey = rgb[..., 0]
    match photometric:
        case "MONOCHROME1":
            return np.asarray(255 - grey)
        case "MONOCHROME2":
            return grey
        case "PALETTE COLOR":  # upper half of the table is red
            red = (rgb[..., 0] > rgb[..., 1]).astype(np.uint8)
            return np.asarray((grey >> 1) | (red << 7))
        case "YBR_FULL" | "YBR_FULL_422":
            return np.asarray(convert_color_space(rgb, "RGB", "YBR_FULL"))
    return rgb


def _raw(plane: Bytes, photometric: str) -> bytes:
    if photometric != "YBR_FULL_422":
        return plane.tobytes()
    first, second = plane[:, 0::2], plane[:, 1::2]
    return np.stack([first[..., 0], second[..., 0], first[..., 1], first[..., 2]], axis=-1).tobytes()


def _palette(data: FileDataset) -> None:
    levels = np.arange(128, dtype=np.uint16) * 2 * 257
    nothing = np.zeros(128, np.uint16)
    for colour, upper in (("Red", levels), ("Green", nothing), ("Blue", nothing)):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", np.concatenate([levels, upper]).tobytes())


def _compressed(rgb: Bytes, photometric: str, syntax: UID) -> bytes:
    image = Image.fromarray(rgb if not photometric.startswith("MONO") else _plane(rgb, photometric))
    file = io.BytesIO()
    if syntax == JPEGBaseline8Bit:
        image.save(file, "JPEG", quality=92, subsampling=2 if photometric == "YBR_FULL_422" else 0)
    else:
        image.save(file, "JPEG2000", irreversible=syntax == JPEG2000, no_jp2=True)
    return file.getvalue()
