"""``synofed privacy audit``: every claim about privacy, recomputed; a page and JSON; exit code 8 where one fails."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.cli.cli_options import AsJson, KeptReceipts, Noted
from common.errors import VerificationError
from common.machine import atomic, page_tables
from common.privacy.audit.claims import some
from common.privacy.audit.evidence import Check
from common.text.terminal import Console, Table

PAGE, DATA = "privacy_report.html", "privacy_report.json"
COLOURS = {"holds": "green", "not contradicted": "green", "fails": "red", "open": "yellow"}


def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN|SITE_FOLDER", help="A run's folder, or a site's.")],
    sites: Annotated[
        list[Path] | None,
        typer.Option(
            "--site", help="Another site's folder or, with a run, one of the run's sites; repeatable."
        ),
    ] = None,
    kept: KeptReceipts = None,
    noted: Noted = None,
    promise: Annotated[
        Path | None,
        typer.Option(help="JSON that `privacy plan --dpia` wrote, to compare with what was done."),
    ] = None,
    empirical: Annotated[
        bool, typer.Option("--empirical", help="Also attack a rehearsal of the private step, with canaries.")
    ] = False,
    canaries: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Number of canaries in the rehearsal.")
    ] = 1000,
    affected_by: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Only list what this version of synofed released."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default: the audited folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every claim about privacy from ledger, receipts and plan, and write a report."""
    from common.privacy.audit import audit_report  # noqa: PLC0415  accounting: seconds
    from simulation.privacy import privacy_audit  # noqa: PLC0415

    console = Console(quiet=as_json)
    if affected_by is not None:
        _affected(folder, affected_by, console, as_json=as_json)
        return
    given = privacy_audit.Given(
        sites=tuple(sites or ()),
        receipts=tuple(kept or ()),
        noted=tuple(noted or ()),
        promise=promise,
        canaries=canaries if empirical else None,
    )
    with Console(stderr=True, quiet=as_json).status("recomputing"):
        report = privacy_audit.audit(folder, given)
        place = out or folder
        content = audit_report.as_json(report)
        place.mkdir(parents=True, exist_ok=True)
        atomic.write(place / DATA, (json.dumps(content, indent=1) + "\n").encode(), mode=0o600)
        atomic.write(place / PAGE, audit_report.render(report).encode(), mode=0o600)
        page_tables.write(place / PAGE, mode=0o600)
    if as_json:
        typer.echo(json.dumps(content))
    else:
        rows = [("", check) for check in report.checks]
        rows += [(one.evidence.site, check) for one in report.sites for check in one.checks]
        console.print(_table(rows))
        worst = report.worst
        console.print(
            f"Epsilon of the patient who has spent most: {worst.epsilon:.3f} at delta {worst.delta:g}, one patient "
            f"added or removed; second accountant {worst.second_low:.3f} to {worst.second_high:.3f}. Treated at two "
            f"sites: {report.two_sites.epsilon:.3f}.",
            soft_wrap=True,
        )
        console.print(str(report.risk), soft_wrap=True)
        console.print(report.verdict, soft_wrap=True)
        if report.unbounded:
            console.print("Some releases had no differential privacy: no epsilon bounds what they reveal.")
        for one in report.rehearsals:
            console.print(f"Rehearsal of the implementation, not of the run: {one}", soft_wrap=True)
        console.print(f"Report: {place / PAGE}", soft_wrap=True)
    if report.failed:
        raise VerificationError(
            f"Expected every claim to hold, {len(report.failed)} do not: {some(report.failed)}"
        )


def _table(rows: list[tuple[str, Check]]) -> Table:
    table = Table("site", "check", "", "found", box=None)
    for site, check in rows:
        table.add_row(site, check.name, Text(check.verdict, style=COLOURS[check.verdict]), check.found)
    return table


def _affected(folder: Path, version: str, console: Console, *, as_json: bool) -> None:
    from simulation.privacy import privacy_audit  # noqa: PLC0415

    found = privacy_audit.affected_by(folder, version)
    if as_json:
        typer.echo(json.dumps({site: asdict(one) for site, one in found.items()}))
        return
    for site, one in found.items():
        table = Table(
            "entry", "time", "campaign", "round", "kind", "patients", title=f"{site}, version {version}"
        )
        for release in one.releases:
            table.add_row(
                *(str(release[key]) for key in ("sequence", "time", "campaign", "round", "kind")),
                str(release["patients"]),
            )
        if one.releases:
            console.print(table)
        console.print(
            f"{site}: {one.private} private releases and {one.unbounded} without bound by version {version}, of "
            f"{one.patients} patients; the private ones cost the patient who took part in most of them epsilon "
            f"{one.epsilon:.3f} at delta {one.delta:g}.",
            soft_wrap=True,
        )
