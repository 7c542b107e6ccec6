"""``mapping.toml``: what a hospital's files, tags and tables mean, for ``data ingest``."""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingOf
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydicom.datadict import tag_for_keyword

from common.errors import ConfigurationError
from common.sections.section import Count, Positive, Seconds, Section, section
from common.text import toml_text

Fact = Literal[
    "patient_id", "visit", "time", "side", "joint", "digit", "view", "device", "diagnosis", "age", "sex",
    "split", "image", "series", "pair",
]  # fmt: skip
"""What is known of a picture. ``image`` is gs or doppler; ``series`` and ``pair`` only serve to pair. ``age`` and
``sex`` are taken over where the mapping asks for them alone: no tag is their usual source."""
Image = Literal["gs", "doppler"]
CLIP = "_clip"
"""What the image of a moving picture ends with: ``gs_clip``, ``doppler_clip``."""
Wanted = Literal["gs", "doppler", "gs_clip", "doppler_clip"]
BoxPx = tuple[Count, Count, Positive, Positive]
"""``[x, y, width, height]`` in pixels of the whole picture."""


def _source(text: str) -> str:
    kind, _, value = text.partition(":")
    if text != "name" and (kind not in ("tag", "table", "is") or not value):
        raise ValueError("expected name, tag:KEYWORD, table:COLUMN or is:VALUE")
    if kind == "tag" and tag_for_keyword(value) is None:
        raise ValueError("expected the keyword of a public DICOM element, for example tag:PatientID")
    return text


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    if groups != 1:
        raise ValueError(f"expected a regular expression with one group in brackets, got {groups}")
    return text


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    return text


Source = Annotated[str, AfterValidator(_source)]


class Part(Section):
    """A fact that is only a part of a text: of the file's name, of a tag, of a column."""

    of: Source
    pattern: Annotated[str, AfterValidator(_pattern)]
    """Its one group is the value; upper and lower case are the same."""


Sources = tuple[Source | Part, ...]


class TableSection(Section):
    """The ``[table]`` section: a list of the hospital's own that tells of each file."""

    path: Path
    sheet: str = ""
    header_row: Count = 0
    """Line of the header; 0: the first line that has all columns that are named here."""
    file: str
    """The column with the file's name, with or without its folders."""


class VisitSection(Section):
    """The ``[visit]`` section."""

    dates: Literal["shifted", "kept", "none"] = "shifted"
    """``shifted``: each patient's dates by a number of days of their own, so that intervals stay true."""


class PairSection(Section):
    """The ``[pair]`` section: which grey-scale picture goes with which Doppler picture."""

    images: Annotated[tuple[Wanted, ...], Field(min_length=1)] = ("gs", "doppler")
    """With ``gs_clip`` or ``doppler_clip``, a file of several frames is a clip, and is kept with all of them."""
    same: Annotated[tuple[Fact, ...], Field(min_length=1)] = (
        "patient_id", "visit", "side", "joint", "digit", "view",
    )  # fmt: skip
    within_s: Seconds | None = None
    """Longest time between the two; where several of an exam could go together, the nearest do."""


class RoiSection(Section):
    """The ``[roi]`` section: the region of interest within the scan."""

    rule: Literal["whole", "colour_box", "table"] = "whole"
    """``colour_box``: of the DICOM region tag, for both pictures where they are equally large."""
    table: Path | None = None
    """Columns ``file, x, y, width, height``, in pixels of the whole picture."""

    @model_validator(mode="after")
    def _has_table(self) -> RoiSection:
        if (self.rule == "table") != (self.table is not None):
            raise ValueError('expected roi.table with roi.rule = "table", and only then')
        return self


class PanelSection(Section):
    """A part of the screen that is kept."""

    box: BoxPx
    image: Image | None = None


class DeviceSection(Section):
    """A ``[[devices]]`` entry: where a machine shows its scans. All that is given must fit."""

    name: str
    manufacturer: Annotated[str, AfterValidator(_expression)] = ""
    model: Annotated[str, AfterValidator(_expression)] = ""
    file: Annotated[str, AfterValidator(_expression)] = ""
    """Regular expressions, looked for in the tag or in the file's name."""
    size: tuple[Positive, Positive] | None = None
    """Width and height in pixels."""
    panels: Annotated[tuple[PanelSection, ...], Field(min_length=1)]
    mask: tuple[BoxPx, ...] = ()
    """Always painted over, for marks that always stand in the same place."""


class ClipsSection(Section):
    """The ``[clips]`` section: how moving pictures lie in the export, where they are no files of their own."""

    folders: Annotated[str, AfterValidator(_expression)] = ""
    """A regular expression: a folder in whose path it is found is one clip, its files are the frames."""


class BurnedInSection(Section):
    """The ``[burned_in]`` section: what to do where text is found in what is kept."""

    action: Literal["mask", "refuse", "keep"] = "mask"


class ReaderSection(Section):
    """A ``[[grades.readers]]`` entry: columns of one reader, where each has columns of their own."""

    name: str
    columns: MappingOf[str, str]
    """Measurement -> column."""


