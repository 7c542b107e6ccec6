"""A line more in ``site.toml``, with all else in it as its people wrote it."""

from __future__ import annotations

import re

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
    path = site.folder / "site.toml"
    try:
        text, mode = toml_text.decoded(path.read_bytes(), source=str(path)), path.stat().st_mode & 0o777
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {refusal(error)}") from None
    header = re.search(rf"^\[{section}\][ \t]*(#.*)?$", text, re.MULTILINE)
    if header is None:
        text = f"{text.rstrip()}\n\n[{section}]\n{line}\n"
    else:
        text = f"{text[: header.end()]}\n{line}{text[header.end() :]}"
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
    atomic.write(path, text.encode(), mode=mode)
    return Site(folder=site.folder, file=file)
