"""A site's exams, opened one at a time: pictures, regions as they count now, what their pixels suggest."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from secrets import token_bytes
from statistics import median

from client.data import withdrawn
from client.reading import pictures, quality, worklist
from client.reading.pictures import Shown
from client.reading.room import ReadingRoom
from client.reading.worklist import Listed
from client.site.site import Site
from common.errors import DataError
from common.exam import ImageRef, Roi

SATURATION = 0.4
"""From which on a pixel is flow, as RATING has it."""
COMPARED = 24
"""Pictures of a machine whose sharpness is the usual one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedImage:
    """One image of an exam that is open.

    Attributes:
        shown: its first frame.
        region: that counts now; ``None``: the whole picture.
        drawn_by: who drew it, and when; empty where the manifest has it.
        suggested: where it may lie, from the site's other pictures.
        reasons: for exclusion, that its pixels speak for.
    """

    shown: Shown
    region: Roi | None
    drawn_by: tuple[str, str]
    suggested: Roi | None
    reasons: tuple[str, ...]


class Exams:
    """The exams of a site, by what pages call them; the names are others in every process."""

    def __init__(self, site: Site, room: ReadingRoom) -> None:
        self.site = site
        self.room = room
        self._key = token_bytes(32)
        self._lock = threading.Lock()
        self._stamp: object = None
        self._all: Mapping[str, Listed] = {}
        self._sharpness: dict[tuple[str, str], float | None] = {}

    def all(self) -> Mapping[str, Listed]:
        """Token -> exam, in the order of the manifest, which is read again when it has changed.

        Raises:
            DataError: if it cannot be read.
        """
        path = self.site.data_folder / self.site.file.data.manifest
        with self._lock:
            status = path.stat() if path.exists() else None
            stamp = (
                status and (status.st_mtime_ns, status.st_size),
                withdrawn.stamp(self.site.folder),
            )
            if stamp != self._stamp:
                found = worklist.exams(self.site, key=self._key)
                self._all = {exam.token: exam for exam in found}
                self._stamp = stamp
            return self._all

    def exam(self, token: str) -> Listed:
        """An exam whose pictures can be looked at.

        Raises:
            DataError: if there is none of that name, or its row is wrong.
        """
        exam = self.all().get(token)
        if exam is None:
            raise DataError("Expected an exam of the worklist: load the page again")
        if exam.problem:
            raise DataError(f"This exam cannot be opened: {exam.problem}. Correct its row in the manifest.")
        return exam

    def regions(self, exam: Listed) -> dict[str, ImageRef]:
        """Image -> its file as it lies on the disk, and the region that counts now."""
        return {
            name: replace(ref, path=str(self.site.data_folder / ref.path), roi=self._region(exam, name))
            for name, ref in exam.images.items()
        }

    def image(self, exam: Listed, name: str) -> OpenedImage:
        """One image of an exam.

        Raises:
            DataError: if it has none of that name, or the file cannot be shown.
        """
        shown = self.frame(exam, name, 1)
        region, drawn = self._region(exam, name), self.room.drawn.get((exam.exam_id, name))
        regions = {key: one.roi for key, one in self.room.drawn.items() if one.roi is not None}
        return OpenedImage(
            shown=shown,
            region=region,
            drawn_by=(drawn.reader, drawn.time) if drawn is not None and drawn.roi is not None else ("", ""),
            suggested=pictures.suggested(exam, name, self.all().values(), regions, self.site.data_folder),
            reasons=self._reasons(exam, name, shown, region),
        )

    def frame(self, exam: Listed, name: str, number: int) -> Shown:
        """A frame of an image, from 1.

        Raises:
            DataError: if the exam has no image of that name, or the frame cannot be shown.
        """
        ref = exam.images.get(name)
        if ref is None:
            raise DataError(f"Expected one of the exam's images, {', '.join(exam.images)}, got {name!r}")
        return pictures.frame(self.site.data_folder / ref.path, number)

    def _region(self, exam: Listed, name: str) -> Roi | None:
        drawn = self.room.drawn.get((exam.exam_id, name))
        return drawn.roi if drawn is not None and drawn.roi is not None else exam.images[name].roi

    def _reasons(self, exam: Listed, name: str, shown: Shown, region: Roi | None) -> tuple[str, ...]:
        usual = self._usual_sharpness(exam, name)
        return quality.suggestions(shown.part(region), usual_sharpness=usual, saturation=SATURATION)

    def _usual_sharpness(self, exam: Listed, name: str) -> float | None:
        key = (name, exam.about["device"])
        if key not in self._sharpness:
            alike = [e for e in self.all().values() if name in e.images and e.about["device"] == key[1]]
            found = []
            for other in alike[:: max(1, len(alike) // COMPARED)][:COMPARED]:
                try:
                    shown = pictures.frame(self.site.data_folder / other.images[name].path)
                except DataError:
                    continue
                found.append(quality.sharpness(shown.part(self._region(other, name))))
            self._sharpness[key] = median(found) if len(found) >= COMPARED // 2 else None
        return self._sharpness[key]