class GradesSection(Section):
    """The ``[grades]`` section."""

    path: Path
    sheet: str = ""
    header_row: Count = 0
    """Line of the header; 0: the first line that has all columns that are named here."""
    grades: Annotated[int, Field(ge=2, le=16)] = 4
    exam: Annotated[MappingOf[Fact | Literal["file"], str], Field(min_length=1)]
    """Fact -> column: what tells which exam a row grades. ``file``: either picture's file name."""
    columns: MappingOf[str, str] = {}
    """Measurement -> column."""
    reader: str = ""
    """Column of the reader's name; without it there is one reader."""
    session: str = ""
    readers: tuple[ReaderSection, ...] = ()

    @model_validator(mode="after")
    def _one_layout(self) -> GradesSection:
        if bool(self.columns) == bool(self.readers):
            raise ValueError("expected grades.columns or [[grades.readers]], one of them")
        if len({frozenset(reader.columns) for reader in self.readers}) > 1:
            raise ValueError("expected the same measurements for each of [[grades.readers]]")
        return self

    @property
    def measurements(self) -> tuple[str, ...]:
        """Names of the graded measurements."""
        return tuple(self.columns or self.readers[0].columns)


class Mapping(Section):
    """A whole mapping file. Relative paths in it start from its own folder."""

    frame: Positive | None = None
    """Which picture of a clip or of several pages is kept; without it the first, with a warning."""
    facts: MappingOf[Fact, Sources] = {}
    """In place of the ones in ``USUAL``."""
    values: MappingOf[Fact | Literal["reader"], MappingOf[str, str]] = {}
    """Fact -> the hospital's word -> ours; upper and lower case are the same."""
    table: TableSection | None = None
    patients: Path | None = None
    """Link table, columns ``patient_id, person``: the ids that one person has on several machines."""
    patient_id_digits: Annotated[int, Field(ge=0, le=64)] = 0
    """Numeric patient IDs are padded with leading zeros to this many digits, everywhere; 0: not padded."""
    visit: VisitSection = VisitSection()
    pair: PairSection = PairSection()
    clips: ClipsSection = ClipsSection()
    roi: RoiSection = RoiSection()
    devices: tuple[DeviceSection, ...] = ()
    burned_in: BurnedInSection = BurnedInSection()
    grades: GradesSection | None = None

    @model_validator(mode="after")
    def _clips_are_asked_for(self) -> Mapping:
        if self.frame is not None and self.keeps_clips:
            raise ValueError("expected no frame where pair.images has clips, of which all frames are kept")
        if self.clips.folders and not self.keeps_clips:
            raise ValueError("expected gs_clip or doppler_clip in pair.images with clips.folders")
        return self

    @property
    def keeps_clips(self) -> bool:
        """Whether moving pictures are kept whole."""
        return any(image.endswith(CLIP) for image in self.pair.images)

    def sources(self, fact: Fact) -> Sources:
        """Where a fact comes from, the first that has it."""
        return self.facts.get(fact, USUAL.get(fact, ()))

    @property
    def uses_table(self) -> bool:
        """Whether some fact comes from the table."""
        sources = [s for each in self.facts.values() for s in each]
        return any((s.of if isinstance(s, Part) else s).startswith("table:") for s in sources)


USUAL: MappingOf[Fact, Sources] = {
    "patient_id": ("tag:PatientID",),
    "visit": ("tag:StudyDate",),
    "time": ("tag:AcquisitionDateTime", "tag:AcquisitionTime", "tag:ContentTime"),
    "side": ("tag:ImageLaterality", "tag:Laterality"),
    "device": ("tag:ManufacturerModelName",),
    "series": ("tag:SeriesInstanceUID",),
}
"""Where facts come from if the mapping does not say."""


EXAMPLE = Path(__file__).with_name("mapping_template.toml")
"""A mapping file in which every line is explained."""


def load(path: Path | None) -> Mapping:
    """Read a mapping file; without one, what DICOM tags say.

    Raises:
        ConfigurationError: if it cannot be read, or holds what is unknown or out of range.
    """
    if path is None:
        return Mapping()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Expected a mapping at {path}: {error.strerror}") from None
    document = toml_text.read(content, source=str(path))
    mapping = section(Mapping, document, source=str(path))
    if mapping.uses_table and mapping.table is None:
        raise ConfigurationError(f"Expected a [table] section in {path}, since facts come from its columns")
    return _placed(mapping, path.parent)


def _placed(mapping: Mapping, folder: Path) -> Mapping:
    """With all paths from the working directory."""
    table, grades, roi = mapping.table, mapping.grades, mapping.roi
    return mapping.model_copy(
        update={
            "table": table and table.model_copy(update={"path": folder / table.path}),
            "grades": grades and grades.model_copy(update={"path": folder / grades.path}),
            "roi": roi.model_copy(update={"table": roi.table and folder / roi.table}),
            "patients": mapping.patients and folder / mapping.patients,
        }
    )
