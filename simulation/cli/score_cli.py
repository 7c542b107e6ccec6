"""The command ``synofed score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ConfigurationError, DataError, refusal
from common.exam import ImageRef
from common.machine import atomic
from common.privacy.planning import notice
from common.sections.section import section
from common.text import csv_text
from common.text.notices import RESEARCH_ONLY
from common.text.terminal import Console
from simulation.engine.progress import Display

if TYPE_CHECKING:
    from common.ensemble.committee import Committee, Scores


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
    from client.ensemble import scoring  # noqa: PLC0415
    from server.report import inside  # noqa: PLC0415
    from simulation.cli import console as shown  # noqa: PLC0415
    from simulation.runs import answers  # noqa: PLC0415

    given = [*(images or []), *(f"{n}={p}" for n, p in (("gs", gs), ("doppler", doppler)) if p is not None)]
    if (manifest is None) == (not given) or (manifest is None) != (out is None):
        raise typer.BadParameter("Expected pictures (--gs, --doppler, --image), or --manifest with --out")
    committee = answers.open_on(run, device)
    if manifest is not None and out is not None:
        _score_manifest(committee, manifest, out, as_json=as_json)
        return
    boxes = _named(rois or [], '--roi name="x y width height"')
    pictures = answers.pictures(_named(given, "--image name=path"), boxes)
    scores, thresholds = scoring.score_exam(committee, pictures), inside.thresholds(run)
    written = _heatmaps(committee, pictures, scores, heatmap, heatmap_steps, heatmap_copies, as_json=as_json)
    if as_json:
        answer = scoring.answer(scores, committee.settings, thresholds)
        typer.echo(json.dumps(answer | {"heatmaps": [str(path) for path in written]}))
        return
    console = Console()
    console.print(shown.score_table(scores, thresholds))
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
    from common.ensemble.heatmaps import HeatmapSettings  # noqa: PLC0415
    from simulation.evaluation import heatmaps  # noqa: PLC0415

    settings = section(HeatmapSettings, {"steps": steps, "noisy_copies": copies}, source="The heatmap")
    with Display(Console(stderr=True, quiet=as_json)) as display:
        return heatmaps.write(committee, pictures, scores, folder=folder, settings=settings, display=display)


def _score_manifest(committee: Committee, manifest: Path, out: Path, *, as_json: bool) -> None:
    from simulation.evaluation import score as scoring  # noqa: PLC0415

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


def _named(pairs: list[str], form: str) -> dict[str, str]:
    """Name -> value of ``name=value`` options."""
    split = [pair.partition("=") for pair in pairs]
    named = {name.strip(): value for name, _, value in split}
    if len(named) < len(pairs) or not all(named) or not all(named.values()):
        raise ConfigurationError(f"Expected {form}, each name once, got {pairs}")
    return named
