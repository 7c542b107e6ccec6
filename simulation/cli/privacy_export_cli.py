"""``synofed privacy export``: a bundle with which an outsider can check a site's or a run's claims, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN|SITE_FOLDER", help="A run's folder, or a site's.")],
    out: Annotated[Path, typer.Option(help="Bundle to write, a .zip file.")],
    kept: Annotated[
        list[Path] | None,
        typer.Option("--receipts", help="A run's receipts/SITE.jsonl, from the centre; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Pack ledger, public keys, receipts, policy, plans and report: no patients, no pictures, no secrets."""
    from client.ledger import issued_receipts  # noqa: PLC0415
    from simulation.privacy import evidence_bundle, privacy_audit  # noqa: PLC0415  accounting: seconds

    given = privacy_audit.Given(receipts=tuple(kept or ()))
    report = privacy_audit.audit(folder, given)
    if privacy_audit.is_run(folder):
        files = evidence_bundle.of_run(folder, report)
    else:
        centre = tuple(one for path in given.receipts for one in issued_receipts.read(path))
        files = evidence_bundle.of_site(folder, report, centre)
    evidence_bundle.write(out, files)
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "files": sorted(files), "failed": list(report.failed)}))
        return
    typer.echo(f"{out}: {len(files)} files, {out.stat().st_size / 1024:.0f} kB")
    for problem in report.failed:
        typer.echo(f"The report inside says that a claim does not hold: {problem}")
