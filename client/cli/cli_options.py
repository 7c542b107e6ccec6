"""Arguments, options and the bar that the site's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.text.terminal import Console

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


def bar(what: str, *, quiet: bool) -> Progress:
    """A bar on a terminal, nothing in a log."""
    console = Console(stderr=True)
    return Progress(
        TextColumn(what, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
