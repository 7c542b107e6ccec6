"""What is not built in: a backbone, method or rule given as ``package.module:Name``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from common.errors import ConfigurationError


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
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{what} = {name!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ConfigurationError(f"Expected {what} = {name!r} to be a class or function, got {found!r:.80}")
    return found  # type: ignore[no-any-return]
