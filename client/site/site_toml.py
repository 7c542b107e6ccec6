"""A line of ``site.toml`` added or set, with all else in it as its people wrote it."""

from __future__ import annotations

import re

import tomli_w
from pydantic import ValidationError

from client.files import atomic
from client.site.site import Site, SiteFile
from common.errors import ConfigurationError, StorageError, refusal
from common.settings import describe
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
    line = tomli_w.dumps({name: value}).strip()
    text = _read(site)
    header = _header(text, section)
    start = header.end() if header is not None else len(text)
    following = re.search(r"^[ \t]*\[", text[start:], re.MULTILINE)
    end = start + following.start() if following else len(text)
    there = re.compile(rf"""^[ \t]*{name}[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*')""", re.MULTILINE)
    if there.search(text, start, end) is None:
        return add_line(site, section, line, expected=expected)
    text = text[:start] + there.sub(lambda found: line, text[start:end], count=1) + text[end:]
    return _written(site, text, section=section, line=line, expected=expected)


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
