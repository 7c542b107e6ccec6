"""The sites with which this one makes sums, and their keys: pinned in ``[peers]`` of ``site.toml`` by people.

The centre keeps the registry, so it could invent sites; a key that it passes on counts for nothing. Keys are
exchanged out of band: at a meeting, by telephone, in a signed mail.
"""

from __future__ import annotations

from client.site import keys, site_toml
from client.site.site import Site
from common.errors import ConfigurationError, PolicyError
from common.sections.secure import SecureSettings
from common.secure_aggregation.identity import Identity


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
    peers = {**site.file.peers, name: key}
    Identity(site=site.name, key=keys.signing_key(site.folder), peers=peers)
    expected = site.file.model_copy(update={"peers": peers})
    site_toml.add_line(site, "peers", f'"{name}" = "{key}"', expected=expected)


def check(site: Site, secure: SecureSettings | None) -> None:
    """Whether enough keys are pinned for a campaign's sums, if it has any, asked before it begins.

    Raises:
        PolicyError: if not.
    """
    if secure is not None and len(site.peers) < secure.survivors - 1:
        raise PolicyError(
            f"The campaign sums over {secure.survivors} sites or more, [peers] in site.toml has keys of "
            f"{len(site.peers)} others: get them from the sites' people and add them with `synofed site peers add`"
        )
