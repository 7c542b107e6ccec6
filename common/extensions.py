"""What is not built in: a backbone, method or rule given as ``package.module:Name``."""

from __future__ import annotations

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, SynofedError

_HOME = Path(__file__).resolve().parents[1]
_PACKAGES = ("common", "client", "server", "simulation")
_KNOWN = (
    *(_HOME / name for name in _PACKAGES),
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)


def is_object_path(name: str) -> bool:
    """Whether a setting names user code (``package.module:Name``)."""
    return ":" in name


def load_object(name: str, *, what: str) -> Callable[..., Any]:
    """What ``package.module:Name`` stands for.

    Args:
        name: the setting.
        what: the setting's name, for the message.

    Raises:
        ConfigurationError: if it cannot be imported or called.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may fail in any way while it is imported
        raise ConfigurationError(f"{what} = {name!r} cannot be imported: {_told(error)}") from None
    if not callable(found):
        raise ConfigurationError(f"Expected {what} = {name!r} to be a class or function, got {found!r:.80}")
    return found  # type: ignore[no-any-return]


def make(name: str, *arguments: object, what: str, takes: str) -> Any:
    """What ``package.module:Name`` gives when it is called.

    Args:
        name: the setting.
        arguments: that it is called with.
        what: the setting's name, for the message.
        takes: what it is called with, in words.

    Raises:
        ConfigurationError: if it cannot be imported, or fails; with the user's file and line.
    """
    found = load_object(name, what=what)
    try:
        return found(*arguments)
    except SynofedError:
        raise
    except Exception as error:  # whatever foreign code does
        raise ConfigurationError(
            f"{what} = {name!r}, which is called with {takes}, fails: {_told(error, found)}"
        ) from None


def _told(error: Exception, called: Callable[..., Any] | None = None) -> str:
    """An error of foreign code, and where it is."""
    where = _place(error, called)
    return f"{type(error).__name__}: {error}{f' ({where})' if where else ''}"


def _place(error: Exception, called: Callable[..., Any] | None) -> str:
    """File and line; where the call did not get as far as the code, those of what was called."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_known(f.filename)]
    if frames:
        return f"{frames[-1].filename}, line {frames[-1].lineno}"
    try:
        return f"{inspect.getsourcefile(called)}, line {inspect.getsourcelines(called)[1]}" if called else ""
    except (OSError, TypeError):
        return ""


def _is_known(filename: str) -> bool:
    """Whether a file is synofed's, or a library's: the fault shows there, and is in what called it."""
    return filename.startswith("<frozen") or any(Path(filename).is_relative_to(place) for place in _KNOWN)
