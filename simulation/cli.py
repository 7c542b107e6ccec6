"""The commands of a researcher: simulate, cohorts, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common import settings as configuration
from common.errors import ConfigurationError, SubsetError
from common.settings import PhantomSettings
from server import report as reports
from server.campaign import Status
from simulation import cohort as cohorts
from simulation.progress import Display
from simulation.simulate import simulate as run_simulation

app = typer.Typer(help="Whole multi-centre studies on one machine.", no_args_is_help=True)
cohort = typer.Typer(help="Phantom or public data laid out as site folders.", no_args_is_help=True)

SCORES = ("accuracy", "kappa_linear", "kappa_quadratic", "balanced_accuracy")


@app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable.")] = None,
    engine: Annotated[str | None, typer.Option(help="in-process or ray.")] = None,
    devices: Annotated[str | None, typer.Option(help="One worker each: 0,1,... or cpu,cpu.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json and nothing else.")] = False,
) -> None:
    """Run a whole study: sites, federated rounds, evaluation, report."""
    given = list(overrides or [])
    if engine is not None:
        given.append(f'compute.engine="{engine}"')
    if devices is not None:
        given.append(f"compute.devices={json.dumps(devices.split(','))}")
    settings = configuration.load(config, overrides=given)
    folder = out or Path("runs") / settings.name
    console = Console(quiet=as_json)
    with Display(console) as display:
        path, status = run_simulation(settings, out=folder, resume=resume, display=display)
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(metrics))
    else:
        console.print(_table(metrics))
        console.print(f"{status}   no differential privacy\nReport: {path / 'report.html'}", highlight=False)
    if status is Status.COMPLETE_SUBSET:
        missing = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["missing"]
        raise SubsetError(f"The run is complete, but some rounds went without {', '.join(missing)}")


def _table(metrics: dict[str, object]) -> Table:
    raise NotImplementedError
