"""``synofed site peers``: the sites with which this one makes sums."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.consent import peers as pinned
from client.site import keys, officer, policy_file
from client.site.site import Site

peers = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The other site's name, as the centre knows it.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The 64 hex digits that `peers own` printed there.")]


@peers.command("own")
def own(folder: Folder, as_json: AsJson = False) -> None:
    """Show this site's key. Give it to the people at the other sites directly, never through the centre."""
    site = Site.open(folder)
    key = keys.public_key(folder)
    if as_json:
        typer.echo(json.dumps({"site": site.name, "key": key, "spoken": officer.spoken(key)}))
        return
    typer.echo(f"{site.name} {key}\nto compare by telephone: {officer.spoken(key)}")


@peers.command("list")
def list_(folder: Folder, as_json: AsJson = False) -> None:
    """List the sites whose keys are pinned."""
    found = Site.open(folder).peers
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, key in sorted(found.items()):
        typer.echo(f"{name} {key}  {officer.spoken(key)}")
    if not found:
        typer.echo("No keys yet: add those that other sites' people gave you with `synofed site peers add`.")


@peers.command("add")
def add(folder: Folder, name: Name, key: Key, as_json: AsJson = False) -> None:
    """Pin another site's key, as its own people gave it to you."""
    site = Site.open(folder)
    pinned.add(site, name, key.lower())
    if as_json:
        typer.echo(json.dumps(Site.open(folder).peers))
        return
    typer.echo(f"{name} is pinned with key {officer.spoken(key.lower())}.")
    if policy_file.enrolled(site):
        typer.echo(f"The policy's signature covers the peers: {policy_file.SIGN}")
