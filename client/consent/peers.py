"""The sites with which this one makes sums, and their keys: pinned in ``[peers]`` of ``site.toml`` by people.

The centre keeps the registry, so it could invent sites; a key that it passes on counts for nothing. Keys are
exchanged out of band: at a meeting, by telephone, in a signed mail.
"""

from __future__ import annotations

import re

from pydantic import ValidationError

from client.files import atomic
from client.site import keys
from client.site.site import Site, SiteFile
from common.errors import ConfigurationError, PolicyError
from common.secure_aggregation.identity import Identity
from common.settings import Settings, describe
from common.text import toml_text

HEADER = re.compile(r"^\[peers\][ \t]*(#.*)?$", re.MULTILINE)


def add(site: Site, name: str, key: str) -> None:
    """Pin another site's key; the rest of ``site.toml`` stays as it is.

    Args:
        site: this one.
        name: the other's, as the centre knows it.
        key: Ed25519 in hex, as `synofed site peers own` prints it there.

    Raises:
        ConfigurationError: if the site is pinned already with another key, the key is malformed or another site's, or
            the file cannot be edited.
        StorageError: if it cannot be written.
    """
    if site.file.peers.get(name) == key:
        return
    if name in site.file.peers:
        raise ConfigurationError(
            f"Expected {name} with key {site.file.peers[name]:.16} as pinned before, got {key:.16}: ask its "
            f"people on another way, then remove the old line from [peers] in site.toml"
        )
    Identity(site=site.name, key=keys.signing_key(site.folder), peers={**site.file.peers, name: key})
    path = site.folder / "site.toml"
    text = toml_text.decoded(path.read_bytes(), source=str(path))
    line = f'"{name}" = "{key}"'
    found = HEADER.search(text)
    if found is None:
        text = f"{text.rstrip()}\n\n[peers]\n{line}\n"
    else:
        text = f"{text[: found.end()]}\n{line}{text[found.end() :]}"
    _check(text, site, name, key)
    atomic.write(path, text.encode(), mode=path.stat().st_mode & 0o777)


def check(site: Site, settings: Settings) -> None:
    """Whether enough keys are pinned for a campaign's sums, asked before it begins.

    Raises:
        PolicyError: if not.
    """
    secure = settings.federation.secure
    if secure is not None and len(site.peers) < secure.survivors - 1:
        raise PolicyError(
            f"The campaign sums over {secure.survivors} sites or more, [peers] in site.toml has keys of "
            f"{len(site.peers)} others: get them from the sites' people and add them with `synofed site peers add`"
        )


def _check(text: str, site: Site, name: str, key: str) -> None:
    try:
        file = SiteFile.model_validate(toml_text.parse(text, source="site.toml"))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Expected [peers] in site.toml as a section of its own: add {name} there by hand ({error})"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(describe(error, source="site.toml with the new peer")) from None
    if file != site.file.model_copy(update={"peers": {**site.file.peers, name: key}}):
        raise ConfigurationError(f"Expected to add {name} to [peers] in site.toml alone: add it by hand")
