"""``synofed site check``: find what would go wrong before a campaign begins."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.cli_options import AsJson, Folder, bar
from client.site.site import Site
from common.settings import load
from common.text.terminal import Console, Table

if TYPE_CHECKING:
    from client.check.dry_round import Rehearsal


def check(
    folder: Folder,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan", help="Run configuration to check against; default: the newest campaign's plan."
        ),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse/--no-rehearse", help="Train a few steps on a few exams. Nothing is sent."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check data, machine, policy, connection and clock; rehearse a round. Exits with the worst problem's code."""
    from client.check import run  # noqa: PLC0415  what reads pictures

    site = Site.open(folder)
    given = load(plan) if plan is not None else None
    with bar("exams", quiet=as_json) as progress:
        checked = run.check(site, given=given, rehearse=rehearse, now=datetime.now(UTC), progress=progress)
    written = run.write(checked, site)
    report, rehearsal = checked.report, checked.rehearsal
    if as_json:
        dry = rehearsal.document() if rehearsal is not None else None
        typer.echo(
            json.dumps({**report.document(), "dry_round": dry, "files": [str(path) for path in written]})
        )
    else:
        console = Console()
        console.print(report.table())
        if rehearsal is not None:
            console.print(_sent(rehearsal))
        kept = " and ".join(map(str, written))
        console.print(f"Rows stay here: {kept}", soft_wrap=True)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _sent(rehearsal: Rehearsal) -> Table:
    """All that a reply would hold, of the first network of each architecture."""
    table = Table(title=f"What would be sent of stage {rehearsal.stage}, for each network")
    for name in ("network", "part", "name", "values", "of type", "bytes"):
        table.add_column(name, justify="right" if name in ("values", "bytes") else "left")
    for shape in rehearsal.shapes:
        alike = f"{shape.network} and {shape.networks - 1} alike" if shape.networks > 1 else shape.network
        for sent in shape.sent:
            size = " x ".join(map(str, sent.shape))
            made_of = f" ({len(shape.tensors)} tensors)" if sent.part == "updates" else ""
            name = "" if sent.name == shape.network else sent.name
            table.add_row(alike, sent.part + made_of, name, size, sent.dtype, str(sent.size_bytes))
            alike = ""
        table.add_section()
    return table
