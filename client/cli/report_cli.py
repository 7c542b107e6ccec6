"""``synofed site report``: the ensemble that came back, against the site's own readers."""

from __future__ import annotations

import json

import typer

from client.cli.campaigns_cli import Prefix
from client.cli.cli_options import AsJson, Folder
from client.consent import campaigns
from client.files import atomic
from client.site.site import Site
from common.text.terminal import Console, Table


def report(folder: Folder, prefix: Prefix, as_json: AsJson = False) -> None:
    """Compare a campaign's ensemble with this site's readers, on its own patients. The results stay here."""
    from client.ensemble import delivery, local_report, local_report_page  # noqa: PLC0415  torch, matplotlib

    site = Site.open(folder)
    plan_hash = campaigns.find(site, prefix)
    console = Console(stderr=True, quiet=as_json)
    with console.status("grading this site's exams"):
        found = local_report.measure(site, plan_hash)
    page = delivery.folder(site.folder, plan_hash) / "report.html"
    atomic.write(page, local_report_page.render(found).encode())
    if as_json:
        typer.echo(json.dumps(local_report.as_json(found) | {"page": str(page)}))
        return
    for part in found.parts:
        title = f"{local_report_page.TITLES[part.name]}: {part.exams} exams, {part.patients} patients"
        table = Table("score", "compared", "exams", "accuracy", "linear kappa", title=title, box=None)
        for score, agreements in part.ensemble.items():
            for one in (
                *agreements,
                *(one for own in part.own.values() for one in own[score]),
                *part.readers[score],
            ):
                shown = [local_report_page.estimate(value) for value in (one.accuracy, one.kappa_linear)]
                table.add_row(score, f"{one.second} against {one.first}", str(one.exams), *shown)
        Console().print(table)
    typer.echo("\n".join([f"Page: {page}", *found.notices]))
