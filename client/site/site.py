"""A site: its folder and its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from client.site.policy import Policy
from common.enrolment import Hex32, SiteName
from common.errors import DataError, refusal
from common.sections.section import Section, secret, section
from common.text import toml_text


class DataSection(Section):
    """The ``[data]`` section of ``site.toml``."""

    folder: Path = Path()
    """Of tables and pictures; from the site's folder, or absolute."""
    manifest: str = "manifest.csv"
    grades: str = "grades.csv"
    consensus: Annotated[str, Field(pattern=r"^(median|majority|adjudicated|reader:.+)$")] = "median"
    """How several readers' grades become one: ``median``, ``majority``, ``adjudicated`` or ``reader:NAME``."""


class ComputeSection(Section):
    """The ``[compute]`` section of ``site.toml``."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    """What trains; ``auto``: the first GPU, or the CPU where there is none."""
    threads: Annotated[int, Field(ge=0, le=4096)] = 0
    """CPU threads; 0: as many as there are cores. The same number gives the same bits."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the GPU's memory that training may take."""
    stacked: bool = False
    """Whether networks of one shape train at once; last bits depend on it. Slower on a CPU."""


def proxy_objection(url: str) -> str | None:
    """What a forward proxy's URL lacks, said without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    rest = fits and (parts.path.strip("/") or parts.query or parts.fragment)
    if not url or (fits and not rest and parts.netloc.count("@") < 2 and not re.search(r"\s", url)):
        return None
    return (
        "expected http://[USER:PASSWORD@]HOST:PORT, the letters / # ? @ : % and blanks of a password written as "
        "%2F %23 %3F %40 %3A %25 %20"
    )


class NetworkSection(Section):
    """The ``[network]`` section of ``site.toml``."""

    proxy: Annotated[SecretStr, secret(proxy_objection)] = SecretStr("")
    """The hospital's forward proxy, ``http://[USER:PASSWORD@]HOST:PORT``; empty: connect directly."""


class NotifySection(Section):
    """The ``[notify]`` section of ``site.toml``."""

    command: tuple[Annotated[str, Field(pattern=r"^[^\x00]+$", max_length=10_000)], ...] = ()
    """Run without a shell when a campaign waits for a decision, once for each; none: nobody is told."""


class AuditSection(Section):
    """The ``[audit]`` section of ``site.toml``."""

    after_campaigns: bool = True
    """Whether the private step is rehearsed by itself, on made-up patients, once a private campaign's last round was
    answered. The result stays here."""
    minutes: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long that may take; it runs behind everything else."""


class OfficerSection(Section):
    """The ``[officer]`` section of ``site.toml``."""

    folder: Path = Path("officer")
    """Where the pages ask for signatures and the officer's own process puts them; from the site's folder, or
    absolute, where another account has to reach it."""


class SiteFile(Section):
    """``site.toml``: what belongs to the site alone."""

    name: SiteName
    data: DataSection = DataSection()
    policy: Policy = Policy()
    peers: dict[SiteName, Hex32] = Field(default_factory=dict)
    """Site -> Ed25519 key of its receipts in hex, as its people gave it: with these alone are sums made."""
    compute: ComputeSection = ComputeSection()
    network: NetworkSection = NetworkSection()
    notify: NotifySection = NotifySection()
    officer: OfficerSection = OfficerSection()
    audit: AuditSection = AuditSection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An opened site folder."""

    folder: Path
    file: SiteFile

    @classmethod
    def open(cls, folder: Path) -> Site:
        """Read ``site.toml``.

        Raises:
            DataError: if there is no such folder.
            ConfigurationError: if ``site.toml`` cannot be used.
        """
        path = folder / "site.toml"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"Expected a site's folder with site.toml at {folder}: {refusal(error)}"
            ) from None
        document = toml_text.read(content, source=str(path))
        return cls(folder=folder, file=section(SiteFile, document, source=str(path)))

    @property
    def name(self) -> str:
        """The site's name in the federation."""
        return self.file.name

    @property
    def policy(self) -> Policy:
        """What the site permits."""
        return self.file.policy

    @property
    def peers(self) -> dict[str, str]:
        """The other sites whose keys are pinned, by name."""
        return {name: key for name, key in self.file.peers.items() if name != self.name}

    @property
    def data_folder(self) -> Path:
        """Where the site's tables and pictures are."""
        return self.folder / self.file.data.folder
