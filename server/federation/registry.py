"""The registry: which sites the centre invited, which take part, and which were shut out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from common.errors import ConfigurationError
from common.machine import atomic, file_lock
from common.sections.section import Section, describe
from server.federation.home import Home

Status = Literal["invited", "registered", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredSite:
    """What the centre knows of one site.

    Attributes:
        name: the site's name in the federation.
        status: ``invited`` until its request is accepted; ``revoked`` until it is invited again.
        node_key: its public key for connections (EC P-384, OpenSSH text); empty while ``invited``.
        receipt_key: its public key for receipts (Ed25519, 32 bytes in hex); empty while ``invited``.
        invited_at: when it was last invited, ISO 8601.
        registered_at: when its request was accepted, ISO 8601; empty if it never was.
        revoked_at: when it was last revoked, ISO 8601; empty if it never was.
    """

    name: str
    status: Status
    node_key: str = ""
    receipt_key: str = ""
    invited_at: str = ""
    registered_at: str = ""
    revoked_at: str = ""


class _File(Section):
    sites: tuple[RegisteredSite, ...] = ()
    revoked_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """The sites as they were when the file was read. The nodes that may connect are exactly :meth:`registered`.

    Changes are made by the functions of :mod:`server.federation.provision`.
    """

    file: _File

    @classmethod
    def open(cls, home: Path) -> Registry:
        """Read ``registry.json`` of the centre's home; one that is being made has a registry without sites.

        Raises:
            ConfigurationError: if it cannot be read, is damaged, or was lost: all sites would be shut out.
        """
        path = Home(home).registry
        try:
            return cls(_File.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            if Home(home).settings_file.exists():
                raise ConfigurationError(f"Expected the registry {path}: restore it from a backup") from None
            return cls(_File())
        except OSError as error:
            raise ConfigurationError(f"Expected to read {path}: {error.strerror}") from None
        except ValidationError as error:
            raise ConfigurationError(
                f"{path} is damaged, restore it from a backup. {describe(error, source=str(path))}"
            ) from None

    def sites(self) -> tuple[RegisteredSite, ...]:
        """All sites, by name."""
        return self.file.sites

    def registered(self) -> tuple[RegisteredSite, ...]:
        """The sites that may connect, by name."""
        return tuple(site for site in self.file.sites if site.status == "registered")

    def revoked_keys(self) -> frozenset[str]:
        """Keys that may never be registered again."""
        return frozenset(self.file.revoked_keys)

    def site(self, name: str) -> RegisteredSite | None:
        """The site of a name, if there is one."""
        return next((site for site in self.file.sites if site.name == name), None)

    def alike(self, name: str) -> RegisteredSite | None:
        """The site of a name that differs at most in case: its receipts become a file of that name."""
        return next((site for site in self.file.sites if site.name.casefold() == name.casefold()), None)

    def with_site(self, site: RegisteredSite) -> Registry:
        """The registry with one site added or replaced."""
        others = [other for other in self.file.sites if other.name != site.name]
        sites = tuple(sorted([*others, site], key=lambda one: one.name))
        return Registry(self.file.model_copy(update={"sites": sites}))

    def with_revoked(self, site: RegisteredSite) -> Registry:
        """The registry with one site that is revoked, and its keys barred for ever."""
        keys = {*self.file.revoked_keys, site.node_key, site.receipt_key} - {""}
        barred = Registry(self.file.model_copy(update={"revoked_keys": tuple(sorted(keys))}))
        return barred.with_site(site)

    def write(self, home: Path) -> None:
        """Write ``registry.json``, whole or not at all; the caller holds :func:`lock`."""
        text = self.file.model_dump_json(indent=2) + "\n"
        atomic.write(Home(home).registry, text.encode(), mode=0o644)


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Keeps every other process from changing the centre's home; waits for one that does.

    Raises:
        ConfigurationError: if the home cannot be written, here or while it is held.
    """
    path = Home(home).registry.with_name(".registry.lock")
    try:
        with file_lock.hold(path, mode=0o666):
            yield
    except OSError as error:
        raise ConfigurationError(
            f"Expected to write in the centre's home {home}: {error.strerror}. Free or permit it, then run the "
            f"same command again"
        ) from None
