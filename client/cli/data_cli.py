"""The commands of a hospital's data: bring scans in, look for what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from client.cli import withdraw_cli
from client.cli.cli_options import AsJson, bar
from common.errors import ConfigurationError, DataError
from common.text.terminal import Console, Table

if TYPE_CHECKING:
    from client.data.doctor.findings import Report
    from client.data.ingest.ingest import Ingested

ARCHIVE = "From the hospital's archive, by DICOMweb"
DAY = "%Y-%m-%d"
Pictures: TypeAlias = tuple[Path, Mapping[str, int]]
"""A folder of them, and counts of the archive that they are from."""

data = typer.Typer(no_args_is_help=True)
data.command("withdraw")(withdraw_cli.withdraw)


@data.command("ingest")
def ingest(
    source: Annotated[
        Path | None, typer.Argument(metavar="[SRC]", help="Folder of DICOM, PNG, JPEG or TIFF files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Data folder to create; needed unless --dry-run.")] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="Mapping file: what files, tags and tables mean; --propose drafts one."),
    ] = None,
    private: Annotated[
        Path | None,
        typer.Option(help="Folder for the key, link file and contact sheet; default: OUT.private."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move an existing folder aside, to OUT.before-1.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Import nothing; show what the mapping makes of the first files."),
    ] = False,
    propose: Annotated[
        bool,
        typer.Option(
            "--propose",
            help="With --dry-run: draft a mapping from names and tags into --mapping (default: mapping.toml).",
        ),
    ] = False,
    dicomweb: Annotated[
        str,
        typer.Option(
            metavar="URL", help="In place of SRC: the hospital's archive (PACS).", rich_help_panel=ARCHIVE
        ),
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=[DAY],
            metavar="DAY",
            help="First day of the studies, as 2024-01-31.",
            rich_help_panel=ARCHIVE,
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--to", formats=[DAY], metavar="DAY", help="Last day of the studies.", rich_help_panel=ARCHIVE
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            help="Only these: a table with patient_id or accession_number.", rich_help_panel=ARCHIVE
        ),
    ] = None,
    graded: Annotated[
        bool,
        typer.Option(
            "--graded", help="Only patients in the mapping's table of grades.", rich_help_panel=ARCHIVE
        ),
    ] = False,
    modality: Annotated[
        str, typer.Option(help="Only series of this modality.", rich_help_panel=ARCHIVE)
    ] = "US",
    login: Annotated[
        Path | None,
        typer.Option(
            help="File with USER:PASSWORD or Bearer TOKEN; default: what SYNOFED_DICOMWEB_LOGIN holds.",
            rich_help_panel=ARCHIVE,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="The certificate authority of the archive, in PEM.", rich_help_panel=ARCHIVE),
    ] = None,
    plain_http: Annotated[
        bool,
        typer.Option("--plain-http", help="Permit http:// to another machine.", rich_help_panel=ARCHIVE),
    ] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep what was fetched, in the private folder.", rich_help_panel=ARCHIVE),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import an export, or the archive's pictures: crop regions, mask text, assign pseudonyms, pair pictures."""
    if propose and not dry_run:
        raise ConfigurationError(
            "Expected --dry-run beside --propose: a draft is looked at before it is used"
        )
    if out is None and not dry_run:
        raise ConfigurationError("Expected --out, the data folder to be made, or --dry-run")
    if (source is None) == (not dicomweb):
        raise ConfigurationError("Expected SRC, a folder of pictures, or --dicomweb URL, one of the two")
    came: AbstractContextManager[Pictures]
    place = None if out is None or dry_run else private or out.with_name(f"{out.name}.private")
    if source is not None:
        if any((since, until, patients, graded, login, ca, plain_http, keep)):
            raise ConfigurationError(
                "Expected --dicomweb URL beside --from, --to, --patients, --graded, --login, --ca, --plain-http "
                "and --keep"
            )
        came = nullcontext((source, {}))
    else:
        from client.cli import dicomweb_fetch  # noqa: PLC0415

        asked = dicomweb_fetch.Asked(
            url=dicomweb, login=login, ca=ca, plain_http=plain_http, mapping=None if propose else mapping,
            since=since and since.date(), until=until and until.date(), patients=patients,
            graded=graded, modality=modality, keep=keep, quiet=as_json,
        )  # fmt: skip
        came = (
            dicomweb_fetch.first(asked)
            if dry_run or out is None or place is None
            else dicomweb_fetch.whole(asked, out=out, private=place, replace=replace)
        )
    with came as (folder, counts):
        if out is None or place is None:
            said = f"--dicomweb {dicomweb} ..." if dicomweb else str(folder)
            _try_out(folder, counts, mapping, said, propose=propose, as_json=as_json)
        else:
            _import(folder, counts, out, mapping, private=place, replace=replace, as_json=as_json)


