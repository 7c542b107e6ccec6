"""``synofed site policy``: what the site permits, and the privacy officer's signature over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.site import officer, policy_file
from client.site.policy import NEWEST
from client.site.site import Site
from common.errors import DataError

policy = typer.Typer(no_args_is_help=True)
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="Read the passphrase from the first line of this file instead of prompting."
    ),
]


@policy.command("show")
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Show the policy as it is read, and whether its signature is valid."""
    site = Site.open(folder)
    values = site.policy.model_dump(mode="json")
    state = policy_file.state(site)
    if as_json:
        typer.echo(json.dumps({"site": site.name, "policy": values, "state": state}))
        return
    width = max(map(len, values))
    typer.echo("\n".join(f"{name:<{width}}  {json.dumps(value)}" for name, value in values.items()))
    typer.echo(f"\n{state}")


@policy.command("officer-key")
def officer_key(
    out: Annotated[Path, typer.Argument(metavar="OFFICER.PEM", help="File to create.")],
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Create the privacy officer's key, protected by a passphrase. Only the officer should keep it."""
    public_key = officer.make(out, passphrase=passphrase(passphrase_file, confirm=True))
    if as_json:
        typer.echo(json.dumps({"key": str(out), "public_key": public_key}))
        return
    typer.echo(
        f"Made {out}, key {officer.spoken(public_key)}. Keep it and its passphrase away from the site's folder: "
        f"whoever has both decides what the site permits."
    )


@policy.command("sign")
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option("--key", help="The officer's key file.")],
    new_officer: Annotated[
        bool,
        typer.Option(
            "--new-officer", help="Accept a key other than the current officer's; recorded in the log."
        ),
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Sign the policy as it stands in site.toml."""
    site = Site.open(folder)
    signing = officer.load(key, passphrase=passphrase(passphrase_file, confirm=False))
    signature = policy_file.sign(site, signing, new_officer=new_officer)
    if as_json:
        typer.echo(signature.model_dump_json(exclude={"signature"}))
        return
    if site.policy.version != NEWEST:
        typer.echo(
            f"Added version = {NEWEST} to [policy] in site.toml: maximum_rounds = {site.policy.maximum_rounds} now "
            f"limits the rounds of all stages of a campaign together, not of each."
        )
    typer.echo(
        f"Signed the policy of {site.name}, serial {signature.serial}, with key "
        f"{officer.spoken(signature.public_key)}. It counts from the next request on."
    )


def passphrase(file: Path | None, *, confirm: bool) -> str:
    """The passphrase in a file, or as somebody types it.

    Raises:
        DataError: if the file cannot be read.
    """
    if file is None:
        return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm))
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Expected a passphrase in {file}: {error}") from None
