"""``synofed site outbox``: the exact replies that left, and whether log and receipt bear them out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import typer
from flwr.app import Array, ArrayRecord, ConfigRecord

from client.cli.cli_options import AsJson, Folder
from client.ledger import issued_receipts
from client.log import chain
from client.log import outbox as kept_replies
from client.log.outbox import Kept
from client.site import keys
from client.site.site import Site
from common import bfloat16, wire
from common.errors import DataError, SynofedError, VerificationError
from common.receipts import Kept as KeptReceipt
from common.text.terminal import Console, Table

outbox = typer.Typer(no_args_is_help=True)
KIND = {"float32": "<f4", "int64": "<i8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One array of a reply."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    norm: float


@outbox.command("list")
def list_(folder: Folder, as_json: AsJson = False) -> None:
    """List the replies that are kept, newest first."""
    site = Site.open(folder)
    found = [(request_id, _found(site, request_id)) for request_id in kept_replies.ids(site.folder)]
    rows = [_row(request_id, kept) for request_id, kept in found]
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
    site = Site.open(folder)
    kept = kept_replies.find(site.folder, request_id)
    if kept is None:
        raise DataError(
            f"Expected a reply to request {request_id}, none is kept: see `synofed site outbox list`"
        )
    fields = {name: dict(part) for name, part in kept.record.items() if isinstance(part, ConfigRecord)}
    tensors = _tensors(kept)
    problem = _problem(site, kept)
    if as_json:
        told = [{slot: getattr(tensor, slot) for slot in Tensor.__slots__} for tensor in tensors]
        typer.echo(
            json.dumps({**_row(request_id, kept), "fields": fields, "tensors": told, "problem": problem})
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


def _found(site: Site, request_id: str) -> Kept | None:
    try:
        return kept_replies.find(site.folder, request_id)
    except VerificationError:
        return None


def _row(request_id: str, kept: Kept | None) -> dict[str, object]:
    if kept is None:
        return {
            "id": request_id,
            "left": "",
            "campaign": "",
            "round": "",
            "group": "",
            "bytes": "",
            "log": "damaged",
        }
    return {
        "id": request_id,
        "left": datetime.fromtimestamp(kept.written, UTC).isoformat(timespec="seconds"),
        "campaign": kept.asked.campaign,
        "round": kept.asked.server_round,
        "group": kept.asked.group,
        "bytes": wire.contents(kept.record).size_bytes,
        "log": kept.receipt.sequence,
    }


def _tensors(kept: Kept) -> list[Tensor]:
    found = []
    for name, part in kept.record.items():
        if isinstance(part, ArrayRecord):
            for key, array in part.items():
                norm = float(np.linalg.norm(_values(array)))
                found.append(
                    Tensor(
                        name=f"{name}/{key}",
                        dtype=array.dtype,
                        shape=tuple(array.shape),
                        size_bytes=len(array.data),
                        norm=norm,
                    )
                )
    return found


def _values(array: Array) -> np.ndarray:
    if array.dtype == "bfloat16":
        return bfloat16.decode(np.frombuffer(array.data, dtype="<u2")).astype(np.float64)
    return np.frombuffer(array.data, dtype=KIND[array.dtype]).astype(np.float64)


def _problem(site: Site, kept: Kept) -> str:
    """What does not fit between a reply, its receipt and the log; empty if all does."""
    receipt = kept.receipt
    try:
        ((_, place),) = issued_receipts.places(
            site.folder, [KeptReceipt(received="", public_key=keys.public_key(site.folder), receipt=receipt)]
        )
        if place is None:
            return (
                f"Reply {receipt.sequence} of its campaign is of a part of the log that was lost and settled"
            )
        entry = next(
            (e for e in chain.entries(site.folder / chain.NAME) if e.sequence == place.sequence), None
        )
    except SynofedError as error:
        return str(error)
    if entry is None:
        return f"Expected entry {place.sequence} in the log, it ends before"
    if entry.hash != place.log_head or entry.content.get("reply_hash") != receipt.reply_hash:
        return f"Entry {place.sequence} of the log is not that of this reply"
    return ""
