"""The commands of the coordinating centre; each lies with what it commands."""

from __future__ import annotations

import typer

from server.cli import federation_cli, run_cli, up_cli

federation = typer.Typer(
    help="The coordinating centre: certificates, sites, and the running service.", no_args_is_help=True
)
run = typer.Typer(
    help="The coordinating centre's campaigns: submit, watch, stop, resume.", no_args_is_help=True
)


@federation.callback()
def _federation() -> None:
    """Keeps every command a command of its own while it is the only one."""


@run.callback()
def _run() -> None:
    """Keeps every command a command of its own while it is the only one."""


federation_cli.register(federation)
up_cli.register(federation)
run_cli.register(run)
