"""The command ``synofed readers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.errors import DataError, refusal
from common.machine import atomic
from common.sections.section import LAST_SEED
from common.text import csv_text
from common.text.terminal import Console
from simulation.readers import readers_files as files
from simulation.readers import readers_view
from simulation.readers.readers import measure
from simulation.readers.readings import read

READINGS = "simulated_readings.csv"


def readers(
    table: Annotated[
        Path | None,
        typer.Argument(metavar="CSV", help="Readings, one row each: exam_id, reader, condition, grades."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="CSV with exam_id and truth_<measurement>, if the readings lack them.")
    ] = None,
    simulate: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Simulate readers of a run's phantoms instead; needs --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all figures as CSV, and charts.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LAST_SEED, help="Seed of bootstrap, permutations and simulated readers.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Score a reader study: each reader and their average, without and with assistance."""
    if simulate is not None and out is not None and table is None and truth is None:
        from simulation.readers import simulated_readers  # noqa: PLC0415  pandas, and phantoms

        table = out / READINGS
        drawn = simulated_readers.readings(simulate, seed=seed)
        _write(table, csv_text.of_frame(drawn))
    elif table is None or simulate is not None:
        raise typer.BadParameter(
            "Expected a CSV of readings, or --simulate RUN with --out DIR and nothing else"
        )
    readings = read(table, truth=truth)
    study = measure(readings, seed=seed)
    if out is not None:
        from simulation.readers import readers_chart  # noqa: PLC0415  matplotlib

        _write(out / "reader_study.csv", files.csv(readings, study))
        _write(out / "reader_findings.csv", files.findings_csv(readings, study))
        for chart in (readers_chart.figure(readings, study), readers_chart.gain(readings, study)):
            if chart is not None:
                _write(out / f"{chart.name}.svg", chart.svg)
                _write(out / f"{chart.name}.csv", chart.csv)
    if as_json:
        typer.echo(json.dumps(files.content(readings, study)))
        return
    console = Console()
    for part in readers_view.tables(readings, study):
        console.print(part, "")
    console.print("\n".join(readers_view.lines(readings, study)))
    typer.echo("Every figure, with intervals, of every reader: --json or --out DIR" if out is None else out)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, text.encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {refusal(error)}") from None
