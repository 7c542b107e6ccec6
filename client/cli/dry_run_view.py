"""``data ingest --dry-run``: what a mapping, or a draft of one, makes of the first files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from client.data.ingest import draft, placing, preview, proposal, samples, scans
from client.data.ingest import mapping as meanings
from common.errors import DataError, refusal
from common.machine import atomic
from common.text.terminal import Console, Table

DRAFT, EXAMPLE = Path("mapping.toml"), "mapping.example.toml"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A dry run.

    Attributes:
        mapping: the mapping file, ``None`` where there is none.
        rows: where rows with names are.
        files: pictures in the export.
        looked_at: of these, for the draft.
        proposed: the draft; empty where none was asked for.
        first: what came of the first files.
    """

    mapping: Path | None
    rows: Path | None
    files: int
    looked_at: int
    proposed: tuple[proposal.Proposed, ...]
    first: tuple[preview.Row, ...]


def attempt(source: Path, mapping: Path | None, *, propose: bool, progress: Progress) -> Trial:
    """Try a mapping on the first files; what names a patient, a file or a date goes into a file for its owner alone.

    Args:
        source: folder of the export.
        mapping: the mapping file; with ``propose`` where the draft is written.
        propose: whether a mapping is drafted first; the example that explains every line is put beside it.
        progress: told of files looked at, out of all that are.

    Raises:
        DataError: if the export has no picture, or a file cannot be written or is there already.
    """
    export = scans.find(source)
    if not export.pictures:
        raise DataError(f"Expected DICOM, PNG, JPEG or TIFF files under {source}, got none")
    seen: list[samples.Sample] = []
    proposed: tuple[proposal.Proposed, ...] = ()
    if propose:
        mapping = mapping or DRAFT
        if mapping.exists():
            raise DataError(f"Expected no file at {mapping}, there is one: name another by --mapping")
        names = samples.spread(export.pictures)
        for done, name in enumerate(names, start=1):
            seen.append(samples.read(source, name))
            progress(done, len(names))
        proposed = proposal.propose(seen)
        _write(source, mapping, draft.toml(proposed, seen, files=len(export.pictures)).encode("utf-8"))
        _write(source, mapping.with_name(EXAMPLE), meanings.EXAMPLE.read_bytes())
    meaning = meanings.load(mapping)
    if meaning.keeps_clips:
        export = scans.find(source, films=True, clip_folders=meaning.clips.folders)
    found = preview.preview(source, meaning, export)
    rows = mapping.with_name(f"{mapping.stem}-files.csv") if mapping is not None else None
    if rows is not None:
        _write(source, rows, placing.table(preview.COLUMNS, found.named))
    return Trial(
        mapping=mapping,
        rows=rows,
        files=len(export.pictures),
        looked_at=len(seen),
        proposed=proposed,
        first=found.rows,
    )


def document(trial: Trial) -> dict[str, object]:
    """For ``--json``."""
    facts = [
        {
            **asdict(each),
            "sources": list(map(draft.written, each.sources)),
            "hints": list(map(draft.written, each.hints)),
        }
        for each in trial.proposed
    ]
    return {
        "mapping": str(trial.mapping) if trial.mapping else None,
        "rows": str(trial.rows) if trial.rows else None,
        "files": trial.files,
        "looked_at": trial.looked_at,
        "facts": facts,
        "first": [asdict(row) for row in trial.first],
    }


def show(trial: Trial, asked: str) -> None:
    """For a screen.

    Args:
        trial: of a mapping.
        asked: the words of the command that say where pictures come from.
    """
    console = Console()
    if trial.proposed:
        console.print(_facts(trial.proposed, trial.looked_at))
    console.print(_files(trial.first, trial.files))
    console.print("\n".join(_next(trial, asked)), soft_wrap=True)


def _write(source: Path, place: Path, content: bytes) -> None:
    """Write a file for its owner only, outside of the export."""
    if place.resolve().is_relative_to(source.resolve()):
        raise DataError(f"Expected --mapping outside of the export, got {place}")
    try:
        atomic.write(place, content, mode=0o600)
    except OSError as error:
        raise DataError(f"{place} cannot be written: {refusal(error)}") from None


def _facts(proposed: Sequence[proposal.Proposed], looked_at: int) -> Table:
    table = Table(title=f"Drafted from names and tags of {looked_at} files")
    for column in ("fact", "from", "", "why"):
        table.add_column(column)
    for each in proposed:
        mark = {"found": "", "check": "CHECK", "gap": "GAP"}[each.state]
        sources = ", ".join(
            source if isinstance(source, str) else f"part of {source.of}" for source in each.sources
        )
        table.add_row(each.fact, sources or "-", mark, each.why)
    return table


def _files(rows: Sequence[preview.Row], files: int) -> Table:
    shown = len({row.file for row in rows})
    table = Table(title=f"The first {shown} of {files} files, paired among themselves")
    for column in ("file", "image", "patient", "visit", "joint", "exam"):
        table.add_column(column, no_wrap=column != "joint")
    table.add_column("device")
    table.add_column("not told, or why left out")
    for row in rows:
        number = f"{row.file}.{row.panel}" if row.panel > 1 else str(row.file)
        joint = " ".join(filter(None, (row.side, row.joint, row.digit, row.view)))
        open_ = ", ".join(row.not_told)
        remark = "; ".join(filter(None, (row.reason, f"not told: {open_}" if open_ else "")))
        table.add_row(number, row.image, row.patient, row.visit, joint, row.exam, row.device, remark)
    return table


def _next(trial: Trial, asked: str) -> list[str]:
    lines = ["Patients, visits and exams are numbered here; nothing was imported."]
    if trial.rows is not None:
        lines.append(f"{trial.rows} has their ids and dates, and names of files: it stays at the hospital.")
    if trial.proposed:
        lines += [
            f"{trial.mapping}: mend what is marked CHECK or GAP, then look again:",
            f"  synofed data ingest {asked} --dry-run --mapping {trial.mapping}",
        ]
    return lines
