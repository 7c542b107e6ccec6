"""The commands of the coordinating centre."""

from __future__ import annotations

import typer

from common.text.command_table import group

OF_FEDERATION = {
    "provision": (
        "server.cli.federation_cli:provision",
        "Create the certificate authority, the server's certificate and the registry. Existing ones are kept.",
    ),
    "invite": (
        "server.cli.federation_cli:invite",
        "Write the one file that a site needs to join. Inviting a site again invalidates its previous invitation.",
    ),
    "accept": (
        "server.cli.federation_cli:accept",
        "Register a site with the keys in its request. Accepting the same request again changes nothing.",
    ),
    "revoke": (
        "server.cli.federation_cli:revoke",
        "Shut a site out and bar its keys for good. Other sites are not affected.",
    ),
    "sites": (
        "server.cli.federation_cli:sites",
        "List the sites, and how long the certificates remain valid.",
    ),
    "renew": (
        "server.cli.federation_cli:renew",
        "Renew the server's certificate. Sites need do nothing; a running service picks it up.",
    ),
    "up": (
        "server.cli.up_cli:up",
        "Run the centre until SIGTERM or Ctrl-C: the proxy, the SuperLink and all submitted campaigns.",
    ),
    "status": (
        "server.cli.up_cli:status",
        "Show whether the centre is up, which sites are connected, and how its campaigns are doing.",
    ),
}

OF_RUN = {
    "submit": ("server.cli.run_cli:submit", "Submit a campaign. The running centre starts it."),
    "watch": (
        "server.cli.run_cli:watch",
        "Watch a campaign until it ends. Exits with 0 (all sites), 7 (a subset of them) or 1 (failed or stopped).",
    ),
    "report": (
        "server.cli.run_cli:report",
        "Write a campaign's report: how its sites judged the ensemble, its rounds, its networks.",
    ),
    "matrix": (
        "server.cli.run_cli:matrix",
        "Show campaigns beside each other: where each was trained, and how well it grades where it was judged.",
    ),
    "list": ("server.cli.run_cli:list_runs", "List all campaigns and their state."),
    "admit": (
        "server.cli.run_cli:admit",
        "Let sites into a submitted campaign whose plan allows it; they train from the next round after they agreed.",
    ),
    "stop": (
        "server.cli.run_cli:stop",
        "Stop a campaign. `resume` continues from its last aggregated round.",
    ),
    "resume": (
        "server.cli.run_cli:resume",
        "Resume a campaign that was stopped or failed, or retry now one that is waiting to be retried.",
    ),
}

federation = typer.Typer(cls=group(OF_FEDERATION), no_args_is_help=True)
run = typer.Typer(cls=group(OF_RUN), no_args_is_help=True)


@federation.callback()
def _federation() -> None:
    """Typer makes no group without commands of its own, unless it has this."""


@run.callback()
def _run() -> None:
    """Typer makes no group without commands of its own, unless it has this."""
