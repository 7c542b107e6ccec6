"""``synofed study``: do a study's runs, here or one by one in an array job, and collect their table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.errors import ConfigurationError, SubsetError
from common.text.terminal import Console
from simulation.engine import interruption
from simulation.studies import study as studies
from simulation.studies.study import Study, StudyRun


class Action(StrEnum):
    """What to do with a study."""

    ALL = "all"
    EXPAND = "expand"
    RUN = "run"
    TABLE = "table"


def study(
    config: Annotated[Path, typer.Argument(help="A study's TOML file.")],
    action: Annotated[
        Action,
        typer.Argument(
            help="all: every run, then the table; expand: list the runs; run: one run; table: the table."
        ),
    ] = Action.ALL,
    index: Annotated[int | None, typer.Option(help="Index of the run, as `expand` lists it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder; default: runs/<name>.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare systems, settings or conditions: many runs over the same patients, and their table.

    Finished runs are not repeated; interrupted ones continue.
    """
    if (action is Action.RUN) != (index is not None):
        raise ConfigurationError("Expected --index with run, and with run only")
    opened = studies.load(config, out=out)
    if action is Action.EXPAND:
        _expand(opened, as_json=as_json)
        return
    if action is not Action.TABLE:
        with interruption.said():
            studies.run_all(
                opened, _chosen(opened, index), console=Console(quiet=as_json), go_on=index is None
            )
    if action is not Action.RUN:
        _table(opened, config, as_json=as_json)


def plan(config: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Say what each row of a study costs."""
    from simulation.studies import study_cost  # noqa: PLC0415

    if overrides:
        raise ConfigurationError("Expected no --set with a study: write it into the study's set = [...]")
    opened = studies.load(config)
    with Console(stderr=True, quiet=as_json).status("measuring a step of each network"):
        card = study_cost.card(opened)
    if as_json:
        typer.echo(json.dumps(study_cost.as_json(card)))
    else:
        Console().print(study_cost.plan_table(opened, card))


def _chosen(opened: Study, index: int | None) -> Sequence[StudyRun]:
    if index is None:
        return opened.runs
    if not 0 <= index < len(opened.runs):
        raise ConfigurationError(f"Expected --index from 0 to {len(opened.runs) - 1}, got {index}")
    return [opened.runs[index]]


def _expand(opened: Study, *, as_json: bool) -> None:
    if as_json:
        runs = [{"index": i, "name": run.name, "done": opened.done(run)} for i, run in enumerate(opened.runs)]
        typer.echo(json.dumps(runs))
        return
    for i, run in enumerate(opened.runs):
        typer.echo(f"{i:4d}  {run.name}{'  done' if opened.done(run) else ''}")


def _table(opened: Study, config: Path, *, as_json: bool) -> None:
    if opened.file.reference is None:
        _beside_papers(opened, config, as_json=as_json)
    else:
        _compared(opened, config, as_json=as_json)
    missing = [run.name for run in opened.runs if not opened.done(run)]
    if missing:
        raise SubsetError(f"{len(missing)} of {len(opened.runs)} runs are missing: {', '.join(missing)}")


def _beside_papers(opened: Study, config: Path, *, as_json: bool) -> None:
    from simulation.studies import beside_papers  # noqa: PLC0415

    found = beside_papers.beside_papers(opened)
    written = beside_papers.write(opened, found, command=f"synofed study {config}")
    if as_json:
        typer.echo(json.dumps(beside_papers.as_json(found)))
        return
    for part in beside_papers.tables(found):
        Console().print(part)
    Console().print(f"Written: {', '.join(map(str, written))}")


def _compared(opened: Study, config: Path, *, as_json: bool) -> None:
    from simulation.studies import study_view  # noqa: PLC0415
    from simulation.studies.study_table import table  # noqa: PLC0415

    found = table(opened)
    written = study_view.write(opened, found, command=f"synofed study {config}")
    if as_json:
        typer.echo(json.dumps(study_view.as_json(opened, found)))
    else:
        console = Console()
        for part in study_view.tables(opened, found):
            console.print(part)
        console.print("\n".join((*study_view.power(opened, found), *study_view.unequal(opened, found))))
        console.print(f"Written: {', '.join(map(str, written))}")
