"""The command ``synofed tensorboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tensorboard(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to create; default: tensorboard in the run's folder.")
    ] = None,
) -> None:
    """Write a run's rounds and scores as event files for TensorBoard."""
    from simulation.runs import event_files  # noqa: PLC0415

    typer.echo(event_files.write(run, out or run / event_files.NAME))
