"""``synofed site outbox``: the exact replies that left, and whether log and receipt bear them out."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.site.site import Site
from common.errors import DataError, VerificationError
from common.text.terminal import Console, Table

outbox = typer.Typer(no_args_is_help=True)


@outbox.command("list")
def list_(folder: Folder, as_json: AsJson = False) -> None:
    """List the replies that are kept, newest first."""
    from client.cli import outbox_view  # noqa: PLC0415
    from client.log import outbox as kept_replies  # noqa: PLC0415

    site = Site.open(folder)
    found = [
        (request_id, outbox_view.found(site, request_id)) for request_id in kept_replies.ids(site.folder)
    ]
    rows = [outbox_view.row(request_id, kept) for request_id, kept in found]
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
    from flwr.app import ConfigRecord  # noqa: PLC0415

    from client.cli import outbox_view  # noqa: PLC0415
    from client.log import outbox as kept_replies  # noqa: PLC0415

    site = Site.open(folder)
    kept = kept_replies.find(site.folder, request_id)
    if kept is None:
        raise DataError(
            f"Expected a reply to request {request_id}, none is kept: see `synofed site outbox list`"
        )
    fields = {name: dict(part) for name, part in kept.record.items() if isinstance(part, ConfigRecord)}
    tensors = outbox_view.tensors(kept)
    problem = outbox_view.problem(site, kept)
    if as_json:
        told = [{slot: getattr(tensor, slot) for slot in outbox_view.Tensor.__slots__} for tensor in tensors]
        typer.echo(
            json.dumps(
                {**outbox_view.row(request_id, kept), "fields": fields, "tensors": told, "problem": problem}
            )
        )
    else:
        for name, part in fields.items():
            for key, value in part.items():
                typer.echo(f"{name}.{key}: {json.dumps(value, default=str)}")
        table = Table("tensor", "type", "shape", "bytes", "norm", box=None)
        for t in tensors:
            table.add_row(t.name, t.dtype, str(t.shape), str(t.size_bytes), f"{t.norm:.6g}")
        Console().print(table)
        typer.echo(
            problem
            or f"Reply {kept.receipt.sequence} of its campaign in the log and the receipt bear it out."
        )
    if problem:
        raise VerificationError(problem)
