"""``synofed site outbox``: the exact replies that left, and whether log and receipt bear them out."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.site.site import Site
from common.errors import VerificationError
from common.text.terminal import Console, Table

outbox = typer.Typer(no_args_is_help=True)


@outbox.command("list")
def list_(folder: Folder, as_json: AsJson = False) -> None:
    """List the replies that are kept, newest first."""
    from client.ledger import sent_replies  # noqa: PLC0415

    rows = sent_replies.rows(Site.open(folder))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("ID", "left", "campaign", "round", "group", "bytes", "log", box=None)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table if rows else "No reply is kept.")


@outbox.command("show")
def show(
    folder: Folder,
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The request's ID.")],
    as_json: AsJson = False,
) -> None:
    """Show one reply: its fields, its tensors with their norms, and whether it matches log and receipt."""
    from client.ledger import sent_replies  # noqa: PLC0415

    reply = sent_replies.reply(Site.open(folder), request_id)
    if as_json:
        typer.echo(json.dumps(reply.as_json()))
    else:
        for name, part in reply.fields.items():
            for key, value in part.items():
                typer.echo(f"{name}.{key}: {json.dumps(value, default=str)}")
        table = Table("tensor", "type", "shape", "bytes", "norm", box=None)
        for t in reply.tensors:
            table.add_row(t.name, t.dtype, str(t.shape), str(t.size_bytes), f"{t.norm:.6g}")
        Console().print(table)
        typer.echo(
            reply.problem or f"Reply {reply.sequence} of its campaign in the log and the receipt bear it out."
        )
    if reply.problem:
        raise VerificationError(reply.problem)
