"""``synofed site status``: whether the site is connected, and what waits for its people."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from client.cli.cli_options import AsJson, Folder
from client.connection import site_status
from client.site.site import Site


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show whether the site is connected, and which campaigns await a decision."""
    found = site_status.find(Site.open(folder))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    since = f" since {found.since}" if found.since else ""
    typer.echo(f"{found.site}: {found.connection}{since}{f': {found.reason}' if found.reason else ''}")
    for plan_hash, state in found.campaigns.items():
        waits = f": synofed site campaigns show {folder} {plan_hash}" if state == "waiting" else ""
        typer.echo(f"  campaign {plan_hash} is {state}{waits}")
    typer.echo(f"  last in the log: {found.last} {found.last_time}" if found.last else "  the log is empty")
