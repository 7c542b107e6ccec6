"""Arguments and options that the site's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="SITE_FOLDER", help="The site's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Noted = Annotated[
    list[str] | None,
    typer.Option(
        "--noted", help="A code that `site ledger head` printed and somebody wrote down; repeatable."
    ),
]
KeptReceipts = Annotated[
    list[Path] | None,
    typer.Option("--receipts", help="A run's receipts/SITE.jsonl, from the centre; repeatable."),
]
