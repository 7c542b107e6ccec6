"""What a page shows of an exam's pictures, in the reading room and in a study alike: nothing of whose they are."""

from __future__ import annotations

from fastapi import Response

from client.reading.opened import Exams
from client.reading.pictures import Shown
from client.reading.worklist import Listed
from common.errors import DataError
from common.exam import Roi


def exam_page(exams: Exams, exam: Listed) -> dict[str, object]:
    """Sizes, regions, spacing and what the pixels suggest, image by image.

    Raises:
        DataError: if a picture cannot be shown.
    """
    return {"images": [_image(exams, exam, name) for name in exam.images]}


def png(content: bytes) -> Response:
    """A picture's answer.

    Raises:
        DataError: if there is none.
    """
    if not content:
        raise DataError("There is no such picture")
    return Response(content, media_type="image/png")


def roi_of(text: str, shown: Shown) -> Roi:
    """A region that was drawn on a picture.

    Raises:
        DataError: if it is none, or does not lie inside the picture.
    """
    try:
        roi = Roi.parse(text)
    except ValueError as error:
        raise DataError(f"Expected a region as 'x y width height' in pixels: {error}") from None
    if roi.x + roi.width > shown.width or roi.y + roi.height > shown.height:
        raise DataError(f"Expected a region inside the picture's {shown.width} x {shown.height} pixels")
    return roi


def _image(exams: Exams, exam: Listed, name: str) -> dict[str, object]:
    found = exams.image(exam, name)
    by, time = found.drawn_by
    return {
        "name": name,
        "width": found.shown.width,
        "height": found.shown.height,
        "frames": found.shown.frames,
        "spacing_mm": exam.spacing_mm.get(name),
        "region": _box(found.region),
        "drawn_by": by,
        "drawn": time,
        "suggested": _box(found.suggested),
        "reasons": found.reasons,
    }


def _box(roi: Roi | None) -> list[int] | None:
    return None if roi is None else [roi.x, roi.y, roi.width, roi.height]
