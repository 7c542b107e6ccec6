"""The commands of ``synofed privacy``, one module each."""

from __future__ import annotations

import typer

from common.text.command_table import group

COMMANDS = {
    "plan": (
        "simulation.cli.privacy_plan_cli:plan",
        "Show what differential privacy would cost, design by design, before anything is spent.",
    ),
    "audit": (
        "simulation.cli.privacy_audit_cli:audit",
        "Recompute every claim about privacy from ledger, receipts and plan, and write a report.",
    ),
    "verify": (
        "simulation.cli.privacy_verify_cli:verify",
        "Verify chain, signatures, debits and totals offline. Exits with 8 and names the first bad line.",
    ),
    "export": (
        "simulation.cli.privacy_export_cli:export",
        "Pack ledger, public keys, receipts, policy, plans and report: no patients, no pictures, no secrets.",
    ),
}

privacy = typer.Typer(cls=group(COMMANDS), no_args_is_help=True)


@privacy.callback()
def _privacy() -> None:
    """Typer makes no group without commands of its own, unless it has this."""
