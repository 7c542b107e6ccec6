"""``synofed site log``: the site's audit log."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder, KeptReceipts
from client.ledger import issued_receipts
from client.ledger.issued_receipts import Checked
from client.log import audit, chain
from client.officer import logged
from client.site.site import Site

log = typer.Typer(no_args_is_help=True)


@log.command("verify")
def verify(
    folder: Folder,
    kept: KeptReceipts = None,
    as_json: AsJson = False,
) -> None:
    """Check that no entry was edited, dropped or moved and, with receipts, that the end was not cut off."""
    name = Site.open(folder).name
    decided = logged.check(chain.entries(folder / chain.NAME), site=name)
    found = issued_receipts.check(folder, [one for path in kept or [] for one in issued_receipts.read(path)])
    if as_json:
        typer.echo(json.dumps({"site": name, **asdict(found), "decisions": asdict(decided)}))
        return
    typer.echo(_described(name, found, with_receipts=bool(kept)))
    if decided.signed:
        also = f"; {decided.unsigned} others were made by commands, unsigned" if decided.unsigned else ""
        typer.echo(
            f"{decided.signed} decisions about campaigns carry the officer's signature, and it fits{also}."
        )


@log.command("show")
def show(
    folder: Folder,
    last: Annotated[
        int, typer.Option("--last", min=1, help="Number of entries to print, counted from the end.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Print the last entries, after checking the whole log."""
    site = Site.open(folder)
    entries = audit.recent(site.folder, last)
    if as_json:
        typer.echo(json.dumps([dict(entry.content) for entry in entries]))
        return
    for entry in entries:
        typer.echo(audit.line(entry))


def _described(name: str, found: Checked, *, with_receipts: bool) -> str:
    head = found.head
    lines = [f"{name}: {head.sequence} entries, {found.replies} replies that left. Head {head.hash}"]
    if head.torn_bytes:
        lines.append(
            f"After them stand {head.torn_bytes} bytes of an entry that a crash cut short; the next entry removes "
            f"them and says so. No reply left for it."
        )
    if with_receipts:
        lines.append(f"All {found.receipts} receipts of the centre are borne out by the log.")
    else:
        lines.append(
            "A tail that was cut off whole shows only against the centre's receipts: --receipts FILE"
        )
    return "\n".join(lines)
