"""The commands of a hospital site."""

from __future__ import annotations

import os

import typer

from client.cli import (
    campaigns_cli,
    check_cli,
    init_cli,
    join_cli,
    ledger_cli,
    log_cli,
    outbox_cli,
    peers_cli,
    personalise_cli,
    policy_cli,
    report_cli,
    service_cli,
    status_cli,
)

site = typer.Typer(
    help="A hospital's site: join, check, approve campaigns, and see what left.", no_args_is_help=True
)
site.add_typer(campaigns_cli.campaigns, name="campaigns")
site.add_typer(policy_cli.policy, name="policy")
site.add_typer(ledger_cli.commands, name="ledger")
site.add_typer(log_cli.log, name="log")
site.add_typer(outbox_cli.outbox, name="outbox")
site.add_typer(peers_cli.peers, name="peers")
site.command("init")(init_cli.init)
site.command("check")(check_cli.check)
site.command("join")(join_cli.join)
site.command("personalise")(personalise_cli.personalise)
site.command("report")(report_cli.report)
site.command("service")(service_cli.command)
site.command("status")(status_cli.status)


@site.callback()
def _site() -> None:
    """Make everything that the site's commands write readable by its own account only."""
    os.umask(0o077)
