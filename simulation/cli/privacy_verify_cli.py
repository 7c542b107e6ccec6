"""``synofed privacy verify``: chain, signatures, debits and totals of a site, a run or a bundle, offline."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, KeptReceipts, Noted


def verify(
    place: Annotated[
        Path, typer.Argument(metavar="FOLDER|BUNDLE", help="A site's or run's folder, or a bundle.")
    ],
    kept: KeptReceipts = None,
    noted: Noted = None,
    as_json: AsJson = False,
) -> None:
    """Verify chain, signatures, debits and totals offline. Exits with 8 and names the first bad line."""
    from simulation.privacy import privacy_audit, privacy_verify  # noqa: PLC0415  accounting: seconds

    given = privacy_audit.Given(receipts=tuple(kept or ()), noted=tuple(noted or ()))
    found = privacy_verify.verify(place, given)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    typer.echo(
        f"{found.kind}: {found.entries} entries of the ledger, {found.receipts} receipts and {found.replies} answers "
        f"fit. The patient who has spent most: epsilon {found.epsilon:.3f} at delta {found.delta:g}, one patient "
        f"added or removed."
    )
