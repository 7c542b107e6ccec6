"""The centre's home: where its certificates, its registry and its campaigns lie, and what it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field, field_validator

from common.enrolment import split_address
from common.errors import ConfigurationError, refusal
from common.machine import atomic
from common.sections.section import Section, section
from common.text import toml_text

Port = Annotated[int, Field(ge=1, le=65535)]


class ProxySection(Section):
    """Where the proxy listens that hospitals reach; a router may map another public port to it."""

    host: str = "0.0.0.0"  # hospitals come from outside; the proxy is what faces them
    port: Port


class SuperlinkSection(Section):
    """Where the SuperLink listens: on loopback, always."""

    port: Port = 28000


class Federation(Section):
    """``federation.toml``."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,48}$")]
    address: str
    """``HOST:PORT`` that hospitals connect to."""
    proxy: ProxySection
    superlink: SuperlinkSection = SuperlinkSection()

    @field_validator("address")
    @classmethod
    def _address_can_be_used(cls, address: str) -> str:
        try:
            split_address(address)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return address

    @property
    def host(self) -> str:
        """The name or address that the server's certificate is for."""
        return split_address(self.address)[0]


@dataclass(frozen=True, slots=True)
class Home:
    """The paths under the centre's folder."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """``federation.toml``: its presence says that the centre is provisioned."""
        return self.path / "federation.toml"

    @property
    def ca_certificate(self) -> Path:
        """The certificate that every site trusts, PEM."""
        return self.path / "ca" / "ca.crt"

    @property
    def receipts(self) -> Path:
        """The highest receipt of each site and campaign, over all runs: one folder per site."""
        return self.path / "receipts"

    @property
    def ca_key(self) -> Path:
        """The key of the certificate authority, PEM."""
        return self.path / "ca" / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """The proxy's certificate, PEM."""
        return self.path / "server" / "server.crt"

    @property
    def server_key(self) -> Path:
        """The key of the proxy's certificate, PEM."""
        return self.path / "server" / "server.key"

    @property
    def registry(self) -> Path:
        """The sites."""
        return self.path / "registry.json"

    @property
    def codes(self) -> Path:
        """One-time codes of sites that were invited and not yet accepted."""
        return self.path / "codes"

    @property
    def superlink(self) -> Path:
        """The SuperLink's state and logs."""
        return self.path / "superlink"

    @property
    def runs(self) -> Path:
        """One folder per campaign."""
        return self.path / "runs"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of them, none of which anybody but their owner may open."""
        return (self.ca_key.parent, self.server_key.parent, self.codes, self.superlink, self.runs)

    def make(self, folder: Path) -> None:
        """Make the home or a folder in it, for its owner only.

        Raises:
            ConfigurationError: if it cannot be made.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"Expected to make the folder {folder}: {refusal(error)}") from None

    def federation(self) -> Federation:
        """Read ``federation.toml``.

        Raises:
            ConfigurationError: if there is none, or it cannot be used.
        """
        try:
            content = self.settings_file.read_bytes()
        except FileNotFoundError:
            raise ConfigurationError(
                f"Expected the centre's home with federation.toml at {self.path}: name it with --home, or make "
                f"it with synofed federation provision"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"Expected to read {self.settings_file}: {error.strerror}") from None
        document = toml_text.read(content, source=str(self.settings_file))
        return section(Federation, document, source=str(self.settings_file))

    def write_federation(self, federation: Federation) -> None:
        """Write ``federation.toml``."""
        text = tomli_w.dumps(federation.model_dump(mode="json"))
        atomic.write(self.settings_file, text.encode())
