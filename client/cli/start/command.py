"""``synofed site start``: from an invitation to a joined site, as far as it goes today."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli import init_cli, service_cli
from client.cli.cli_options import AsJson
from client.cli.policy_cli import PassphraseFile
from common.text.terminal import Console

if TYPE_CHECKING:
    from client.cli.start.steps import Given, Step

MARKS = {"done": "[x]", "waiting": "[ ]", "failed": "[!]"}


def start(
    invitation: Annotated[
        Path,
        typer.Argument(
            metavar="INVITATION",
            help="The invitation file from the centre; later, the site's folder does too.",
        ),
    ],
    folder: Annotated[
        Path | None, typer.Option(help="The site's folder; default: one named after the site.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data folder, written into site.toml.")] = None,
    officer_key: Annotated[
        Path | None,
        typer.Option("--officer-key", help="The privacy officer's key file: sign the policy as it stands."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="At the end, start the site at boot, with systemd.")
    ] = False,
    cron: Annotated[
        bool, typer.Option("--cron", help="At the end, start the site at boot, with cron.")
    ] = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse/--no-rehearse", help="Train a few steps on a few exams. Nothing is sent."),
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: do what the options say.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lead from an invitation to a joined site, as far as it goes now. Run it again after what it asks for."""
    kind = service_cli.chosen(systemd=systemd, cron=cron)
    from client.cli.start import steps as walking  # noqa: PLC0415

    ask = not (yes or as_json) and sys.stdin.isatty() and sys.stdout.isatty()
    if officer_key is not None and passphrase_file is None and not ask:
        raise typer.BadParameter("Expected --passphrase-file with --officer-key where nobody can be asked.")
    invited = None if invitation.is_dir() else init_cli.read(invitation)
    given = walking.Given(
        folder=folder or (invitation if invited is None else Path(invited.site)),
        invitation=invited,
        data=data,
        officer_key=officer_key,
        passphrase_file=passphrase_file,
        service=kind,
        rehearse=rehearse,
        ask=ask,
        quiet=as_json,
    )
    console = Console(quiet=as_json)
    steps = []
    for step in walking.walk(given):
        steps.append(step)
        console.print(f"{MARKS[step.state]} {step.name:<10}  {step.said}", soft_wrap=True)
    code = next((step.exit_code for step in steps if step.exit_code), 0)
    if as_json:
        content = {
            "folder": str(given.folder),
            "exit_code": code,
            "steps": [asdict(step) for step in steps],
        }
        typer.echo(json.dumps(content))
    else:
        console.print("\n".join(_next(steps, given)), soft_wrap=True)
    if code:
        raise typer.Exit(code)


def _next(steps: list[Step], given: Given) -> list[str]:
    todo = [f"  {step.name}: {step.todo}" for step in steps if step.todo]
    if all(step.state == "done" for step in steps):
        return [
            "",
            *todo,
            "Nothing is left to do here but to decide about campaigns: synofed site campaigns.",
        ]
    return ["", "To do:", *todo, f"Then, or at any time: synofed site start {given.folder}"]
