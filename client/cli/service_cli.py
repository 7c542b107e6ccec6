"""``synofed site service``: the site starts with its machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.connection import service
from client.connection.service import Installed


def command(
    folder: Folder,
    systemd: Annotated[bool, typer.Option("--systemd", help="Start it with a systemd user unit.")] = False,
    cron: Annotated[
        bool, typer.Option("--cron", help="Start it with cron, where there is no systemd.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Stop starting the site with this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start the site whenever this machine boots, as this user. Only enabling lingering may need an administrator."""
    if systemd + cron + remove != 1:
        raise typer.BadParameter("Expected one of --systemd, --cron and --remove.")
    if remove:
        removed = service.remove(folder)
        typer.echo(json.dumps({"removed": removed}) if as_json else _removed(removed))
        return
    done = service.install(folder, "systemd" if systemd else "cron")
    typer.echo(json.dumps(asdict(done)) if as_json else described(done))


def chosen(*, systemd: bool, cron: bool) -> service.Kind | None:
    """By what a site is to start at boot; ``None``: it is not.

    Raises:
        typer.BadParameter: for both.
    """
    if systemd and cron:
        raise typer.BadParameter("Expected one of --systemd and --cron.")
    return "systemd" if systemd else "cron" if cron else None


def described(done: Installed) -> str:
    """What was set up and what is left to do, for people."""
    state = "runs now and " if done.running else ""
    lines = [f"{done.site} {state}starts with this machine: {done.place}"]
    return "\n".join(lines + [f"To do: {one}" for one in done.todo])


def _removed(removed: tuple[str, ...]) -> str:
    if not removed:
        return "Nothing was set up for this site."
    return f"Removed from {' and '.join(removed)}. A site that cron started runs on until its process ends."
