"""A line of ``site.toml`` added or set, with all else in it as its people wrote it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

import tomli_w
from pydantic import ValidationError

from client.files import atomic
from client.site.site import Site, SiteFile
from common.errors import ConfigurationError, StorageError, refusal
from common.sections.section import describe
from common.text import toml_text


def add_line(site: Site, section: str, line: str, *, expected: SiteFile) -> Site:
    """Add a line to a section, which is made where there is none.

    Args:
        site: as it was read.
        section: its name.
        line: TOML.
        expected: what the file says then.

    Returns:
        The site as it is now.

    Raises:
        ConfigurationError: if the file would say anything else; then it stays as it was.
        StorageError: if it cannot be read or written.
    """
    text = _read(site)
    header = _header(text, section)
    if header is None:
        text = f"{text.rstrip()}\n\n[{section}]\n{line}\n"
    else:
        text = f"{text[: header.end()]}\n{line}{text[header.end() :]}"
    return _written(site, text, section=section, line=line, expected=expected)


def set_text(site: Site, section: str, name: str, value: str, *, expected: SiteFile) -> Site:
    """Set a section's text, where it stands or as a new line; the rest of its line stays.

    Args:
        site: as it was read.
        section: its name.
        name: of the setting.
        value: what it becomes.
        expected: what the file says then.

    Returns:
        The site as it is now.

    Raises:
        ConfigurationError: if the file would say anything else; then it stays as it was.
        StorageError: if it cannot be read or written.
    """
    return set_values(site, section, {name: value}, expected=expected)


def set_values(site: Site, section: str, values: Mapping[str, object], *, expected: SiteFile) -> Site:
    """Set settings of a section, each where it stands or as a new line; remarks beside them stay.

    Args:
        site: as it was read.
        section: its name.
        values: of the settings; ``None`` takes a line out.
        expected: what the file says then.

    Returns:
        The site as it is now.

    Raises:
        ConfigurationError: if the file would say anything else; then it stays as it was.
        StorageError: if it cannot be read or written.
    """
    lines = {name: _line(name, value) for name, value in values.items()}
    text = _read(site)
    if _header(text, section) is None:
        text = f"{text.rstrip()}\n\n[{section}]\n"
    for name, line in lines.items():
        start, end = _place(text, section)
        text = text[:start] + _with_line(text[start:end], name, line) + text[end:]
    said = "; ".join(line or f"no {name}" for name, line in lines.items())
    return _written(site, text, section=section, line=said, expected=expected)


def _line(name: str, value: object) -> str:
    if value is None:
        return ""
    return f"{name} = {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def _place(text: str, section: str) -> tuple[int, int]:
    """Where the lines of a section begin and end."""
    header = _header(text, section)
    start = header.end() if header is not None else len(text)
    following = re.search(r"^[ \t]*\[", text[start:], re.MULTILINE)
    return start, start + following.start() if following else len(text)


def _with_line(part: str, name: str, line: str) -> str:
    """The lines of a section with another line for a setting, which may stand over several."""
    there = re.search(rf"^[ \t]*{name}[ \t]*=", part, re.MULTILINE)
    if there is None:
        return f"\n{line}{part}" if line else part
    lines = part[there.start() :].splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        old = "".join(lines[:count])
        try:
            value = tomllib.loads(old)
        except tomllib.TOMLDecodeError:
            continue
        rest = part[there.start() + len(old) :]
        return part[: there.start()] + (f"{line}{_remark(old, value)}\n{rest}" if line else rest)
    return f"\n{line}{part}"  # cannot be read: what comes of it is not what is expected


def _remark(old: str, value: object) -> str:
    """What stands beside a setting, with the blanks before it."""
    for found in re.finditer(r"[ \t]*#", old):
        try:
            if tomllib.loads(old[: found.start()]) == value:
                return old[found.start() :].rstrip("\n")
        except tomllib.TOMLDecodeError:
            continue
    return ""


def _read(site: Site) -> str:
    path = site.folder / "site.toml"
    try:
        return toml_text.decoded(path.read_bytes(), source=str(path))
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {refusal(error)}") from None


def _header(text: str, section: str) -> re.Match[str] | None:
    return re.search(rf"^\[{section}\][ \t]*(#.*)?$", text, re.MULTILINE)


def _written(site: Site, text: str, *, section: str, line: str, expected: SiteFile) -> Site:
    path = site.folder / "site.toml"
    try:
        file = SiteFile.model_validate(toml_text.parse(text, source="site.toml"))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Expected [{section}] in site.toml as a section of its own: add {line} there by hand ({error})"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=f"site.toml with {line}")) from None
    if file != expected:
        raise ConfigurationError(f"Expected to add {line} to [{section}] in site.toml alone: add it by hand")
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {refusal(error)}") from None
    atomic.write(path, text.encode(), mode=mode)
    return Site(folder=site.folder, file=file)
