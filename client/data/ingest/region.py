"""What is kept of a screen: the region of the DICOM tag, a device's known boxes, or all of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from client.data.ingest.mapping import BoxPx, DeviceSection
from client.data.pictures.dicom import Picture, Region
from common.errors import DataError
from common.exam import SMALLEST_PX, Roi

OVERHANG_PX = 1
"""Some machines give the corner just outside as the last one inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A part of the screen that holds one scan.

    Attributes:
        box: in pixels of the whole picture.
        image: ``gs``, ``doppler``, or empty where that is not known from here.
        colour_box: where colour flow was looked for, in pixels of the whole picture.
        mask: boxes that are always painted over, in pixels of the whole picture.
        by: ``region tag``, ``profile NAME`` or ``whole``.
    """

    box: Roi
    image: str = ""
    colour_box: Roi | None = None
    mask: tuple[Roi, ...] = ()
    by: str


def panels(picture: Picture, name: str, devices: Sequence[DeviceSection]) -> tuple[Panel, ...]:
    """The scans on a screen, from left to right: a device's profile goes before the tag, the tag before all of it.

    Args:
        picture: the screen.
        name: path of its file.
        devices: profiles; the first that fits is taken.

    Raises:
        DataError: if a region or box does not lie inside the picture.
    """
    height, width = picture.rgb.shape[:2]
    profile = next((each for each in devices if fits(each, picture, name)), None)
    if profile is not None:
        found = [
            Panel(
                box=_roi(panel.box),
                image=panel.image or "",
                mask=tuple(map(_roi, profile.mask)),
                by=f"profile {profile.name}",
            )
            for panel in profile.panels
        ]
    elif picture.regions:
        found = [_panel(group, width, height) for group in _overlapping(picture.regions)]
    else:
        found = [Panel(box=Roi(x=0, y=0, width=width, height=height), by="whole")]
    for panel in found:
        if not inside(panel.box, width, height):
            raise DataError(f"expected the {panel.by} inside {width} x {height} pixels")
        if min(panel.box.width, panel.box.height) < SMALLEST_PX:
            raise DataError(f"expected the {panel.by} to be at least {SMALLEST_PX} pixels wide and high")
    return tuple(sorted(found, key=lambda panel: (panel.box.x, panel.box.y)))


def spacing_mm(regions: Sequence[Region], box: Roi) -> float | None:
    """Millimetres per pixel of a part of a screen, where the regions that lie in it agree."""
    within = [
        region
        for region in regions
        if region.left < box.x + box.width
        and box.x < region.right
        and region.top < box.y + box.height
        and box.y < region.bottom
    ]
    found = {region.mm_per_px for region in within}
    return found.pop() if len(found) == 1 else None


def fits(device: DeviceSection, picture: Picture, name: str) -> bool:
    """Whether a profile is of the machine that made a picture."""
    height, width = picture.rgb.shape[:2]
    wanted = (
        (device.manufacturer, picture.tags.get("Manufacturer", "")),
        (device.model, picture.tags.get("ManufacturerModelName", "")),
        (device.file, name),
    )
    return device.size in (None, (width, height)) and all(
        re.search(pattern, text, re.IGNORECASE) for pattern, text in wanted if pattern
    )


def inside(box: Roi, width: int, height: int) -> bool:
    """Whether a box lies inside a picture."""
    return box.x + box.width <= width and box.y + box.height <= height


def within(inner: Roi, outer: Roi) -> Roi:
    """A box in pixels of another that holds it.

    Raises:
        DataError: if it reaches out of it.
    """
    x, y = inner.x - outer.x, inner.y - outer.y
    if (
        x < 0
        or y < 0
        or not inside(Roi(x=x, y=y, width=inner.width, height=inner.height), outer.width, outer.height)
    ):
        raise DataError("expected the ROI inside the kept part of the screen")
    return Roi(x=x, y=y, width=inner.width, height=inner.height)


def common_part(one: Roi, other: Roi) -> Roi | None:
    """What two boxes share, ``None`` if nothing."""
    x, y = max(one.x, other.x), max(one.y, other.y)
    width = min(one.x + one.width, other.x + other.width) - x
    height = min(one.y + one.height, other.y + other.height) - y
    return Roi(x=x, y=y, width=width, height=height) if min(width, height) > 0 else None


def _overlapping(regions: Sequence[Region]) -> list[list[Region]]:
    """Regions grouped so that those that overlap are together: a colour box lies on its tissue."""
    groups: list[list[Region]] = []
    for region in regions:
        touching = [group for group in groups if any(_overlap(region, other) for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([*(other for group in touching for other in group), region])
    return groups


def _overlap(one: Region, other: Region) -> bool:
    return (
        one.left < other.right
        and other.left < one.right
        and one.top < other.bottom
        and other.top < one.bottom
    )


def _panel(group: Sequence[Region], width: int, height: int) -> Panel:
    """The tissue (of colour flow alone: that) of regions that lie on one another."""
    tissue = [region for region in group if not region.flow] or list(group)
    flow = [region for region in group if region.flow]
    box = _around(tissue, width, height)
    colour_box = common_part(_around(flow, width, height), box) if flow else None
    return Panel(box=box, image="doppler" if flow else "", colour_box=colour_box, by="region tag")


def _around(regions: Sequence[Region], width: int, height: int) -> Roi:
    """The box around regions, whose corners are pixels that belong to them."""
    left, top = min(region.left for region in regions), min(region.top for region in regions)
    right, bottom = max(region.right for region in regions), max(region.bottom for region in regions)
    if left < 0 or top < 0 or right >= width + OVERHANG_PX or bottom >= height + OVERHANG_PX:
        raise DataError(f"expected the region tag inside {width} x {height} pixels")
    right, bottom = min(right, width - 1), min(bottom, height - 1)
    if right <= left or bottom <= top:
        raise DataError("expected the region tag to have a width and a height")
    return Roi(x=left, y=top, width=right - left + 1, height=bottom - top + 1)


def _roi(box: BoxPx) -> Roi:
    return Roi(x=box[0], y=box[1], width=box[2], height=box[3])
