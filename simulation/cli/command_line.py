"""The command line: the table of all commands, and what is said when one of them fails."""

from __future__ import annotations

import io
import json
import sys
import traceback

import click
import typer

from common.errors import SynofedError, explained
from common.text.command_table import group
from common.text.redaction import redacted
from common.text.table_forms import FORMS
from common.text.terminal import LAYOUT, visible
from common.version import VERSION

COMMANDS = {
    "simulate": (
        "simulation.cli.researcher_cli:simulate",
        "Run a whole study: sites, federated rounds, evaluation, report.",
    ),
    "plan": (
        "simulation.cli.researcher_cli:plan",
        "Show what a run or study will cost before it starts: bytes, disk, memory, hours, epsilon.",
    ),
    "report": ("simulation.cli.researcher_cli:report", "Rewrite a run's report."),
    "passport": (
        "server.cli.passport_cli:passport",
        "Write an ensemble's passport: what it is, what it is for, how well it grades; signed by the centre.",
    ),
    "score": (
        "simulation.cli.score_cli:score",
        "Score one exam's pictures, or a manifest's, with a finished run's ensemble.",
    ),
    "study": (
        "simulation.cli.study_cli:study",
        "Compare systems, settings or conditions: many runs over the same patients, and their table.",
    ),
    "tensorboard": (
        "simulation.cli.tensorboard_cli:tensorboard",
        "Write a run's rounds and scores as event files for TensorBoard.",
    ),
    "pretrain": (
        "simulation.cli.pretrain_cli:pretrain",
        "Train public encoders on phantoms, for private campaigns to build on. They cost no privacy.",
    ),
    "weights": (
        "simulation.cli.weights_cli:weights",
        "Start weights that networks learnt elsewhere: which are known, and how they come here.",
    ),
    "readers": (
        "simulation.cli.readers_cli:readers",
        "Score a reader study: each reader and their average, without and with assistance.",
    ),
    "serve": (
        "simulation.cli.serve_cli:serve",
        "Show pages in the browser: reading room, reader studies, officer's desk, dashboard.",
    ),
    "cohort": ("simulation.cli.cohort_cli:cohort", "Phantom or public data, laid out as site folders."),
    "data": ("client.cli.data_cli:data", "A hospital's scans: import and check them, or withdraw a patient."),
    "site": (
        "client.cli.site_cli:site",
        "A hospital's site: join, check, approve campaigns, and see what left.",
    ),
    "federation": (
        "server.cli.centre_cli:federation",
        "The coordinating centre: certificates, sites, and the running service.",
    ),
    "run": ("server.cli.centre_cli:run", "The coordinating centre's campaigns: submit, watch, stop, resume."),
    "privacy": (
        "simulation.cli.privacy_cli:privacy",
        "Differential privacy: plan what it costs, check that its claims hold.",
    ),
}
"""Name -> where the command is, and what lists say of it (:mod:`common.text.command_table`)."""


def run() -> None:
    """Run the command that the process was started with; exit codes as :mod:`common.errors` lists them.

    With ``--json`` an error is JSON too, on standard error: ``{"error": {"kind", "exit_code", "message"}}``. What
    nobody foresaw is shown with its traceback, which holds no values of variables: it may be sent to somebody.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters that a name has
            stream.reconfigure(errors="backslashreplace")
    try:
        # not through Typer, which would show the variables of whatever failed
        typer.main.get_command(commands())(prog_name="synofed")
    except SynofedError as error:
        _say(_told(str(error), code=error.code, exit_code=error.exit_code))
        sys.exit(error.exit_code)
    except OSError as error:
        _say(_told(explained(error), code="internal", exit_code=1))
        sys.exit(1)
    except KeyboardInterrupt:
        _say("Interrupted.\n")
        sys.exit(130)
    except Exception:
        _say(traceback.format_exc())
        sys.exit(1)


def _told(message: str, *, code: str, exit_code: int) -> str:
    """An error as a person reads it, or as JSON where the command was asked for that."""
    if "--json" not in sys.argv:
        return f"Error: {message}\n"
    return json.dumps({"error": {"kind": code, "exit_code": exit_code, "message": message}}) + "\n"


def _say(text: str) -> None:
    """To standard error, without secrets and without what a terminal would obey."""
    sys.stderr.write(visible(redacted(text), keep=LAYOUT))


def commands() -> typer.Typer:
    """The command line."""
    app = typer.Typer(cls=group(COMMANDS), no_args_is_help=True)

    def show_version(asked: bool) -> bool:
        if asked:
            typer.echo(f"synofed {VERSION}")
            raise typer.Exit
        return asked

    @app.callback()
    def _app(
        version: bool = typer.Option(
            False, "--version", help="Print the version.", callback=show_version, is_eager=True
        ),
        tables: str | None = typer.Option(
            None,
            "--tables",
            click_type=click.Choice(list(FORMS)),
            help="Print a command's tables in this form: synofed --tables latex study CONFIG table.",
        ),
    ) -> None:
        """Train networks across hospitals: simulate studies, run a hospital's site, run the coordinating centre."""

    return app
