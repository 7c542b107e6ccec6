"""Moving pictures: a folder of frames, a PNG or TIFF of several, or a film, each frame decoded once.

A site's data folder may hold any of the three. What the import writes is a TIFF of all frames: without loss, one
file. Films (MP4, AVI and what else FFmpeg reads) need ``synofed[video]``; a frame of a lossy film has the film's
blocks, which no import can take away.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from client.data.pictures.decoder import HEAD_BYTES, LARGEST_PX, decode, decode_frames, kind_of
from common.errors import DataError

FILM = "film"
MOST_FRAMES = 10_000
"""No clip of a joint has more; a file that says so is an attack on memory."""
NEEDS_VIDEO = (
    "is a film, which needs synofed[video]: pip install 'synofed[video]', or export its frames as TIFF or PNG"
)

FLICKERS = "its frames would be read with different depths, which is a guess: export them in 8 bits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Some frames of a moving picture.

    Attributes:
        images: those that were asked for, in Pillow's ``L`` or ``RGB``, all of one size.
        frames: how many there are.
        frame_rate: frames per second, ``None`` where the file does not say.
        digest: SHA-256 of the file; of a folder, over the digests of its files in their order.
        notes: what the decoder had to guess.
    """

    images: tuple[Image.Image, ...]
    frames: int
    frame_rate: float | None
    digest: str
    notes: tuple[str, ...]


