"""The commands of a researcher: simulate, cohorts, reports."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from common import settings as configuration
from common.cohort_settings import PhantomSettings, PublicSettings
from common.ensemble.committee import Committee, Scores
from common.ensemble.heatmaps import HeatmapSettings
from common.errors import ConfigurationError, DataError, SubsetError, refusal
from common.exam import ImageRef, Roi
from common.machine import atomic
from common.privacy.planning import notice
from common.section import LAST_SEED
from common.text import csv_text
from common.text.notices import RESEARCH_ONLY
from common.text.terminal import Console
from server import report as reports
from server.campaign.campaign import Status
from simulation.cli import console as shown
from simulation.cli import result_view, study_cli
from simulation.cohorts import cohort as cohorts
from simulation.cohorts import public
from simulation.engine import interruption
from simulation.engine.progress import Display
from simulation.evaluation import heatmaps
from simulation.evaluation import score as scoring
from simulation.runs import cost_card
from simulation.runs.simulate import simulate as run_simulation
from simulation.studies import study as studies

cohort = typer.Typer(no_args_is_help=True)


def simulate(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="in-process or ray; default: the configuration's.")
    ] = None,
    devices: Annotated[str | None, typer.Option(help="Devices, one worker each: 0,1,... or cpu,cpu.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--cohort", help="Folder of site folders, instead of the configuration's [cohort]."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
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
    with interruption.said(), Display(console) as display:
        path, status = run_simulation(
            settings, out=out or Path("runs") / settings.name, resume=resume, display=display
        )
    if as_json:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps(metrics))
    else:
        result_view.show(console, path)
        console.print(f"{status}   {notice.label(settings)}\nReport: {path / 'report.html'}")
    if status is Status.COMPLETE_SUBSET:
        missing = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["missing"]
        raise SubsetError(f"The run is complete, but some rounds went without {', '.join(missing)}")


def plan(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show what a run or study will cost before it starts: bytes, disk, memory, hours, epsilon."""
    if studies.is_study(config):
        study_cli.plan(config, overrides or [], as_json=as_json)
        return
    settings = configuration.load(config, overrides=overrides or [])
    with Console(stderr=True, quiet=as_json).status("measuring a step of each network"):
        card = cost_card.plan(settings)
    if as_json:
        typer.echo(json.dumps(asdict(card)))
    else:
        Console().print(shown.plan_table(card))


def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Rewrite a run's report."""
    typer.echo(reports.write(run))


