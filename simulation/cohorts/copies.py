"""Pictures that two patients of a collection have alike: a held-out one would have been seen in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from client.data.doctor.hashes import Likeness, alike, likeness, pixels_digest
from client.data.pictures.decoder import decode
from common.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture of a collection, and whose it is."""

    line: int
    patient_id: str
    image: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Two pictures of one kind, of two patients, that are alike."""

    one: Picture
    other: Picture
    same_pixels: bool


def find_copies(root: Path, pictures: Sequence[Picture]) -> tuple[Copy, ...]:
    """Find pictures of two patients that are the same, or the same but for size, compression or brightness.

    What ``data check`` finds in a hospital's folder; pictures that cannot be read are left to the store.

    Args:
        root: folder that paths start from.
        pictures: of the collection.
    """

    def seen(picture: Picture) -> tuple[Picture, str, Likeness] | None:
        try:
            content = (root / picture.path).read_bytes()
            image = decode(content, mode="RGB").image
            rgb = np.asarray(image, dtype=np.uint8)
            return picture, pixels_digest(rgb), likeness(np.asarray(image.convert("L")))
        except (DataError, OSError):
            return None

    with ThreadPoolExecutor() as pool:
        found = [each for each in pool.map(seen, pictures) if each is not None]
    copies: list[Copy] = []
    for image in dict.fromkeys(picture.image for picture in pictures):
        copies += _of_a_kind([each for each in found if each[0].image == image])
    return tuple(copies)


def _of_a_kind(found: Sequence[tuple[Picture, str, Likeness]]) -> Iterator[Copy]:
    same: dict[str, list[int]] = {}
    for index, (_, digest, _) in enumerate(found):
        same.setdefault(digest, []).append(index)
    equal = {pair for indices in same.values() for pair in combinations(indices, 2)}
    for i, j in sorted(equal | set(alike([look for _, _, look in found]))):
        one, other = found[i][0], found[j][0]
        if one.patient_id != other.patient_id:
            yield Copy(one=one, other=other, same_pixels=(i, j) in equal)
