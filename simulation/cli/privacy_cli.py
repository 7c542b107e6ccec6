"""The commands of ``synofed privacy``; each lies in a module of its own."""

from __future__ import annotations

import typer

from simulation.cli import privacy_audit_cli, privacy_export_cli, privacy_plan_cli, privacy_verify_cli

privacy = typer.Typer(
    help="Differential privacy: plan what it costs, check that its claims hold.", no_args_is_help=True
)
privacy.command("plan")(privacy_plan_cli.plan)
privacy.command("audit")(privacy_audit_cli.audit)
privacy.command("verify")(privacy_verify_cli.verify)
privacy.command("export")(privacy_export_cli.export)
