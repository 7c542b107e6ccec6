"""The command that runs the centre's service."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

from server.cli import run_view
from server.cli.federation_cli import DEFAULT_HOME, HomeOption, JsonOption
from server.federation.home import Federation, Home
from server.federation.provision import validity
from server.federation.registry import Registry
from server.runs.runs import all_of, now
from server.service import presence

INSECURE = (
    "WARNING: --insecure: the proxy speaks plain HTTP. Whoever sits between a hospital and it reads and changes all "
    "that passes, and sites refuse to connect: use it behind something that adds TLS on this machine, or for trials."
)


def up(
    home: HomeOption = DEFAULT_HOME,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve without TLS, for trials on one machine only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the centre until SIGTERM or Ctrl-C: the proxy, the SuperLink and all submitted campaigns."""
    from server.service.up import Centre  # noqa: PLC0415  flwr

    paths = Home(home)
    federation = paths.federation()
    centre = Centre(paths, insecure, _say_json if as_json else _say)
    if insecure:
        sys.stderr.write(INSECURE + "\n")
    warnings = () if insecure else validity(home, now=datetime.now(UTC)).warnings
    if as_json:
        typer.echo(json.dumps(_facts(paths, federation, warnings, insecure=insecure)))
    else:
        typer.echo(_described(paths, federation, warnings))
    sys.stdout.flush()
    centre.run()


def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show whether the centre is up, which sites are connected, and how its campaigns are doing."""
    paths = Home(home)
    federation = paths.federation()
    process, seen, runs = presence.up_by(paths), presence.read(paths), all_of(paths)
    sites = Registry.open(paths.path).sites()
    if as_json:
        facts = {
            "federation": federation.name,
            "address": federation.address,
            "process": process,
            "sites": {
                site.name: {"status": site.status, **seen[site.name].model_dump(mode="json")}
                if site.name in seen
                else {"status": site.status, "online": False, "last_seen": ""}
                for site in sites
            },
            "campaigns": {run.name: run.status().state for run in runs},
        }
        typer.echo(json.dumps(facts))
        return
    running = f"up, process {process}" if process is not None else "not up: synofed federation up"
    typer.echo(f"{federation.name} at {federation.address} is {running}")
    for site in sites:
        typer.echo(f"  {site.name}: {site.status}, {run_view.last_seen(seen.get(site.name))}")
    for run in runs:
        typer.echo(f"  {run_view.line(run)}")


def _facts(paths: Home, federation: Federation, warnings: tuple[str, ...], *, insecure: bool) -> object:
    return {
        "federation": federation.name,
        "address": federation.address,
        "listens": f"{federation.proxy.host}:{federation.proxy.port}",
        "tls": not insecure,
        "sites": {site.name: site.status for site in Registry.open(paths.path).sites()},
        "logs": str(paths.superlink.resolve()),
        "warnings": list(warnings),
    }


def _described(paths: Home, federation: Federation, warnings: tuple[str, ...]) -> str:
    sites = Registry.open(paths.path).sites()
    known = (
        ", ".join(f"{site.name} ({site.status})" for site in sites) or "none: synofed federation invite SITE"
    )
    return "\n".join(
        [
            f"{federation.name}: hospitals connect to {federation.address}",
            f"  the one open port: {federation.proxy.host}:{federation.proxy.port}; GET /health says how it is",
            f"  sites: {known}",
            f"  logs: {paths.superlink.resolve()}; campaigns: {paths.runs.resolve()}",
            *(f"  WARNING: {warning}" for warning in warnings),
        ]
    )


def _say(text: str) -> None:
    with suppress(OSError):  # its log may lie on a full disk
        sys.stdout.write(f"{now()} {text}\n")
        sys.stdout.flush()


def _say_json(text: str) -> None:
    with suppress(OSError):
        sys.stdout.write(json.dumps({"time": now(), "event": text}) + "\n")
        sys.stdout.flush()
