"""One file of an export to the scans on it: cut out, text masked, identity gone.

Of a clip every frame is cut alike, and text that is found in any frame is painted over in all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from client.data.ingest import scans
from client.data.ingest.facts import gather
from client.data.ingest.mapping import CLIP, Fact
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.region import Panel, common_part, panels, spacing_mm, within
from client.data.pictures import burned_in
from client.data.pictures.burned_in import Box
from client.data.pictures.dicom import IDENTIFYING, Picture
from client.data.tables.file_rows import FileRows, Row
from common.errors import DataError
from common.exam import Roi
from common.imaging.doppler import brightness, flow_mask

FLOW_SATURATION = 0.40
FLOW_PX = 20
"""Saturated pixels from which a picture counts as coloured: fewer are noise of JPEG."""
DIMMEST_FLOW = 60
SHORTEST_IDENTIFIER = 4
LARGEST_PAINTED = 0.15
"""Share of a scan above which found text is not believed: of real screens with all their menus it is 0.04."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One kept part of one file.

    Attributes:
        source: number of the file, from 1.
        panel: number on its screen, from 1.
        facts: what is known of it.
        box: what was kept, in pixels of the file.
        by: what said so.
        kind: how the file was encoded.
        roi: in pixels of the kept part, ``None``: all of it.
        colour_box: in pixels of the kept part, if the file tells of one.
        size: width and height of the kept part.
        mm_per_px: of the kept part, ``None`` where the file does not say.
        masked: painted over, in pixels of the kept part.
        painted: share of the kept part in which text was painted over, 0 to 1.
        notes: what was guessed when the file was decoded.
        uid: SOPInstanceUID of the file, empty if it has none.
        digest: SHA-256 of the kept pixels.
        frames: of a clip; 1: a still.
        frame_rate: of a clip, frames per second, where the file says so.
    """

    source: int
    panel: int
    facts: Mapping[Fact, str]
    box: Roi
    by: str
    kind: str
    roi: Roi | None
    colour_box: Roi | None
    size: tuple[int, int]
    mm_per_px: float | None
    masked: tuple[Roi, ...]
    painted: float
    notes: tuple[str, ...]
    uid: str
    digest: str
    frames: int = 1
    frame_rate: float | None = None

    @property
    def suffix(self) -> str:
        """Of the file that is written."""
        return ".png" if self.frames == 1 else ".tif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A file, or a part of its screen (0: all of it), that is left out; the reason holds no value of it."""

    source: int
    panel: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What all files are prepared with.

    Attributes:
        folder: of the export.
        meaning: the mapping.
        list_rows: the hospital's list of files, if there is one.
        roi_rows: the table of ROIs, if there is one.
        target: folder that the scans are written to, as ``<source>-<panel>.png``, clips as ``.tif``.
    """

    folder: Path
    meaning: Meaning
    list_rows: FileRows | None
    roi_rows: FileRows | None
    target: Path

    def scan_path(self, scan: Scan) -> Path:
        """Where a scan is written."""
        return self.target / f"{scan.source:06d}-{scan.panel}{scan.suffix}"


def prepare(prep: Preparation, source: int, name: str) -> list[Scan | Refused]:
    """Read a file, and write the scans on it.

    Args:
        prep: settings and tables.
        source: number of the file.
        name: its path in the export.
    """
    try:
        picture = scans.read(prep.folder / name, frame=prep.meaning.frame, moving=prep.meaning.keeps_clips)
        facts = gather(prep.meaning, name=name, tags=picture.tags, row=_list_row(prep, name))
        _check_facts(facts, picture)
        found = panels(picture, name, prep.meaning.devices)
    except DataError as error:
        return [Refused(source=source, panel=0, reason=str(error))]
    results: list[Scan | Refused] = []
    for number, panel in enumerate(found, start=1):
        try:
            scan, pixels = _scan(prep, picture, panel, facts, name=name, source=source, number=number)
        except DataError as error:
            results.append(Refused(source=source, panel=number, reason=str(error)))
            continue
        _save(pixels, prep.scan_path(scan))
        results.append(scan)
    return results


def colour(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Which pixels are coloured, as flow or a colour bar is."""
    return (flow_mask(rgb, saturation=FLOW_SATURATION) > 0) & (brightness(rgb) >= DIMMEST_FLOW)


def is_coloured(coloured: Bool[np.ndarray, "h w"]) -> bool:
    """Whether a picture shows colour, of which these pixels are."""
    return bool(np.count_nonzero(coloured) >= FLOW_PX)