def score(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    gs: Annotated[Path | None, typer.Option(help="Short for --image gs=PATH.")] = None,
    doppler: Annotated[Path | None, typer.Option(help="Short for --image doppler=PATH.")] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--image", help="name=path, one for each image that the run's networks read."),
    ] = None,
    rois: Annotated[
        list[str] | None,
        typer.Option("--roi", help='name="x y width height" in pixels; default: the whole picture.'),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV with exam_id and <image>_path, optionally <image>_roi.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV to write, with --manifest.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or a GPU's number; default: the run's setting.")
    ] = None,
    heatmap: Annotated[
        Path | None, typer.Option(help="Folder for heatmaps of where the networks looked.")
    ] = None,
    heatmap_steps: Annotated[
        int, typer.Option(help="Steps of the integral from a black picture to this one.")
    ] = 50,
    heatmap_copies: Annotated[int, typer.Option(help="Number of noisy copies to average over.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Score one exam's pictures, or a manifest's, with a finished run's ensemble."""
    given = [*(images or []), *(f"{n}={p}" for n, p in (("gs", gs), ("doppler", doppler)) if p is not None)]
    if (manifest is None) == (not given) or (manifest is None) != (out is None):
        raise typer.BadParameter("Expected pictures (--gs, --doppler, --image), or --manifest with --out")
    committee = scoring.open_committee(run)
    committee = committee.on(scoring.choose_device(committee.settings, device)).fastest()
    if manifest is not None and out is not None:
        _score_manifest(committee, manifest, out, as_json=as_json)
        return
    pictures = _pictures(given, rois or [])
    scores = scoring.score_exam(committee, pictures)
    written = _heatmaps(committee, pictures, scores, heatmap, heatmap_steps, heatmap_copies, as_json=as_json)
    if as_json:
        answer = shown.score_json(scores, committee.settings)
        typer.echo(json.dumps(answer | {"heatmaps": [str(path) for path in written]}))
        return
    console = Console()
    console.print(shown.score_table(scores))
    whole = [name for name, picture in pictures.items() if picture.roi is None]
    lines = [f"Whole picture taken as region of interest: {', '.join(whole)}"] if whole else []
    lines += [f"Look at {guess}"] if (guess := scoring.guesses(committee, pictures)) else []
    lines += shown.score_lines(scores)
    lines += [f"Heatmaps: {', '.join(map(str, written))}"] if written else []
    lines += [RESEARCH_ONLY, notice.sentence(committee.settings)]
    console.print("\n".join(lines))


def _heatmaps(
    committee: Committee,
    pictures: dict[str, ImageRef],
    scores: Scores,
    folder: Path | None,
    steps: int,
    copies: int,
    *,
    as_json: bool,
) -> list[Path]:
    if folder is None:
        return []
    try:
        settings = HeatmapSettings(steps=steps, noisy_copies=copies)
    except ValidationError as error:
        raise ConfigurationError(configuration.describe(error, source="The heatmap")) from None
    with Display(Console(stderr=True, quiet=as_json)) as display:
        return heatmaps.write(committee, pictures, scores, folder=folder, settings=settings, display=display)


def _score_manifest(committee: Committee, manifest: Path, out: Path, *, as_json: bool) -> None:
    console = Console(stderr=True, quiet=as_json)
    with Display(console) as display, display.step("scoring") as bar:
        table = scoring.score_manifest(committee, manifest, progress=bar)
    try:
        atomic.write(out, csv_text.of_frame(table).encode())
    except OSError as error:
        raise DataError(f"The scores cannot be written to {out}: {refusal(error)}") from None
    quarantined = int((table["reason"] != "").sum())
    notices = [RESEARCH_ONLY, notice.sentence(committee.settings)]
    counts = {"scored": len(table) - quarantined, "quarantined": quarantined, "out": str(out)}
    if as_json:
        typer.echo(json.dumps(counts | {"notice": notices}))
        return
    for exam_id, reason in table.loc[table["reason"] != "", ["exam_id", "reason"]].itertuples(index=False):
        console.print(f"quarantined {exam_id}: {reason}")
    for exam_id, note in table.loc[table["note"].notna(), ["exam_id", "note"]].itertuples(index=False):
        console.print(f"look at {exam_id}: {note}")
    typer.echo(f"{counts['scored']} exams scored, {quarantined} quarantined: {out}")
    typer.echo("\n".join(notices))


def _pictures(images: list[str], rois: list[str]) -> dict[str, ImageRef]:
    paths, boxes = _named(images, "--image name=path"), _named(rois, '--roi name="x y width height"')
    stray = sorted(set(boxes) - set(paths))
    if stray:
        raise ConfigurationError(f"Expected --roi for one of {', '.join(paths)}, got {', '.join(stray)}")
    try:
        parsed = {name: Roi.parse(text) for name, text in boxes.items()}
    except ValueError as error:
        raise ConfigurationError(f"Expected --roi 'x y width height' in pixels: {error}") from None
    return {name: ImageRef(path=path, roi=parsed.get(name)) for name, path in paths.items()}


def _named(pairs: list[str], form: str) -> dict[str, str]:
    """Name -> value of ``name=value`` options."""
    split = [pair.partition("=") for pair in pairs]
    named = {name.strip(): value for name, _, value in split}
    if len(named) < len(pairs) or not all(named) or not all(named.values()):
        raise ConfigurationError(f"Expected {form}, each name once, got {pairs}")
    return named


@cohort.command("make")
def make_cohort(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    sites: Annotated[int, typer.Option(help="Number of sites that train.")] = 5,
    patients: Annotated[int, typer.Option(help="Patients per site.")] = 40,
    exams: Annotated[int, typer.Option(help="Joint exams per patient.")] = 8,
    image_px: Annotated[int, typer.Option(help="Side of the region of interest.")] = 224,
    unseen: Annotated[bool, typer.Option(help="Add a site whose device is never trained on.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The same seed gives the same cohort.")] = 0,
) -> None:
    """Create phantom patients, laid out as site folders."""
    try:
        settings = PhantomSettings(
            sites=sites, patients=patients, exams_per_patient=exams, image_px=image_px, unseen_device=unseen
        )
    except ValidationError as error:
        raise ConfigurationError(configuration.describe(error, source="The cohort")) from None
    if out.exists():
        raise ConfigurationError(f"Expected a new folder, {out} exists already: remove it or choose another")
    with Display(Console()) as display, display.step("phantom cohort") as bar:
        made = cohorts.make(settings, seed=seed, out=out, progress=bar)
    typer.echo(f"{len(made.sites)} sites in {made.folder}")


@cohort.command("show")
def show_cohort(
    folder: Annotated[Path, typer.Argument(help="A cohort's folder.")],
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("cohort.png"),
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed that chooses the examples.")] = 0,
) -> None:
    """Draw a contact sheet of grades by device."""
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
    try:
        asked = PublicSettings(
            images=manifest.parent,
            labels=manifest,
            columns={},
            by=by,
            sites=sites,
            alpha=alpha,
            weights=tuple(weights or ()),
            held_out=held_out,
        )
    except ValidationError as error:
        raise ConfigurationError(configuration.describe(error, source="The split")) from None
    made = public.split(
        manifest,
        by=asked.by,
        sites=asked.sites,
        alpha=asked.alpha,
        weights=asked.weights,
        held_out=asked.held_out,
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