def evenly(frames: int, wanted: int) -> list[int]:
    """Which frames stand for a clip: one in the middle of each of ``wanted`` equal parts; a short clip repeats some.

    Args:
        frames: of the clip, at least 1.
        wanted: at least 1.
    """
    return [(2 * part + 1) * frames // (2 * wanted) for part in range(wanted)]


def files_of(path: Path) -> list[Path]:
    """The files behind a picture: itself, or the frames in a folder, in the order that a person would count."""
    if not path.is_dir():
        return [path]
    return sorted((p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")), key=_counted)


def read(path: Path, *, mode: str, wanted: int | None) -> Clip:
    """Read a moving picture.

    Args:
        path: of a file or a folder of frames.
        mode: Pillow's ``L`` or ``RGB``.
        wanted: how many frames, by :func:`evenly`; ``None``: all.

    Raises:
        DataError: if it is none, or cannot be decoded; nothing of its name or values is in the message.
    """
    contents = [content_of(file) for file in files_of(path)]
    if path.is_dir():
        return _of_folder(contents, mode=mode, wanted=wanted)
    return of_content(contents[0], mode=mode, wanted=wanted)


def frame(path: Path, number: int) -> tuple[Image.Image, int]:
    """One frame in colour, and how many there are; also of a still, which has one.

    Args:
        path: of a file or a folder of frames.
        number: from 1.

    Raises:
        DataError: as :func:`read`, or if there are fewer.
    """
    files = files_of(path)
    if path.is_dir():
        if not 1 <= number <= len(files):
            raise DataError(f"expected at least {number} pictures in the folder, got {len(files)}")
        return decode(content_of(files[number - 1]), mode="RGB").image, len(files)
    content = content_of(path)
    if kind_of(content[:HEAD_BYTES]) == FILM:
        images = _whole_film(path, path.stat().st_mtime_ns)
        if number > len(images):
            raise DataError(f"expected at least {number} pictures in the film, got {len(images)}")
        return images[number - 1], len(images)
    decoded = decode(content, mode="RGB", frame=number)
    return decoded.image, decoded.frames


@lru_cache(maxsize=2)
def _whole_film(path: Path, stamp: int) -> list[Image.Image]:
    """All frames of a film that somebody goes through, decoded once."""
    del stamp  # a changed file is another film
    return film(content_of(path), mode="RGB", wanted=None)[0]


def content_of(file: Path) -> bytes:
    """What a file holds.

    Raises:
        DataError: if it cannot be read; its name is not in the message.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None


def of_content(content: bytes, *, mode: str, wanted: int | None) -> Clip:
    """A moving picture of one file's content; arguments and errors as of :func:`read`."""
    digest = hashlib.sha256(content).hexdigest()
    if kind_of(content[:HEAD_BYTES]) == FILM:
        images, frames, rate = film(content, mode=mode, wanted=wanted)
        return _clip(images, frames, rate, digest, ())
    found: dict[int, int] = {}

    def chosen(pages: int) -> Sequence[int]:
        numbers = _numbers(pages, wanted)
        found.update({number: place for place, number in enumerate(sorted(set(numbers)))})
        return sorted(found)

    decoded = decode_frames(content, mode=mode, chosen=chosen)
    images = [decoded[found[number]].image for number in _numbers(decoded[0].frames, wanted)]
    return _clip(images, decoded[0].frames, None, digest, _agreed([each.notes for each in decoded]))


def film(content: bytes, *, mode: str, wanted: int | None) -> tuple[list[Image.Image], int, float | None]:
    """Frames of a film, how many it has, and its frame rate.

    Args:
        content: of the file, or a bare stream of H.264, H.265 or MPEG-2.
        mode: Pillow's ``L`` or ``RGB``.
        wanted: as of :func:`read`.

    Raises:
        DataError: if it cannot be decoded here.
    """
    av = _pyav()
    try:
        with av.open(io.BytesIO(content)) as opened:
            if not opened.streams.video:
                raise DataError("is a film without pictures")
            stream = opened.streams.video[0]
            if stream.width * stream.height > LARGEST_PX:
                raise DataError(f"expected at most {LARGEST_PX // 1_000_000} million pixels a frame")
            rate = float(stream.average_rate) if stream.average_rate else None
            count = sum(1 for packet in opened.demux(stream) if packet.size)
        numbers = _numbers(count, wanted)
        kept: dict[int, Image.Image] = {}
        with av.open(io.BytesIO(content)) as opened:
            for number, frame in enumerate(opened.decode(video=0)):
                if number in numbers:
                    kept[number] = frame.to_image().convert(mode)
    except DataError:
        raise
    except Exception as error:  # FFmpeg's errors are many, and say paths
        raise DataError(f"expected a whole film, it is cut off or damaged ({type(error).__name__})") from None
    if not set(numbers) <= set(kept):
        raise DataError(
            f"expected {count} frames in the film, {len(kept)} of {len(set(numbers))} can be decoded"
        )
    return [kept[number] for number in numbers], count, rate


def _pyav() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError:
        raise DataError(NEEDS_VIDEO) from None


def _of_folder(contents: Sequence[bytes], *, mode: str, wanted: int | None) -> Clip:
    digests = [hashlib.sha256(content).digest() for content in contents]
    numbers = _numbers(len(contents), wanted)
    decoded = {number: decode(contents[number], mode=mode) for number in sorted(set(numbers))}
    if any(each.frames > 1 for each in decoded.values()):
        raise DataError("expected one picture in each file of a folder of frames")
    return _clip(
        [decoded[number].image for number in numbers],
        len(contents),
        None,
        hashlib.sha256(b"".join(digests)).hexdigest(),
        _agreed([each.notes for each in decoded.values()]),
    )


def _numbers(frames: int, wanted: int | None) -> list[int]:
    if frames < 2:
        raise DataError(f"expected a moving picture, got {frames} frame{'' if frames == 1 else 's'}")
    if frames > MOST_FRAMES:
        raise DataError(f"expected at most {MOST_FRAMES} frames, got {frames}")
    return list(range(frames)) if wanted is None else evenly(frames, wanted)


def _clip(
    images: Sequence[Image.Image], frames: int, rate: float | None, digest: str, notes: tuple[str, ...]
) -> Clip:
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise DataError(
            f"expected frames of one size, got {' and '.join(f'{w} x {h}' for w, h in sizes[:2])}"
        )
    return Clip(images=tuple(images), frames=frames, frame_rate=rate, digest=digest, notes=notes)


def _agreed(notes: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What was guessed of all frames: a guess that changes from one to the next would make them flicker."""
    if len(set(notes)) > 1:
        raise DataError(FLICKERS)
    return notes[0]


def _counted(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sorts ``frame9`` before ``frame10``."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)
