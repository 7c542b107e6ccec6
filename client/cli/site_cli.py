"""The commands of a hospital site."""

from __future__ import annotations

import os

import typer

from common.text.command_table import group

COMMANDS = {
    "start": (
        "client.cli.start.command:start",
        "Lead from an invitation to a joined site, as far as it goes now. Run it again after what it asks for.",
    ),
    "init": (
        "client.cli.init_cli:init",
        "Create the site's folder, its keys and the request to send to the centre. Existing keys are kept.",
    ),
    "check": (
        "client.cli.check_cli:check",
        "Check data, machine, policy, connection and clock; rehearse a round. Exits with the worst problem's code.",
    ),
    "join": (
        "client.cli.join_cli:join",
        "Connect to the centre and stay connected until SIGTERM or Ctrl-C. The policy is checked at every request.",
    ),
    "personalise": (
        "client.cli.personalise_cli:personalise",
        "Train a campaign's networks further on this site's exams where its patients gain by it; all stays here.",
    ),
    "alone": (
        "simulation.cli.alone_cli:alone",
        "Train an approved campaign's networks on this site's exams alone, to compare with. They stay here.",
    ),
    "report": (
        "client.cli.report_cli:report",
        "Compare a campaign's ensemble with this site's readers, on its own patients. The results stay here.",
    ),
    "service": (
        "client.cli.service_cli:command",
        "Start the site whenever this machine boots, as this user. Only enabling lingering may need an "
        "administrator.",
    ),
    "status": (
        "client.cli.status_cli:status",
        "Show whether the site is connected, and which campaigns await a decision.",
    ),
    "campaigns": (
        "client.cli.campaigns_cli:campaigns",
        "Campaigns that the centre has asked this site to join.",
    ),
    "policy": ("client.cli.policy_cli:policy", "What the site permits, signed by its privacy officer."),
    "officer": (
        "client.cli.officer_cli:sign",
        "Show what the site's pages ask the privacy officer, in full, and sign what the officer agrees to.",
    ),
    "ledger": ("client.cli.ledger_cli:commands", "How much of their privacy budget patients have spent."),
    "log": ("client.cli.log_cli:log", "The site's audit log of everything that came in and left."),
    "outbox": ("client.cli.outbox_cli:outbox", "The exact replies that left this site."),
    "peers": (
        "client.cli.peers_cli:peers",
        "The sites that this one computes secure sums with, and their keys.",
    ),
}

site = typer.Typer(cls=group(COMMANDS), no_args_is_help=True)


@site.callback()
def _site() -> None:
    """Make everything that the site's commands write readable by its own account only."""
    os.umask(0o077)
