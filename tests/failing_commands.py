"""Every command of synofed made to raise, each in a process of its own: ``python -m tests.failing_commands HOW OUT``.

What a process prints goes to ``OUT/<command>.txt``, its exit code as the last line.
"""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

import synofed
from simulation.cli.command_line import commands

LOGIN = "user:pa/ss@w0rd-planted"
PROXY = f"http://{LOGIN}@proxy.example.org:3128"
KEY_LINE = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgplanted"
KEY = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\n-----END PRIVATE KEY-----\n"
CODE = "c0de" * 16
PLANTED = ("w0rd-planted", KEY_LINE, CODE)


def leaves(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with its words."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


def every_command() -> list[tuple[tuple[str, ...], click.Command]]:
    found = commands()
    return list(leaves(typer.main.get_command(found)))


def needed(command: click.Command) -> Iterator[str]:
    """Some value for everything that a command cannot do without."""
    for parameter in command.params:
        if not parameter.required:
            continue
        value = {"integer": "1", "integer range": "1", "float": "1"}.get(parameter.type.name, "x")
        if isinstance(parameter, click.Option):
            yield parameter.opts[0]
        yield value


def fails(how: str) -> None:
    invoke = click.Command.invoke

    def failing(self: click.Command, ctx: click.Context) -> Any:
        if isinstance(self, click.Group):
            return invoke(self, ctx)
        proxy, key, code = PROXY, KEY, CODE  # what a traceback with variables would show
        if how == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/[red]full[/red]")
        raise RuntimeError(f"no way through {proxy}: {key} {{'code': '{code}'}}")

    click.Command.invoke = failing  # type: ignore[method-assign]


def main() -> None:
    how, out = sys.argv[1], Path(sys.argv[2])
    for path, command in every_command():
        arguments = [*path, *needed(command)]
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            with (out / f"{'-'.join(path)}.txt").open("a") as file:
                file.write(f"\nexit code {os.waitstatus_to_exitcode(status)}\n")
            continue
        code = 70
        try:
            descriptor = os.open(out / f"{'-'.join(path)}.txt", os.O_CREAT | os.O_WRONLY)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            fails(how)
            sys.argv = ["synofed", *arguments]
            try:
                synofed.main()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            except BaseException as error:  # as the interpreter does
                sys.excepthook(type(error), error, error.__traceback__)
                code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    main()
