"""Arguments and options that the site's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="SITE_FOLDER", help="The site's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Noted = Annotated[
    list[str] | None,
    typer.Option("--noted", help="A code of `site ledger head` from the paper file; repeatable."),
]
KeptReceipts = Annotated[
    list[Path] | None,
    typer.Option("--receipts", help="The centre's receipts/SITE.jsonl of a run; repeatable."),
]
