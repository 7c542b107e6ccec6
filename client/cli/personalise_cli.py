"""``synofed site personalise``: networks of the site's own, made of the ensemble that came back."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from client.cli.campaigns_cli import Prefix
from client.cli.cli_options import AsJson, Folder, bar
from client.consent import campaigns
from client.site.site import Site
from common.sections.evaluation import PersonalSettings
from common.sections.section import section
from common.text.terminal import Console, Table


def personalise(
    folder: Folder,
    prefix: Prefix,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            metavar="NAME",
            help="norms, head, network, mean, thresholds or temperature; repeatable. "
            "Default: norms and network.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of training further, of each network. Default: 80.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Standard errors by which a candidate has to be better than the common networks."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a campaign's networks further on this site's exams where its patients gain by it; all stays here."""
    from client.ensemble import personal  # noqa: PLC0415  torch

    site = Site.open(folder)
    plan_hash = campaigns.find(site, prefix)
    given = {"candidates": candidates, "steps": steps, "margin": margin}
    named = {key: value for key, value in given.items() if value is not None}
    asked = section(PersonalSettings, named, source="What is asked for")
    with bar("training further", quiet=as_json) as progress:
        place, manifest = personal.make(site, plan_hash, asked, progress=progress)
    if as_json:
        typer.echo(json.dumps({"folder": str(place), **manifest}))
        return
    table = Table("measurement", "this site uses", box=None)
    for measurement, sentence in personal.chosen(manifest).items():
        table.add_row(measurement, sentence)
    Console().print(table)
    typer.echo(f"Networks: {place}\n{personal.NOTICE}")
