"""The command ``synofed pretrain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common import settings as configuration
from common.text.overrides import SetOption
from common.text.terminal import Console, Table
from simulation.engine.progress import Display

FOLDER = Path("encoders")


def pretrain(
    config: Annotated[Path, typer.Argument(help="A TOML file, for example configs/pretrain.toml.")],
    out: Annotated[Path | None, typer.Option(help="Folder to create; default: encoders/<name>.")] = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Train public encoders on phantoms, for private campaigns to build on. They cost no privacy."""
    from simulation.runs import pretrain as encoders  # noqa: PLC0415

    settings = configuration.load(config, overrides=overrides or [])
    with Display(Console(stderr=True, quiet=as_json)) as display:
        made = encoders.pretrain(settings, out=out or FOLDER / settings.name, display=display)
    about = made.about
    if as_json:
        facts = about.model_dump(mode="json", exclude={"settings"})
        typer.echo(json.dumps({"folder": str(made.folder), "reused": made.reused, **facts}))
        return
    table = Table(title=f"Public encoders in {made.folder}{', made before' if made.reused else ''}")
    for title in ("reads", "encoder", "numbers per exam", "its own kappa on phantoms held out"):
        table.add_column(title, justify="right" if title != "reads" else "left")
    for name, kappas in about.kappa.items():
        for number, kappa in enumerate(kappas):
            table.add_row(name, str(number), str(about.neck), "-" if kappa is None else f"{kappa:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"From {about.exams} phantom exams of {len(about.machines)} machines, seed {about.seed}: network.weights = "
        f'"{made.folder}", probe.neck = {about.neck}, network.image_px = {about.image_px}',
    )
