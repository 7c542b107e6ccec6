"""Reads any file of a hospital's export: DICOM, PNG, JPEG, TIFF; decided by what is in it, not by its name.

Where moving pictures are kept, films and folders of frames too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.data.pictures import clips, decoder, dicom
from common.errors import DataError

ENDINGS = frozenset((
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".dcm", ".dicom", ".ima", ".gif", ".bmp", ".dib",
    ".webp", ".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".psd", ".pgm", ".ppm", ".pnm", ".mp4",
    ".mov", ".avi", ".mpg", ".mpeg", ".mkv", ".wmv",
))  # fmt: skip
"""Of files that are meant to be pictures or films, whatever is in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A file that is not read.

    Attributes:
        name: its path in the export.
        reason: why; nothing of its name.
        picture: whether it is, or by its name is meant to be, a picture.
    """

    name: str
    reason: str
    picture: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The files of a hospital's export: paths of the pictures, relative and sorted, and all other files."""

    pictures: tuple[str, ...]
    aside: tuple[Aside, ...]


def find(source: Path, *, films: bool = False, clip_folders: str = "") -> Export:
    """Every file under a folder. Links are not followed out of the folder.

    Args:
        source: the folder.
        films: whether films are pictures.
        clip_folders: a regular expression: a folder in whose path it is found is one picture, its files are the
            frames; empty: there are none.

    Raises:
        DataError: if there is no such folder.
    """
    if not source.is_dir():
        raise DataError(f"Expected a folder of pictures at {source}, got none")
    root = source.resolve()
    pictures: list[str] = []
    aside: list[Aside] = []
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        name, reason = path.relative_to(source).as_posix(), _aside(path, root, films=films)
        folder = path.parent.relative_to(source).as_posix()
        if reason is None:
            pictures.append(
                folder if clip_folders and re.search(clip_folders, folder, re.IGNORECASE) else name
            )
        else:
            meant = path.suffix.casefold() in ENDINGS or kind(path) not in (None, "DICOM", "PDF")
            aside.append(Aside(name=name, reason=reason, picture=meant and not path.name.startswith(".")))
    return Export(pictures=tuple(dict.fromkeys(pictures)), aside=tuple(aside))


def _aside(path: Path, root: Path, *, films: bool) -> str | None:
    """Why a file is not read, ``None`` if it is."""
    if not path.resolve().is_relative_to(root):
        return "is a link that leads out of the export"
    if not path.is_file():
        return "is no regular file"
    if path.name.startswith("."):
        return "is hidden"
    if path.name == "DICOMDIR":
        return "is a directory of DICOM files"
    try:
        head = _head(path)
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    readable = dicom.is_dicom(head) or (films and decoder.kind_of(head) == clips.FILM)
    return None if readable else decoder.unusable(head)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(decoder.HEAD_BYTES)


def kind(path: Path) -> str | None:
    """What a file is by its first bytes, ``None`` for what is not known or cannot be opened."""
    try:
        head = _head(path)
    except OSError:
        return None
    return "DICOM" if dicom.is_dicom(head) else decoder.kind_of(head)


def read(path: Path, *, frame: int | None, moving: bool = False) -> dicom.Picture:
    """Read one file, or a folder of frames.

    Args:
        path: of the file.
        frame: which picture of several, from 1; ``None``: the first, and a note if there are others.
        moving: whether all pictures of several are wanted.

    Raises:
        DataError: if it cannot be used; the message holds nothing of its name or values.
    """
    if path.is_dir():
        return _clip(clips.read(path, mode="RGB", wanted=None), "folder of frames")
    try:
        if path.stat().st_size > dicom.LARGEST_BYTES:
            raise DataError(f"expected at most {dicom.LARGEST_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None
    if dicom.is_dicom(content[: decoder.HEAD_BYTES]):
        return dicom.read(content, frame=frame, moving=moving)
    if moving and (kind(path) == clips.FILM or decoder.pages(content) > 1):
        return _clip(clips.of_content(content, mode="RGB", wanted=None), kind(path) or "")
    decoded = decoder.decode(content, mode="RGB", frame=frame)
    kept = kind(path) or ""
    return dicom.Picture(rgb=np.asarray(decoded.image), tags={}, regions=(), kind=kept, notes=decoded.notes)


def _clip(clip: clips.Clip, kept: str) -> dicom.Picture:
    frames = np.stack([np.asarray(image) for image in clip.images])
    return dicom.Picture(
        rgb=frames[0],
        tags={},
        regions=(),
        kind=kept,
        notes=clip.notes,
        moving=frames,
        frame_rate=clip.frame_rate,
    )
