"""Arguments, options and the bar that the site's commands share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.text.terminal import Console

LINE_EVERY_S = 10.0
"""In a log; what takes less has none."""

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


@contextmanager
def bar(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, in a log a line every ten seconds, both on standard error.

    Args:
        what: is counted.
        quiet: whether nothing is shown.

    Yields:
        What is told how many are done, out of how many.
    """
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield _lines(what, console)
        return
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(what: str, console: Console) -> Callable[[int, int], None]:
    started = said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            console.print(f"{what}: {done} of {total}, {now - started:.0f} s")

    return tell
