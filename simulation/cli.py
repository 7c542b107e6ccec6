"""The commands of a researcher: simulate, cohorts, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from common import settings as configuration
from common.errors import ConfigurationError, SubsetError
from common.settings import PhantomSettings
from server import report as reports
from server.campaign import Status
from server.report import tables
from server.report.content import read as read_content
from simulation import cohort as cohorts
from simulation import public
from simulation.progress import Display
from simulation.simulate import simulate as run_simulation

app = typer.Typer(help="Whole multi-centre studies on one machine.", no_args_is_help=True)
cohort = typer.Typer(help="Phantom or public data laid out as site folders.", no_args_is_help=True)


@app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, repeatable.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="in-process or ray.")] = None,
    devices: Annotated[str | None, typer.Option(help="One worker each: 0,1,... or cpu,cpu.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--cohort", help="Folder of site folders, in place of [cohort].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json and nothing else.")] = False,
) -> None:
    """Run a whole study: sites, federated rounds, evaluation, report."""
    given = list(overrides or [])
    if engine is not None:
        given.append(f'compute.engine="{engine}"')
    if devices is not None:
        given.append(f"compute.devices={json.dumps(devices.split(','))}")
    if folder is not None:
        given.append(f"cohort={{folder={json.dumps(str(folder))}}}")
    settings = configuration.load(config, overrides=given)
    console = Console(quiet=as_json)
    with Display(console) as display:
        path, status = run_simulation(
            settings, out=out or Path("runs") / settings.name, resume=resume, display=display
        )
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(metrics))
    else:
        console.print(_table(path))
        console.print(f"{status}   no differential privacy\nReport: {path / 'report.html'}", highlight=False)
    if status is Status.COMPLETE_SUBSET:
        missing = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["missing"]
        raise SubsetError(f"The run is complete, but some rounds went without {', '.join(missing)}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write a run's report anew."""
    typer.echo(reports.write(run))


@cohort.command("make")
def make_cohort(
    out: Annotated[Path, typer.Option(help="Folder to be made.")],
    sites: Annotated[int, typer.Option(help="Sites that train.")] = 5,
    patients: Annotated[int, typer.Option(help="Patients a site.")] = 40,
    exams: Annotated[int, typer.Option(help="Joint exams a patient.")] = 8,
    image_px: Annotated[int, typer.Option(help="Side of the region of interest.")] = 224,
    unseen: Annotated[bool, typer.Option(help="Add a site whose device is never trained on.")] = True,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cohort.")] = 0,
) -> None:
    """Make phantom patients, laid out as site folders."""
    try:
        settings = PhantomSettings(
            sites=sites, patients=patients, exams_per_patient=exams, image_px=image_px, unseen_device=unseen
        )
    except ValidationError as error:
        raise ConfigurationError(configuration.describe(error, source="The cohort")) from None
    if out.exists():
        raise ConfigurationError(
            f"Expected a folder that is not there yet, {out} is: remove it or name another"
        )
    with Display(Console()) as display, display.step("phantom cohort") as bar:
        made = cohorts.make(settings, seed=seed, out=out, progress=bar)
    typer.echo(f"{len(made.sites)} sites in {made.folder}")


@cohort.command("show")
def show_cohort(
    folder: Annotated[Path, typer.Argument(help="A cohort's folder.")],
    out: Annotated[Path, typer.Option(help="PNG to be written.")] = Path("cohort.png"),
    seed: Annotated[int, typer.Option(help="Chooses the examples.")] = 0,
) -> None:
    """Draw a contact sheet: grades by devices."""
    cohorts.show(folder, out, seed=seed)
    typer.echo(out)


@cohort.command("split")
def split_cohort(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv, with grades.csv and pictures beside it.")],
    out: Annotated[Path, typer.Option(help="Folder to be made.")],
    sites: Annotated[int, typer.Option(help="Number of sites.")] = 3,
    by: Annotated[
        str, typer.Option(help="device, dirichlet, size, column:NAME or file:ASSIGNMENT.csv.")
    ] = "device",
    alpha: Annotated[float, typer.Option(help="Of the Dirichlet distribution over grades.")] = 1.0,
    weights: Annotated[list[float] | None, typer.Option(help="Relative sizes of the sites.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of patients for testing.")] = 0.3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same split.")] = 0,
) -> None:
    """Turn a manifest into site folders; patients are never split."""
    made = public.split(
        manifest,
        by=by,
        sites=sites,
        alpha=alpha,
        weights=tuple(weights or ()),
        held_out=held_out,
        seed=seed,
        out=out,
    )
    typer.echo(f"{len(made.sites)} sites in {made.folder}")


@cohort.command("import")
def import_cohort(
    images: Annotated[Path, typer.Option(help="Folder of pictures.")],
    labels: Annotated[Path, typer.Option(help="CSV with a row a picture.")],
    out: Annotated[Path, typer.Option(help="Folder to be made: manifest.csv, grades.csv, pictures.")],
    columns: Annotated[
        list[str], typer.Option("--column", help="ours=theirs, for example image_path=file, steatosis=label.")
    ],
) -> None:
    """Make a manifest from a folder of pictures and a table of labels."""
    pairs = dict(column.split("=", 1) for column in columns if "=" in column)
    if len(pairs) != len(columns):
        raise ConfigurationError(f"Expected --column ours=theirs, got {columns}")
    manifest = public.import_pictures(images, labels, pairs, out)
    typer.echo(manifest)


def _table(run: Path) -> Table:
    """The primary measurement of every system, then of the federation at every site."""
    content = read_content(run)
    name = content.primary
    table = Table(title=f"{name}: held-out exams, 95 % intervals by bootstrap over patients")
    table.add_column("trained how, scored where", no_wrap=True)
    for title in ("accuracy %", "linear kappa"):
        table.add_column(title, justify="right", no_wrap=True)
    for rows in (tables.comparison, tables.places):
        accuracies, kappas = (rows(content, name, metric) for metric in ("accuracy", "kappa_linear"))
        for accuracy, kappa in zip(accuracies, kappas, strict=True):
            table.add_row(accuracy.label, _cell(accuracy, 100, 1), _cell(kappa, 1, 2))
        table.add_section()
    return table


def _cell(estimate: tables.Interval, scale: float, digits: int) -> str:
    numbers = (estimate.value, estimate.low, estimate.high)
    if any(number is None for number in numbers):
        return tables.NOTHING
    value, low, high = (f"{(number or 0.0) * scale:.{digits}f}" for number in numbers)
    return f"{value} ({low} to {high})"
