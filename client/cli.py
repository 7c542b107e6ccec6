"""The commands of a hospital site."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client import init_cli, join_cli, receipts, service_cli
from client.receipts import Checked
from client.site import Site

site = typer.Typer(help="A hospital's own site.", no_args_is_help=True)
log = typer.Typer(help="The site's audit log of all that left it.", no_args_is_help=True)
site.add_typer(log, name="log")
site.command("init")(init_cli.init)
site.command("join")(join_cli.join)
site.command("service")(service_cli.command)


@site.callback()
def _site() -> None:
    """What a site's commands write is for its own account alone."""
    os.umask(0o077)


@log.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="SITE_FOLDER", help="The site's folder.")],
    kept: Annotated[
        list[Path] | None,
        typer.Option("--receipts", help="The centre's receipts/SITE.jsonl of a run; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Check that no entry was edited, dropped or moved; with receipts also that none was cut off the end."""
    name = Site.open(folder).name
    found = receipts.check(folder, [one for path in kept or [] for one in receipts.read(path)])
    if as_json:
        typer.echo(json.dumps({"site": name, **asdict(found)}))
        return
    typer.echo(_described(name, found, with_receipts=bool(kept)))


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
