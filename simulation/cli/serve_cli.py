"""The command ``synofed serve``."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable

    from fastapi import APIRouter

    from client.reading.assistant import Assistant

    Pages = tuple[Sequence[APIRouter], Sequence[Traversable], tuple[str, ...]]
    """What pages ask for, the pages, and for whom links are made."""


def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|SITE_FOLDER", help="A site's folder, a run's, or a centre's.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine; 0: any that is free.")] = 0,
    behind: Annotated[
        str,
        typer.Option(metavar="https://HOST", help="Where your own proxy, with accounts and TLS, shows it."),
    ] = "",
    ensemble: Annotated[
        Path | None,
        typer.Option(
            help="A run's folder, whose networks assist readers; default: what the site received last."
        ),
    ] = None,
    readers: Annotated[
        list[str] | None,
        typer.Option(
            "--reader", help="Whose link opens the reading room alone, under this name; repeatable."
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="A reader study's TOML file: a link for each reader, and no other page."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print links as JSON, a line each.")] = False,
) -> None:
    """Show pages in the browser: reading room, reader studies, officer's desk, dashboard.

    Only this machine can open them, by a link that works once.
    """
    from common.machine import desk  # noqa: PLC0415  FastAPI

    os.umask(0o077)  # what pages write is for this account, as with a site's commands
    routers, pages, people = _pages(folder, ensemble=ensemble, readers=readers or [], study=study)

    def announce(person: str, url: str) -> None:
        if as_json:
            typer.echo(json.dumps({"person": person, "url": url}))
        else:
            typer.echo(f"{f'{person}: ' if person else ''}{url} (works once)")

    with desk.bound(port) as listener, suppress(KeyboardInterrupt):  # the usual end
        way = desk.door(listener.getsockname()[1], behind=behind, announce=announce)
        for person in people:
            way.link(person)
        desk.server(desk.application(way, routers, pages)).run(sockets=[listener])


def _pages(folder: Path, *, ensemble: Path | None, readers: Sequence[str], study: Path | None) -> Pages:
    if (folder / "site.toml").is_file():
        from client.desk import site_desk  # noqa: PLC0415
        from client.site.site import Site  # noqa: PLC0415

        assistant = None if ensemble is None else _assistant(ensemble)
        site = Site.open(folder)
        if study is not None and readers:
            raise ConfigurationError("Expected --reader without --study, whose file names its readers")
        if study is not None:
            return site_desk.study_pages(site, study, assistant=assistant)
        return site_desk.pages(site, assistant=assistant, readers=readers)
    if ensemble is not None or study is not None or readers:
        raise ConfigurationError(
            f"Expected a site's folder with --ensemble, --reader or --study, {folder} is none"
        )
    from server.desk import centre_desk  # noqa: PLC0415

    return centre_desk.pages(folder)


def _assistant(run: Path) -> Assistant:
    """A run's ensemble, with what the run knows of its machines and sets of grades."""
    from client.reading.assistant import Assistant  # noqa: PLC0415
    from server.report import inside  # noqa: PLC0415
    from simulation.runs import answers  # noqa: PLC0415

    machines = answers.machines(run)
    return Assistant(
        name=run.resolve().name,
        committee=answers.open_on(run, None),
        thresholds=inside.thresholds(run),
        machines=machines or frozenset(),
        others_known=machines is not None,
    )
