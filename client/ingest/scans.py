"""Reads any file of a hospital's export: DICOM, PNG, JPEG, TIFF; decided by what is in it, not by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.ingest import dicom
from client.ingest.pictures import decode
from common.errors import DataError

STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
HEAD_BYTES = dicom.PREAMBLE_BYTES + len(dicom.MAGIC)


def find(source: Path) -> tuple[tuple[str, ...], int]:
    """Paths of the pictures under a folder, relative and sorted, and how many other files there are.

    Links are not followed out of the folder; hidden files count as others.

    Raises:
        DataError: if there is no such folder, or no picture in it.
    """
    if not source.is_dir():
        raise DataError(f"Expected a folder of pictures at {source}, got none")
    root = source.resolve()
    pictures: list[str] = []
    others = 0
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        if not path.resolve().is_relative_to(root) or path.name.startswith(".") or kind(path) is None:
            others += 1
        else:
            pictures.append(path.relative_to(source).as_posix())
    if not pictures:
        raise DataError(
            f"Expected DICOM, PNG, JPEG or TIFF files under {source}, got {others} of other kinds"
        )
    return tuple(pictures), others


def kind(path: Path) -> str | None:
    """DICOM, PNG, JPEG, TIFF, or ``None`` for what is no picture or cannot be opened."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    if dicom.is_dicom(head):
        return "DICOM" if path.name != "DICOMDIR" else None
    return next((name for start, name in STARTS.items() if head.startswith(start)), None)


def read(path: Path, *, frame: int) -> dicom.Picture:
    """Read one file.

    Args:
        path: of the file.
        frame: which picture of a clip, from 1.

    Raises:
        DataError: if it cannot be used; the message holds nothing of its name or values.
    """
    try:
        if path.stat().st_size > dicom.LARGEST_BYTES:
            raise DataError(f"expected at most {dicom.LARGEST_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None
    if dicom.is_dicom(content[:HEAD_BYTES]):
        return dicom.read(content, frame=frame)
    rgb = np.asarray(decode(content, mode="RGB"))
    return dicom.Picture(rgb=rgb, tags={}, regions=(), kind=kind(path) or "")
