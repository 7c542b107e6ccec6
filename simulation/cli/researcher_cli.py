"""The commands of a researcher that belong to no group: simulate, plan, report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from common import settings as configuration
from common.errors import SubsetError
from common.privacy.planning import notice
from common.text.overrides import SetOption
from common.text.terminal import Console
from server.campaign.status import Status
from simulation.cli import seeds_cli, study_cli
from simulation.engine import interruption
from simulation.engine.progress import Display
from simulation.studies import study as studies


def simulate(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    overrides: SetOption = None,
    engine: Annotated[
        str | None, typer.Option(help="in-process or ray; default: the configuration's.")
    ] = None,
    devices: Annotated[str | None, typer.Option(help="Devices, one worker each: 0,1,... or cpu,cpu.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--cohort", help="Folder of site folders, instead of the configuration's [cohort]."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEED,SEED,...",
            help="Run once per seed, each with patients, split and start of its own, or continue; gives mean and SD.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print metrics.json (with --seeds mean and SD), nothing else.")
    ] = False,
) -> None:
    """Run a whole study: sites, federated rounds, evaluation, report."""
    given = list(overrides or [])
    if engine is not None:
        given.append(f'compute.engine="{engine}"')
    if devices is not None:
        given.append(f"compute.devices={json.dumps(devices.split(','))}")
    if folder is not None:
        given.append(configuration.of_folder(folder))
    if seeds is not None:
        seeds_cli.simulate(config, seeds, overrides=given, out=out, as_json=as_json)
        return
    settings = configuration.load(config, overrides=given)
    from simulation.cli import result_view  # noqa: PLC0415  torch: a wrong configuration is said at once
    from simulation.runs.simulate import simulate as run_simulation  # noqa: PLC0415

    console = Console(quiet=as_json)
    with interruption.said(), Display(console) as display:
        path, status = run_simulation(
            settings, out=out or Path("runs") / settings.name, resume=resume, display=display
        )
    if as_json:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps(metrics))
    else:
        result_view.show(console, path)
        console.print(f"{status}   {notice.label(settings)}\nReport: {path / 'report.html'}")
    if status is Status.COMPLETE_SUBSET:
        missing = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["missing"]
        raise SubsetError(f"The run is complete, but some rounds went without {', '.join(missing)}")


def plan(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show what a run or study will cost before it starts: bytes, disk, memory, hours, epsilon."""
    if studies.is_study(config):
        study_cli.plan(config, overrides or [], as_json=as_json)
        return
    settings = configuration.load(config, overrides=overrides or [])
    from simulation.cli import console as shown  # noqa: PLC0415  torch: a wrong configuration is said at once
    from simulation.runs import cost_card  # noqa: PLC0415

    with Console(stderr=True, quiet=as_json).status("measuring a step of each network"):
        card = cost_card.plan(settings)
    if as_json:
        typer.echo(json.dumps(asdict(card)))
    else:
        Console().print(shown.plan_table(card))


def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Rewrite a run's report."""
    from server.report import page  # noqa: PLC0415

    typer.echo(page.write(run))