@data.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data folder, or a site's folder.")],
    detail: Annotated[
        Path | None, typer.Option(help="Where to list the rows with problems; default: DIR/check.csv.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find problems in the data. Prints counts; the rows go into a file that stays at the site."""
    from client.data.doctor import check as doctor  # noqa: PLC0415

    with bar("pictures", quiet=as_json) as progress:
        report = doctor.check(folder, progress=progress)
    place = detail or report.folder / "check.csv"
    doctor.write(report, place)
    if as_json:
        typer.echo(json.dumps({**doctor.counts(report), "detail": str(place)}))
    else:
        console = Console()
        console.print(_report(report))
        console.print(f"Each row: {place}", soft_wrap=True)
    if report.problems:
        raise DataError(
            f"{report.problems} problems in {report.folder}: {place} names the exams; correct or remove them"
        )


def _try_out(
    folder: Path, archive: Mapping[str, int], mapping: Path | None, said: str, *, propose: bool, as_json: bool
) -> None:
    from client.cli import dry_run_view  # noqa: PLC0415

    with bar("files", quiet=as_json) as progress:
        trial = dry_run_view.attempt(folder, mapping, propose=propose, progress=progress)
    if as_json:
        typer.echo(json.dumps({**dry_run_view.document(trial), **_of_archive(archive)}))
    else:
        dry_run_view.show(trial, said)


def _import(
    folder: Path,
    archive: Mapping[str, int],
    out: Path,
    mapping: Path | None,
    *,
    private: Path,
    replace: bool,
    as_json: bool,
) -> None:
    from client.data.ingest import ingest as importing  # noqa: PLC0415
    from client.data.ingest import mapping as meanings  # noqa: PLC0415

    meaning = meanings.load(mapping)
    with bar("files", quiet=as_json) as progress:
        done = importing.ingest(folder, out, meaning, private=private, replace=replace, progress=progress)
    if as_json:
        document = {"out": str(out), "private": str(private), **asdict(done), **_of_archive(archive)}
        typer.echo(json.dumps(document))
        return
    console = Console()
    console.print(_ingested(done))
    console.print("\n".join(_next(done, out, private)), soft_wrap=True)


def _of_archive(counts: Mapping[str, int]) -> dict[str, Mapping[str, int]]:
    return {"archive": counts} if counts else {}


def _ingested(done: Ingested) -> Table:
    table = Table(show_header=False, title="Brought in")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("exams", str(done.exams))
    table.add_row("patients", str(done.patients))
    table.add_row("pictures read", str(done.files))
    table.add_row("other files", str(done.other_files))
    table.add_row("readings", "no table of grades" if done.readings is None else str(done.readings))
    table.add_row("exams without a grade", str(done.ungraded))
    table.add_row("pictures with text painted over", str(done.masked))
    table.add_row("painted over of a picture", f"{done.painted:.1%}, at most {done.painted_most:.1%}")
    for note, count in done.notes.items():
        table.add_row(f"pictures with {note}", str(count))
    for by, count in done.kept_by.items():
        table.add_row(f"cut by {by}", str(count))
    table.add_row("ids that look alike and are not linked", str(done.look_alike_ids))
    for title, reasons in (("left out", done.left_out), ("grades left out", done.grade_problems)):
        if reasons:
            table.add_section()
        for reason, count in reasons.items():
            table.add_row(f"{title}: {reason}", str(count))
    return table


def _next(done: Ingested, out: Path, private: Path) -> list[str]:
    lines = [
        f"{out}: manifest.csv, images, quarantine.csv; look at {private / (out.name + '-contact-sheet.png')}",
        f"{private} undoes the pseudonyms: keep it at the hospital, apart from {out}, and in its backup.",
    ]
    if done.kept_by.get("whole"):
        lines.append(
            f"{done.kept_by['whole']} pictures have neither a region tag nor a profile: the whole screen was kept, "
            f"and text on it painted over where it was found. Name the device under [[devices]]."
        )
    if done.notes or done.left_out:
        lines.append(
            f"{private / (out.name + '-problems.csv')} names the files that were left out or guessed at."
        )
    if done.look_alike_ids:
        lines.append(
            f"{private / (out.name + '-problems.csv')} lists ids that may be one person's: link them by a table that "
            f"the mapping names as patients."
        )
    if done.readings is None:
        lines.append("No [grades] in the mapping: grades.csv has to be added before training.")
    return [*lines, f"Next: synofed data check {out}"]


def _report(report: Report) -> Table:
    table = Table(title=f"{report.exams} exams of {report.patients} patients, {report.pictures} pictures")
    table.add_column("check")
    table.add_column("problems", justify="right")
    table.add_column("to look at", justify="right")
    for row in report.rows():
        table.add_row(row.title, str(row.problems), str(row.warnings))
    return table
