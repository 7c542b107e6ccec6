"""Setting up the centre: its authority, its server's certificate, its settings; again after a kill, too."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from pydantic import ValidationError

from common.enrolment import certificate_fingerprint, split_address
from common.errors import ConfigurationError
from common.machine import atomic
from common.sections.section import describe
from server.federation import certificates
from server.federation.certificates import Certified
from server.federation.home import Federation, Home, ProxySection, SuperlinkSection
from server.federation.registry import Registry, lock

_SERVER_WARNS_DAYS = 30
_AUTHORITY_WARNS_DAYS = 2 * certificates.SERVER_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """How long the centre's certificates can be used.

    Attributes:
        server_days: whole days left of the server's certificate; negative once it has ended.
        authority_days: of the authority's.
    """

    server_days: int
    authority_days: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator has to do, if anything."""
        found = []
        if self.server_days < _SERVER_WARNS_DAYS:
            found.append(
                f"The server's certificate {_ends(self.server_days)}: run synofed federation renew, sites need "
                f"do nothing"
            )
        if self.authority_days < _AUTHORITY_WARNS_DAYS:
            found.append(
                f"The authority's certificate {_ends(self.authority_days)}, and no server's certificate outlives "
                f"it: plan a new home by then, and a new invitation for every site"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What :func:`provision` found or made.

    Attributes:
        federation: what is in ``federation.toml``.
        ca_fingerprint: of the authority's certificate, in hex; sites compare it by telephone.
        made: paths made now, from the home.
        kept: paths that existed.
    """

    federation: Federation
    ca_fingerprint: str
    made: tuple[str, ...]
    kept: tuple[str, ...]


def provision(
    home: Path, *, name: str, address: str, listen: str = "", superlink_port: int = 28000, now: datetime
) -> Provisioned:
    """Make what is missing of the centre's home; what exists is never overwritten.

    Args:
        home: the folder, made if it is absent.
        name: the federation's name, which sites and their officers see.
        address: ``HOST:PORT`` that hospitals connect to.
        listen: ``HOST:PORT`` that the proxy binds; every interface at the address's port by default.
        superlink_port: of the SuperLink, on loopback.
        now: the present, with its time zone.

    Raises:
        ConfigurationError: if a name or address cannot be used, or another federation lives in the home.
    """
    federation = _federation(name, address, listen, superlink_port)
    paths = Home(home)
    paths.make(home)
    with lock(home):
        finished = paths.settings_file.exists()
        if finished:
            federation = _same(paths.federation(), federation, paths.settings_file)
        certified = (paths.ca_key, paths.ca_certificate, paths.server_key, paths.server_certificate)
        files = (*certified, paths.registry, paths.settings_file)
        kept = tuple(str(path.relative_to(home)) for path in files if path.exists())
        for folder in paths.folders:
            paths.make(folder)
        authority = certificates.read_authority(paths) if finished else _make_authority(paths, name, now)
        _make_server_key(paths)
        if not _certified(paths, federation.host):
            _certify(paths, authority, federation.host, now=now)
        registry = Registry.open(home)
        if not paths.registry.exists():
            registry.write(home)
        if not finished:
            paths.write_federation(federation)  # last: its presence says that all else is there
    return Provisioned(
        federation=federation,
        ca_fingerprint=certificate_fingerprint(paths.ca_certificate.read_text(encoding="ascii")),
        made=tuple(one for path in files if (one := str(path.relative_to(home))) not in kept),
        kept=kept,
    )


def renew(home: Path, *, now: datetime) -> Validity:
    """Certify the server anew under the same authority, with the same key: no site hears of it.

    The address is read from ``federation.toml``, so this also follows a change of it. A server's key that is
    not there is made.

    Raises:
        ConfigurationError: if the home cannot be used, or the authority has ended.
    """
    paths = Home(home)
    federation = paths.federation()
    with lock(home):
        authority = certificates.read_authority(paths)
        _make_server_key(paths)
        _certify(paths, authority, federation.host, now=now)
    return validity(home, now=now)


def validity(home: Path, *, now: datetime) -> Validity:
    """How long the centre's certificates can be used.

    Raises:
        ConfigurationError: if one cannot be read.
    """
    paths = Home(home)
    server = certificates.read_certificate(paths.server_certificate)
    authority = certificates.read_certificate(paths.ca_certificate)
    return Validity(
        server_days=certificates.days_left(server, now=now),
        authority_days=certificates.days_left(authority, now=now),
    )


def _federation(name: str, address: str, listen: str, superlink_port: int) -> Federation:
    port = split_address(address)[1]
    host, listen_port = split_address(listen) if listen else ("0.0.0.0", port)
    try:
        return Federation(
            name=name,
            address=address,
            proxy=ProxySection(host=host, port=listen_port),
            superlink=SuperlinkSection(port=superlink_port),
        )
    except ValidationError as error:
        raise ConfigurationError(describe(error, source="the federation")) from None


def _same(existing: Federation, asked: Federation, path: Path) -> Federation:
    """What exists, unless it is another federation.

    Raises:
        ConfigurationError: if it is.
    """
    if existing.name != asked.name:
        raise ConfigurationError(
            f"Expected the federation {existing.name!r} of {path}, got {asked.name!r}: give a new one another "
            f"home with --home"
        )
    if existing.address != asked.address:
        raise ConfigurationError(
            f"Expected the address {existing.address} of {path}, got {asked.address}: to move, change it in "
            f"that file, run synofed federation renew, and have sites change it in their federation.json"
        )
    return existing


def _make_authority(paths: Home, name: str, now: datetime) -> Certified:
    """The authority of a home that is being made: what a former attempt left of it is kept."""
    if not paths.ca_certificate.exists():
        key = certificates.read_key(paths.ca_key) if paths.ca_key.exists() else None
        authority = certificates.make_authority(name, key=key, now=now)
        atomic.write(paths.ca_key, certificates.key_pem(authority.key), mode=0o600)
        atomic.write(paths.ca_certificate, certificates.certificate_pem(authority.certificate))
    return certificates.read_authority(paths)


def _make_server_key(paths: Home) -> None:
    if not paths.server_key.exists():
        atomic.write(paths.server_key, certificates.key_pem(certificates.new_key()), mode=0o600)


def _certified(paths: Home, host: str) -> bool:
    """Whether there is a certificate of the server's key for its host; one that ended is for ``renew``."""
    if not paths.server_certificate.exists():
        return False
    certificate = certificates.read_certificate(paths.server_certificate)
    server = Certified(certificate=certificate, key=certificates.read_key(paths.server_key))
    return server.fits and host.lower() in certificates.hosts(certificate)


def _certify(paths: Home, authority: Certified, host: str, *, now: datetime) -> x509.Certificate:
    if authority.certificate.not_valid_after_utc <= now:
        raise ConfigurationError(
            f"The authority's certificate ended on {authority.certificate.not_valid_after_utc:%Y-%m-%d}: make a "
            f"new home with synofed federation provision, and invite every site to it"
        )
    key = certificates.read_key(paths.server_key)
    certificate = certificates.certify_server(authority, key, host, now=now)
    atomic.write(paths.server_certificate, certificates.certificate_pem(certificate))
    return certificate


def _ends(days: int) -> str:
    return f"ends in {days} days" if days >= 0 else "has ended"
