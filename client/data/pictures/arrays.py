"""Decodes every picture of a site once, in parallel, into one ``.npy`` file per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from client.data.pictures.pictures import Cut, read_cut, stored_shape
from common.errors import DataError
from common.exam import Exam, ImageRef, Quarantined
from common.settings import Settings

AT_ONCE = 256
"""Exams that are decoded before they are written: bounds the memory."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of the exams.

    Attributes:
        kept: indices of those whose pictures are in the arrays, in their order.
        digests: SHA-256 of each of their picture files.
        quarantined: the others.
        notes: what had to be guessed of a picture, and which.
    """

    kept: tuple[int, ...]
    digests: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    notes: tuple[str, ...]


def write_arrays(
    target: Path, folder: Path, exams: Sequence[Exam], settings: Settings, progress: Progress | None
) -> Written:
    """Write ``<image>.npy`` for each image of the settings: ``uint8 (exams, channels, side, side)``.

    Those of clips are ``(exams, frames, channels, side, side)``. The files are written in sequence, not through a
    memory map: a full disk is then an error and no crash. Who builds their folder brings them to the disk.

    Args:
        target: folder of the arrays.
        folder: where the pictures' paths start.
        exams: whose pictures are read; one with a picture that cannot be used is left out.
        settings: which images, and their size.
        progress: told of exams done, out of all.

    Raises:
        OSError: if the files cannot be written.
    """
    kept: list[int] = []
    digests: list[str] = []
    quarantined: list[Quarantined] = []
    guessed: dict[str, list[str]] = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context((target / f"{name}.npy").open("wb")) for name in settings.images}
        shapes = _shapes(settings)
        for name, file in files.items():
            _write_header(file, (len(exams), *shapes[name]))
        pictures = [exam.images for exam in exams]
        for row, result in enumerate(decoded(folder, pictures, settings)):
            if isinstance(result, str):
                exam = exams[row]
                quarantined.append(Quarantined(exam_id=exam.exam_id, line=exam.line, reason=result))
            else:
                kept.append(row)
                digests += [cut.digest for cut in result]
                for ref, cut in zip((exams[row].images[name] for name in files), result, strict=True):
                    for note in cut.notes:
                        guessed.setdefault(note, []).append(ref.path)
                for file, cut in zip(files.values(), result, strict=True):
                    file.write(np.ascontiguousarray(cut.pixels).data)
            if progress is not None:
                progress(row + 1, len(exams))
        for name, file in files.items():
            file.seek(0)
            _write_header(file, (len(kept), *shapes[name]))
    return Written(
        kept=tuple(kept),
        digests=tuple(digests),
        quarantined=tuple(quarantined),
        notes=tuple(f"pictures with {note}: {', '.join(paths)}" for note, paths in guessed.items()),
    )


def decoded(
    folder: Path, exams: Sequence[Mapping[str, ImageRef]], settings: Settings
) -> Iterator[list[Cut] | str]:
    """The pictures of each exam in the order of the settings' images, or what is wrong with them.

    Args:
        folder: where the pictures' paths start.
        exams: image name -> where it lies, for each exam.
        settings: which images, and their size.
    """

    def cuts(exam: Mapping[str, ImageRef]) -> list[Cut] | str:
        read: list[Cut] = []
        for name, image in settings.images.items():
            try:
                read.append(read_cut(folder, exam[name], image, image_px=settings.network.image_px))
            except DataError as error:
                return f"{name}_path: {error}"
        return read

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(exams), AT_ONCE):
            yield from pool.map(cuts, exams[start : start + AT_ONCE])


def _shapes(settings: Settings) -> Mapping[str, tuple[int, ...]]:
    return {name: stored_shape(image, settings.network.image_px) for name, image in settings.images.items()}


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """A header whose length does not depend on the first axis: numpy leaves room for that to grow."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
