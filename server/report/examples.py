"""Example exams of a report: their pictures beside the reference and the decision."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import DataError

INDEX = "examples.json"
HEATMAP = "-heatmap"
"""After an image's name: the picture under its heatmap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One exam to show.

    Attributes:
        exam_id: the exam.
        site: the site it comes from.
        pictures: image name -> ``uint8 (height, width)`` or ``(height, width, 3)``.
        reference: measurement -> reference grade.
        decision: measurement -> decided grade.
        votes: measurement -> the grade that each scoring model votes; empty where that was not noted.
        majority: measurement -> the most-voted grade.
        tie: whether a rule about ties chose the answer.
        note: what the exam is an example of.
    """

    exam_id: str
    site: str
    pictures: Mapping[str, np.ndarray]
    reference: Mapping[str, int]
    decision: Mapping[str, int]
    votes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    majority: Mapping[str, int] = field(default_factory=dict)
    tie: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExample:
    """An example as it lies in a run's folder; ``pictures``: image name -> data URI of a PNG."""

    exam_id: str
    site: str
    pictures: Mapping[str, str]
    reference: Mapping[str, int]
    decision: Mapping[str, int]
    votes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    majority: Mapping[str, int] = field(default_factory=dict)
    tie: bool = False
    note: str = ""

    @property
    def right(self) -> bool:
        """Whether every measurement was decided as the reference has it."""
        return all(self.decision.get(name) == grade for name, grade in self.reference.items())


def write_examples(folder: Path, examples: Iterable[Example]) -> None:
    """Write examples as PNG files and ``examples.json``.

    Args:
        folder: for a run ``figures/examples``; made if it is not there.
        examples: in the order in which the report shows them.

    Raises:
        DataError: for a picture that is not ``uint8`` grey or RGB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for number, example in enumerate(examples):
        files = {name: f"{number:02d}-{name}.png" for name in example.pictures}
        for name, picture in example.pictures.items():
            _image(picture, name).save(folder / files[name], optimize=True)
        index.append(
            {
                "exam_id": example.exam_id,
                "site": example.site,
                "pictures": files,
                "reference": {name: int(grade) for name, grade in example.reference.items()},
                "decision": {name: int(grade) for name, grade in example.decision.items()},
                "votes": {name: [int(vote) for vote in votes] for name, votes in example.votes.items()},
                "majority": {name: int(grade) for name, grade in example.majority.items()},
                "tie": bool(example.tie),
                "note": example.note,
            }
        )
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def read_examples(folder: Path) -> list[StoredExample]:
    """The examples of a folder, pictures inlined; none if there is no ``examples.json``."""
    path = folder / INDEX
    if not path.exists():
        return []
    return [
        StoredExample(
            exam_id=str(entry["exam_id"]),
            site=str(entry["site"]),
            pictures={name: _data_uri(folder / file) for name, file in entry["pictures"].items()},
            reference=entry["reference"],
            decision=entry["decision"],
            votes=entry.get("votes", {}),
            majority=entry.get("majority", {}),
            tie=entry.get("tie", False),
            note=entry.get("note", ""),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def _image(picture: np.ndarray, name: str) -> Image.Image:
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise DataError(
            f"Expected picture {name} as uint8 (height, width) or (height, width, 3), got {picture.dtype} "
            f"{picture.shape}."
        )
    return Image.fromarray(np.ascontiguousarray(picture))


def read_sheets(folder: Path) -> list[tuple[str, str]]:
    """Title and data URI of each contact sheet of a folder."""
    return [(path.stem, _data_uri(path)) for path in sorted(folder.glob("*.png"))]


def _data_uri(path: Path) -> str:
    # Re-encoded, so that only pixels get into the page, whatever the file holds.
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB" if image.mode not in ("L", "RGB") else image.mode).save(
            buffer, "PNG", optimize=True
        )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
