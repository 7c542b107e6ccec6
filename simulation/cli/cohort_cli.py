"""The commands of ``synofed cohort``: phantom or public data, laid out as site folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common import settings as configuration
from common.errors import ConfigurationError
from common.sections.cohort import HandSettings, PhantomSettings
from common.sections.section import LAST_SEED, section
from common.text.terminal import Console
from simulation.engine.progress import Display

if TYPE_CHECKING:
    from simulation.cohorts.cohort import Cohort

cohort = typer.Typer(no_args_is_help=True)


@cohort.command("make")
def make_cohort(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    sites: Annotated[int, typer.Option(help="Number of sites that train.")] = 5,
    patients: Annotated[int, typer.Option(help="Patients per site.")] = 40,
    exams: Annotated[int, typer.Option(help="Joint exams per patient.")] = 8,
    image_px: Annotated[int, typer.Option(help="Side of the region of interest.")] = 224,
    unseen: Annotated[bool, typer.Option(help="Add a site whose device is never trained on.")] = True,
    machines: Annotated[
        list[Path] | None,
        typer.Option(
            "--machine", help="TOML file of a machine for the first site, the next, ...; repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The same seed gives the same cohort.")] = 0,
) -> None:
    """Create phantom patients, laid out as site folders."""
    from simulation.cohorts import cohort as cohorts  # noqa: PLC0415

    own = [configuration.machine_profile(path) for path in machines or []]
    asked = {"sites": sites, "patients": patients, "exams_per_patient": exams, "image_px": image_px}
    settings = section(
        PhantomSettings, {**asked, "unseen_device": unseen, "machines": own}, source="The cohort"
    )
    with Display(Console()) as display, display.step("phantom cohort") as bar:
        made = cohorts.make(settings, seed=seed, out=out, progress=bar)
    typer.echo(_said(made))


@cohort.command("hands")
def make_hands(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    sites: Annotated[int, typer.Option(help="Number of sites that train.")] = 5,
    patients: Annotated[int, typer.Option(help="Patients per site, one radiograph each.")] = 40,
    width_px: Annotated[int, typer.Option(help="Width of a picture of both hands.")] = 512,
    unseen: Annotated[bool, typer.Option(help="Add a site whose machine is never trained on.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The same seed gives the same cohort.")] = 0,
) -> None:
    """Create phantom radiographs of hands with their total scores, laid out as site folders."""
    from simulation.cohorts import cohort as cohorts  # noqa: PLC0415

    asked = {"sites": sites, "patients": patients, "width_px": width_px, "unseen_device": unseen}
    settings = section(HandSettings, asked, source="The cohort")
    with Display(Console()) as display, display.step("phantom radiographs") as bar:
        made = cohorts.make(settings, seed=seed, out=out, progress=bar)
    typer.echo(_said(made))


@cohort.command("joints")
def make_joints(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    patients: Annotated[int, typer.Option(min=1, max=100_000, help="Patients, with both hands each.")] = 300,
    width_px: Annotated[
        int, typer.Option(min=64, max=2048, help="Width of the picture of both hands, an even number.")
    ] = 320,
    side_px: Annotated[int, typer.Option(min=16, max=1024, help="Width of a cut about a joint.")] = 96,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that draw.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The same seed gives the same joints.")] = 0,
) -> None:
    """Cut joints out of phantom radiographs, a labelled folder for `synofed weights learn`."""
    from simulation.cohorts import joints  # noqa: PLC0415

    asked = {"patients": patients, "width_px": width_px}
    settings = section(HandSettings, asked, source="The pictures")
    with Display(Console()) as display, display.step("joints of phantom radiographs") as bar:
        table = joints.write(
            patients=settings.patients,
            width_px=settings.width_px,
            side_px=side_px,
            seed=seed,
            out=out,
            workers=workers,
            progress=bar,
        )
    typer.echo(f"{table}: columns {', '.join(joints.COLUMNS)}")


@cohort.command("show")
def show_cohort(
    folder: Annotated[Path, typer.Argument(help="A cohort's folder.")],
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("cohort.png"),
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed that chooses the examples.")] = 0,
) -> None:
    """Draw a contact sheet of grades by device."""
    from simulation.cohorts import cohort as cohorts  # noqa: PLC0415

    cohorts.show(folder, out, seed=seed)
    typer.echo(out)


@cohort.command("split")
def split_cohort(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv, with grades.csv and pictures beside it.")],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    sites: Annotated[int, typer.Option(help="Number of sites.")] = 3,
    by: Annotated[
        str, typer.Option(help="device, dirichlet, size, column:NAME or file:ASSIGNMENT.csv.")
    ] = "device",
    alpha: Annotated[
        float,
        typer.Option(help="Alpha of the Dirichlet distribution over grades; smaller: sites differ more."),
    ] = 1.0,
    weights: Annotated[
        list[float] | None, typer.Option(help="Relative size of a site; repeat for each site.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of patients held out for testing.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The same seed gives the same split.")] = 0,
) -> None:
    """Split a manifest into site folders, each patient at one site."""
    from simulation.cohorts import public  # noqa: PLC0415

    made = public.split(
        manifest,
        by=by,
        sites=sites,
        alpha=alpha,
        weights=weights or (),
        held_out=held_out,
        seed=seed,
        out=out,
    )
    for warning in public.remarks(made.folder):
        typer.echo(warning)
    typer.echo(f"{len(made.sites)} sites in {made.folder}")


@cohort.command("import")
def import_cohort(
    images: Annotated[Path, typer.Option(help="Folder of pictures.")],
    labels: Annotated[Path, typer.Option(help="Table of labels, CSV or XLSX, one row per picture.")],
    out: Annotated[Path, typer.Option(help="Folder to create, with manifest.csv, grades.csv and pictures.")],
    columns: Annotated[
        list[str], typer.Option("--column", help="ours=theirs, for example image_path=file; repeatable.")
    ],
    measurements: Annotated[
        list[str] | None,
        typer.Option(
            "--measurement",
            help="Column of grades: ours or ours=theirs; repeatable. Other columns are copied to the manifest.",
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option("--grades", help="Grades that words stand for: normal=0,benign=1,malignant=2."),
    ] = None,
    patient: Annotated[
        str,
        typer.Option(help="Column of patient IDs, or each-picture: every picture is a patient of its own."),
    ] = "",
    sheet: Annotated[str, typer.Option(help="Sheet of an XLSX file; default: the first.")] = "",
    header_row: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000, help="Line of the header; default: the first line that has the columns."
        ),
    ] = 0,
) -> None:
    """Create a manifest from a folder of pictures and a table of labels."""
    from simulation.cohorts import public  # noqa: PLC0415

    named = _pairs(columns, "--column ours=theirs")
    graded = {name: theirs for name, _, theirs in (one.partition("=") for one in measurements or [])}
    how = public.Labels(
        columns=named | {name: theirs for name, theirs in graded.items() if theirs},
        measurements=tuple(graded),
        words=_word_grades(words or []),
        patient=patient,
        sheet=sheet,
        header_row=header_row,
    )
    manifest = public.import_pictures(images, labels, how, out)
    beside = [name for name in how.all_columns() if name not in (*how.graded(), *public.DESCRIPTIVE)]
    through = [name for name in beside if not name.endswith(("_path", "_roi"))]
    typer.echo(f"graded: {', '.join(how.graded())}; passed through: {', '.join(through) or 'nothing'}")
    for warning in public.remarks(out):
        typer.echo(warning)
    typer.echo(manifest)


@cohort.command("import-ram")
def import_ram(
    folder: Annotated[Path, typer.Argument(help="RAM-H1200's folder, with train, val and test.")],
    out: Annotated[Path, typer.Option(help="Folder to create, with manifest.csv, grades.csv and pictures.")],
    patient: Annotated[
        str,
        typer.Option(
            help="Regular expression whose first group is the patient in a picture's name; default: every picture "
            "is a patient of its own."
        ),
    ] = "",
) -> None:
    """Create a manifest from the annotation files of RAM-H1200: hands with the sums of their 31 scores."""
    from simulation.cohorts import public, ram_h1200  # noqa: PLC0415

    manifest = ram_h1200.import_hands(folder, out, patient=patient)
    for warning in public.remarks(out):
        typer.echo(warning)
    typer.echo(manifest)


def _pairs(given: Sequence[str], form: str) -> dict[str, str]:
    """The parts of ``ours=theirs``, each ours once."""
    pairs = dict(one.split("=", 1) for one in given if "=" in one)
    if len(pairs) != len(given):
        raise ConfigurationError(f"Expected {form}, each once, got {list(given)}")
    return pairs


def _word_grades(given: Sequence[str]) -> dict[str, int]:
    """Word -> grade, of ``--grades``."""
    form = "--grades word=number,word=number with numbers from 0 to 15"
    pairs = _pairs([part.strip() for one in given for part in one.split(",") if part.strip()], form)
    if not all(re.fullmatch(r"[0-9]|1[0-5]", number.strip()) for number in pairs.values()):
        raise ConfigurationError(f"Expected {form}, got {list(given)}")
    return {word.strip(): int(number) for word, number in pairs.items()}


def _said(made: Cohort) -> str:
    training = sum(site.trains for site in made.sites)
    other = ", ".join(site.name for site in made.sites if not site.trains)
    beside = f", and {other}, never trained on" if other else ""
    return f"{training} sites in {made.folder}{beside}"
