"""``synofed site alone``: what training together is held against. It needs the loop of a centre: not in client."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from client.cli.campaigns_cli import Prefix
from client.cli.cli_options import AsJson, Folder
from client.consent import campaigns
from client.site.site import Site
from common.text.terminal import Console


def alone(
    folder: Folder,
    prefix: Prefix,
    models: Annotated[
        int | None,
        typer.Option(
            min=1, help="Scoring models to train; the ensemble is compared with as many. Default: all."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an approved campaign's networks on this site's exams alone, to compare with. They stay here."""
    from client.ensemble.alone import NOTICE  # noqa: PLC0415  torch
    from simulation.engine import interruption  # noqa: PLC0415
    from simulation.engine.progress import Display  # noqa: PLC0415
    from simulation.runs import alone as training  # noqa: PLC0415

    site = Site.open(folder)
    plan_hash = campaigns.find(site, prefix)
    with interruption.said(), Display(Console(stderr=True, quiet=as_json)) as display:
        found = training.train(site, plan_hash, models=models, display=display)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"folder": str(found.folder)}))
        return
    size = f"{found.networks} networks in {found.models} scoring models"
    typer.echo(f"{size}, in {found.seconds:.0f} s: {found.folder}\n{NOTICE}")
