"""Groups of commands whose modules are imported when one of them is asked for, so that the others start at once.

``--help`` of a group is written from its table alone. That of a command imports the command's module, which has to be
light: what a command needs beyond its options is imported where it runs.
"""

from __future__ import annotations

import importlib
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import click
import typer
from rich.markup import escape
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.utils import get_params_from_function

Table: TypeAlias = Mapping[str, tuple[str, str]]
"""Name -> where it is, and what lists say of it.

It is at ``package.module:name``, a function, or a Typer application, which is a group. Lists say all of a group's
help, and the start of a function's docstring.
"""


def group(table: Table) -> type[TyperGroup]:
    """The class of a Typer application that has a table's commands, in its order."""

    class Group(TyperGroup):
        """Lists show the table; whoever looks into :attr:`commands` gets the commands themselves."""

        def __init__(self, **attributes: object) -> None:
            super().__init__(**attributes)  # type: ignore[arg-type]
            self.listed = {name: click.Command(name, help=escape(line)) for name, (_, line) in table.items()}
            self.commands = _Commands(table)
            self.suggest_commands = False  # click does, and Typer would say the same again

        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(self.listed)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return self.listed.get(cmd_name)

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            name, listed, rest = super().resolve_command(ctx, args)
            return name, listed and self.commands[listed.name or ""], rest

    return Group


class _Commands(UserDict[str, click.Command]):
    """Commands by name; the first look at one imports it."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            self.data[name] = _imported(name, *self._table[name])
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def _imported(name: str, place: str, line: str) -> click.Command:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: click.Command = typer.main.get_group(found)
        command.help = line
    else:
        alone = typer.Typer(add_completion=False)
        alone.command()(found)
        command = typer.main.get_command(alone)
    command.name = name
    return _as_written(command)


def _as_written(command: click.Command) -> click.Command:
    """With help texts that are shown as they are written: Typer takes ``[cohort]`` for a style."""
    command.help = command.help and escape(command.help)
    written = getattr(command.callback, "__wrapped__", None)
    said = get_params_from_function(written) if written is not None else {}
    for parameter in command.params:
        if isinstance(parameter, TyperArgument | TyperOption) and parameter.name in said:
            # from the source: what Typer gives an argument to say, click 8.5 drops
            parameter.help = escape(getattr(said[parameter.name].default, "help", None) or "")
    if isinstance(command, TyperGroup) and not isinstance(command.commands, _Commands):
        command.suggest_commands = False
        for inner in command.commands.values():
            _as_written(inner)
    return command
