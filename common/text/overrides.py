"""``--set SECTION.KEY=VALUE``, of every command that reads a configuration."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from common.errors import ConfigurationError


def pair(override: str) -> tuple[str, str]:
    """Key and value of an override, the key without spaces around it.

    Raises:
        ConfigurationError: if one of the two is missing.
    """
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise ConfigurationError(
            f"Expected --set with key=value in one word, as federation.rounds=10, got {override!r}"
        )
    return key.strip(), value


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
