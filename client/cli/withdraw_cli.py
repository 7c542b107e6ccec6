"""``synofed data withdraw``: a patient withdraws."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.site.site import Site


def withdraw(
    folder: Folder,
    patient: Annotated[
        str, typer.Argument(metavar="PATIENT", help="The patient's identifier, as in the manifest.")
    ],
    as_json: AsJson = False,
) -> None:
    """Withdraw a patient: never train on them again, delete their data here, sign a statement. Cannot be undone."""
    from client.withdrawal import withdrawal  # noqa: PLC0415  accounting: seconds
    from client.withdrawal.withdrawal_statement import text  # noqa: PLC0415

    done = withdrawal.withdraw(Site.open(folder), patient)
    if as_json:
        typer.echo(json.dumps({**done.statement.model_dump(mode="json"), "left": done.left}))
        return
    typer.echo(text(done.statement))
    typer.echo("\n".join(done.advice))
