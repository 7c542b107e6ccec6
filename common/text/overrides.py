"""``--set SECTION.KEY=VALUE``, of every command that reads a configuration."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from common.text.toml_text import pair


def _each_a_pair(overrides: list[str] | None) -> list[str] | None:
    """Said before words are counted: of ``--set KEY VALUE`` the value would be called one argument too many."""
    for override in overrides or []:
        pair(override)
    return overrides


SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a setting; repeatable.",
        callback=_each_a_pair,
    ),
]
