"""TOML as people save it, and ``--set``: a byte order mark is left out, another code page named with its place."""

from __future__ import annotations

import codecs
import tomllib
from typing import Any

from common.errors import ConfigurationError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(content: bytes, *, source: str) -> dict[str, Any]:
    """Read a TOML document.

    Args:
        content: of the file; UTF-8, or UTF-16 with its mark.
        source: name used in error messages.

    Raises:
        ConfigurationError: if it is in another code page, or no TOML.
    """
    return parse(decoded(content, source=source), source=source)


def parse(text: str, *, source: str) -> dict[str, Any]:
    """Read a TOML document from text.

    Raises:
        ConfigurationError: if it is no TOML.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source} is not TOML: {error}") from None


def decoded(content: bytes, *, source: str) -> str:
    """The text of a file, its byte order mark left out.

    Raises:
        ConfigurationError: naming line and byte that are not in UTF-8.
    """
    if content.startswith(_UTF_16):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start : error.start + 1]
        letter = byte.decode("cp1252", errors="replace")
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{source} is not TOML: line {line} has the byte 0x{byte.hex().upper()}, which is not UTF-8 (in "
            f"Windows-1252 it is {letter!r}): save the file as UTF-8"
        ) from None


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