def _scan(
    prep: Preparation,
    picture: Picture,
    panel: Panel,
    facts: Mapping[Fact, str],
    *,
    name: str,
    source: int,
    number: int,
) -> tuple[Scan, UInt8[np.ndarray, "frames h w 3"]]:
    whole = picture.rgb[None] if picture.moving is None else picture.moving
    box = panel.box
    always = [_moved(part, box) for area in panel.mask if (part := common_part(area, box)) is not None]
    kept = whole[:, box.y : box.y + box.height, box.x : box.x + box.width]
    pixels = _masked(kept, [_box(a) for a in always])
    looked_at = () if prep.meaning.burned_in.action == "keep" else pixels
    text = burned_in.merged([found for frame in looked_at for found in burned_in.find(frame)])
    if text and prep.meaning.burned_in.action == "refuse":
        raise DataError(f"text is burned in at {len(text)} places")
    painted = burned_in.share(pixels.shape[1:], text)
    if painted > LARGEST_PAINTED:
        raise DataError(
            f"text would be painted over in more than {LARGEST_PAINTED:.0%} of it, which is no text or no scan: "
            f"cut the scan out under [[devices]], or look at it and set burned_in.action"
        )
    pixels = _masked(pixels, text)
    flows = any(is_coloured(colour(frame)) for frame in pixels)
    image = facts["image"] or panel.image or ("doppler" if flows else "gs")
    if panel.image and facts["image"] and panel.image != facts["image"] and "tag" not in panel.by:
        image = panel.image  # a profile speaks of each part of a screen, a file's name of all of it
    if picture.moving is not None:
        image += CLIP
    scan = Scan(
        source=source,
        panel=number,
        facts={**facts, "image": image, "device": facts["device"] or "unknown"},
        box=box,
        by=panel.by,
        kind=picture.kind,
        roi=_roi(prep, name, box),
        colour_box=within(panel.colour_box, box) if panel.colour_box is not None else None,
        size=(box.width, box.height),
        mm_per_px=spacing_mm(picture.regions, box),
        masked=(*always, *(_as_roi(area) for area in text)),
        painted=painted,
        notes=picture.notes,
        uid=picture.tags.get("SOPInstanceUID", ""),
        digest=hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        frames=len(pixels),
        frame_rate=picture.frame_rate,
    )
    return scan, pixels


def _masked(
    frames: UInt8[np.ndarray, "frames h w 3"], boxes: Sequence[Box]
) -> UInt8[np.ndarray, "frames h w 3"]:
    return np.stack([burned_in.mask(frame, boxes) for frame in frames])


def with_roi(scans_: Mapping[str, Scan], rule: str) -> dict[str, Scan]:
    """The scans of an exam, given the colour box as ROI where that is the rule.

    The grey-scale picture has it from its Doppler picture, if both are equally large.
    """
    if rule != "colour_box":
        return dict(scans_)
    given = next((s.colour_box for s in scans_.values() if s.colour_box is not None), None)
    size = next((s.size for s in scans_.values() if s.colour_box is not None), None)
    return {
        image: replace(scan, roi=scan.colour_box or (given if scan.size == size else None))
        for image, scan in scans_.items()
    }


def _list_row(prep: Preparation, name: str) -> Row:
    rows = prep.list_rows.of(name) if prep.list_rows is not None else []
    if len(rows) > 1:
        raise DataError(f"stands in the table in {len(rows)} rows, expected one")
    return rows[0][1] if rows else {}


def _roi(prep: Preparation, name: str, box: Roi) -> Roi | None:
    """The ROI that the table has for this part of the screen."""
    if prep.roi_rows is None:
        return None
    found: list[Roi] = []
    problem = "the ROI table has no row for it"
    for _, row in prep.roi_rows.of(name):
        try:
            found.append(within(_parsed(row), box))
        except DataError as error:
            problem = str(error)
    if len(found) != 1:
        raise DataError(problem if not found else f"the ROI table has {len(found)} rows for it")
    return found[0]


def _parsed(row: Row) -> Roi:
    try:
        cells = [str(round(float(row[c].replace(",", ".")))) for c in ("x", "y", "width", "height")]
    except (ValueError, OverflowError):
        raise DataError("the ROI table: expected x, y, width, height in pixels") from None
    try:
        return Roi.parse(" ".join(cells))
    except ValueError as error:
        raise DataError(f"the ROI table: {error}") from None


def _check_facts(facts: Mapping[Fact, str], picture: Picture) -> None:
    if not facts["patient_id"]:
        raise DataError("patient_id: no source has one")
    device = facts["device"].casefold()
    known = {"patient_id": facts["patient_id"], **{word: picture.tags.get(word, "") for word in IDENTIFYING}}
    for name, text in known.items():
        for part in text.casefold().replace("^", "\\").split("\\"):
            if len(part.strip()) >= SHORTEST_IDENTIFIER and part.strip() in device:
                raise DataError(f"device: it holds the {name}; say under [values.device] what it is")


def _save(frames: UInt8[np.ndarray, "frames h w 3"], path: Path) -> None:
    """Without loss; as grey where all frames are."""
    grey = bool((frames == frames[..., :1]).all())
    first, *others = (Image.fromarray(np.ascontiguousarray(f[..., 0] if grey else f)) for f in frames)
    if others:
        first.save(path, format="TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    else:
        first.save(path, compress_level=6)


def _moved(area: Roi, box: Roi) -> Roi:
    return replace(area, x=area.x - box.x, y=area.y - box.y)


def _box(area: Roi) -> Box:
    return Box(top=area.y, left=area.x, bottom=area.y + area.height, right=area.x + area.width)


def _as_roi(box: Box) -> Roi:
    return Roi(x=box.left, y=box.top, width=box.width, height=box.height)


def refused_parts(results: Sequence[Scan | Refused]) -> list[Refused]:
    """Those that are left out."""
    return [each for each in results if isinstance(each, Refused)]
