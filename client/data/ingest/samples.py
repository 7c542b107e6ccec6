"""What files of an export tell without a look at their pixels: names, tags, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from client.data.ingest import scans
from client.data.pictures import decoder, dicom
from common.errors import DataError

MOST = 1000
"""Files that are looked at, spread evenly over an export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A file of an export.

    Attributes:
        name: its path in the export.
        dicom: whether it is DICOM.
        tags: keyword -> text, public elements alone.
        regions: whether tags say where on the screen the scan is.
        size: width and height in pixels, ``None`` where that cannot be read.
    """

    name: str
    dicom: bool
    tags: Mapping[str, str]
    regions: bool
    size: tuple[int, int] | None


def spread(names: Sequence[str]) -> list[str]:
    """At most :data:`MOST` names, evenly over all."""
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST)).round().astype(int))
    return [names[index] for index in chosen.tolist()]


def read(folder: Path, name: str) -> Sample:
    """Read what a file tells; of a damaged one only its name is known."""
    path = folder / name
    if scans.kind(path) == "DICOM":
        try:
            head = dicom.head(path)
        except DataError:
            return Sample(name=name, dicom=True, tags={}, regions=False, size=None)
        return Sample(name=name, dicom=True, tags=head.tags, regions=head.regions > 0, size=head.size)
    try:
        with Image.open(path, formats=decoder.FORMATS) as picture:
            size = picture.size
    except Exception:  # as in the decoder: a damaged file makes it raise nearly anything
        size = None
    return Sample(name=name, dicom=False, tags={}, regions=False, size=size)
