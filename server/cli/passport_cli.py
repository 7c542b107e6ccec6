"""The command ``synofed passport``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def passport(
    run: Annotated[
        Path, typer.Argument(help="A run's folder; a campaign's is runs/CAMPAIGN of the centre's home.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Write an ensemble's passport: what it is, what it is for, how well it grades; signed by the centre."""
    from server.report import passport as made  # noqa: PLC0415

    statement, page = made.write(run)
    document = json.loads(statement.read_bytes())
    items = [*document["passport"]["model_card"], *document["passport"]["checklist"]]
    still_open = [one.get("section") or one["topic"] for one in items if one["text"] is None]
    if as_json:
        facts = {"passport": str(statement), "page": str(page), "signed": bool(document["signature"])}
        typer.echo(json.dumps({**facts, "open": still_open}))
        return
    signed = (
        "signed with the centre's key" if document["signature"] else "not signed: a simulation has no centre"
    )
    typer.echo(f"{page}\n{statement}\n{signed}")
    typer.echo(f"Items that people have to fill in: {', '.join(still_open)}")
