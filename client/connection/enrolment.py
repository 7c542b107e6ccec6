"""How a site joins: its folder is laid out, its keys are made here, and a request is written for the centre.

Every step can be repeated after a kill; what exists is kept, keys above all. ``federation.json`` comes last: its
presence says that the site is enrolled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from pydantic import ValidationError

from client.files import atomic
from client.site import keys
from common.enrolment import (
    Hex32,
    Invitation,
    Registration,
    SiteName,
    authority,
    certificate_fingerprint,
    split_address,
)
from common.errors import ConfigurationError, DataError, SynofedError, refusal
from common.sections.section import Section, describe
from common.text import toml_text
from common.version import VERSION

TEMPLATE = Path(__file__).with_name("site_template.toml")


class Enrolment(Section):
    """``federation.json``: which federation the site belongs to."""

    federation: str
    site: SiteName
    address: str
    """``HOST:PORT`` of the centre; the only line that may be changed by hand."""
    ca_fingerprint: Hex32
    """SHA-256 of the authority's certificate."""

    @classmethod
    def open(cls, folder: Path) -> Enrolment:
        """Read ``federation.json`` and hold ``federation/ca.crt`` against it.

        Raises:
            DataError: if the site is not enrolled.
            ConfigurationError: if one of the two files cannot be used.
        """
        enrolment = _read_enrolment(folder)
        if enrolment is None:
            raise DataError(
                f"Expected a site that is enrolled, there is no federation.json in {folder}: ask the centre for "
                f"an invitation, then run synofed site init"
            )
        split_address(enrolment.address)
        place = ca_certificate(folder)
        try:
            found = certificate_fingerprint(place.read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(
                f"Expected the authority's certificate at {place}: run synofed site init again"
            ) from None
        if found != enrolment.ca_fingerprint:
            raise ConfigurationError(
                f"Expected the certificate with fingerprint {enrolment.ca_fingerprint} at {place}, got {found}: "
                f"somebody changed it. Run synofed site init again, and compare fingerprints by telephone"
            )
        return enrolment


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What :func:`enrol` left.

    Attributes:
        enrolment: which federation the site belongs to.
        request: what the centre has to accept.
        made: paths made now, from the site's folder.
        kept: keys and settings that existed and were kept.
    """

    enrolment: Enrolment
    request: Registration
    made: tuple[str, ...]
    kept: tuple[str, ...]


def ca_certificate(folder: Path) -> Path:
    """The certificate of the authority that the site trusts for this federation, PEM."""
    return folder / "federation" / "ca.crt"


def node_key(folder: Path) -> Path:
    """The site's private key for connections, OpenSSH."""
    return folder / "keys" / "node"


def request_file(folder: Path) -> Path:
    """What the site sends to the centre once."""
    return folder / "request.json"


def enrol(folder: Path, invitation: Invitation, *, now: datetime) -> Enrolled:
    """Lay out the site's folder; again with a later invitation of the same site, with the same keys.

    Args:
        folder: the site's, made if it is absent.
        invitation: what the centre gave.
        now: the present, with its time zone.

    Raises:
        ConfigurationError: if the invitation has expired, or the folder is of another site or federation.
        DataError: if the folder cannot be made, or a key in it is damaged.
        StorageError: if the folder cannot be written.
    """
    _check_dates(invitation, now=now)
    enrolment = Enrolment(
        federation=invitation.federation,
        site=invitation.site,
        address=invitation.address,
        ca_fingerprint=certificate_fingerprint(invitation.ca_certificate),
    )
    _check_folder(folder, enrolment)
    lasting = (keys.path(folder), node_key(folder), folder / "site.toml")
    kept = [path for path in lasting if path.exists()]
    try:
        request = _lay_out(folder, invitation)
        _show(folder / "federation.json", enrolment.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise DataError(
            f"Expected to make the site's folder {folder}: {error.strerror}. Free or permit it, then run the "
            f"same command again"
        ) from None
    return Enrolled(
        enrolment=enrolment,
        request=request,
        made=tuple(str(path.relative_to(folder)) for path in lasting if path not in kept),
        kept=tuple(str(path.relative_to(folder)) for path in kept),
    )


def made_from(folder: Path, invitation: Invitation) -> bool:
    """Whether a site's folder was laid out with this very invitation, which may have expired since."""
    try:
        enrolled = Enrolment.open(folder)
        Registration.parse(request_file(folder).read_text(encoding="utf-8")).check(invitation.code)
    except (SynofedError, OSError, UnicodeDecodeError):
        return False
    lasting = (keys.path(folder), node_key(folder), folder / "site.toml")
    same = enrolled.ca_fingerprint == certificate_fingerprint(invitation.ca_certificate)
    return same and all(path.exists() for path in lasting)


def _lay_out(folder: Path, invitation: Invitation) -> Registration:
    for private in (folder, folder / "keys"):
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "keys").chmod(0o700)  # it may have been made by hand
    receipt_key = keys.public_key(folder)
    public = _node_public_key(folder)
    for private in (keys.path(folder), node_key(folder)):
        private.chmod(0o600)
        for left in private.parent.glob(f".{private.name}-*"):  # by a kill: a key that was never used
            left.unlink(missing_ok=True)
    _show(node_key(folder).with_suffix(".pub"), public + "\n")
    if not (folder / "site.toml").exists():
        text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(name=invitation.site)
        atomic.create(folder / "site.toml", text.encode())
    _show(ca_certificate(folder), invitation.ca_certificate)
    request = Registration.make(
        site=invitation.site,
        node_key=public,
        receipt_key=receipt_key,
        version=VERSION,
        code=invitation.code,
    )
    _show(request_file(folder), request.dump())
    return request


def _node_public_key(folder: Path) -> str:
    """The public half of the key for connections, which is made if there is none.

    Raises:
        DataError: if it is damaged.
    """
    place = node_key(folder)
    if not place.exists():
        private = ec.generate_private_key(ec.SECP384R1())
        atomic.create(place, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    try:
        key = load_ssh_private_key(place.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise DataError(
            f"Expected an EC P-384 key without a passphrase in {place}: restore it from a backup. If it is lost, "
            f"move the folder keys aside, have the centre revoke the site and invite it again"
        )
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _check_dates(invitation: Invitation, *, now: datetime) -> None:
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M %Z}"
    if invitation.expires <= now:
        raise ConfigurationError(
            f"The invitation expired on {invitation.expires:%Y-%m-%d %H:%M %Z}, {clock}: ask the centre for "
            f"another, or set the clock"
        )
    certificate = authority(invitation.ca_certificate)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise ConfigurationError(
            f"The authority's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, {clock}: set the clock, or ask the centre"
        )


def _check_folder(folder: Path, asked: Enrolment) -> None:
    """Whether the folder is empty, or of the same site in the same federation."""
    existing = _read_enrolment(folder)
    name = existing.site if existing is not None else _site_name(folder / "site.toml")
    elsewhere = "enrol in a folder of its own, with --folder"
    if name not in (None, asked.site):
        raise ConfigurationError(
            f"Expected the folder of site {asked.site}, {folder} is of {name}: {elsewhere}, or ask the centre "
            f"for an invitation by that name"
        )
    if existing is not None and existing.ca_fingerprint != asked.ca_fingerprint:
        raise ConfigurationError(
            f"{folder} belongs to the federation {existing.federation!r} with authority "
            f"{existing.ca_fingerprint:.16}, the invitation is from {asked.federation!r} with authority "
            f"{asked.ca_fingerprint:.16}: {elsewhere}. If the centre was set up anew, compare fingerprints by "
            f"telephone, then remove federation.json"
        )


def _read_enrolment(folder: Path) -> Enrolment | None:
    place = folder / "federation.json"
    try:
        return Enrolment.model_validate_json(place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"Expected to read {place}: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=str(place))) from None


def _site_name(path: Path) -> str | None:
    """The name in ``site.toml``, or ``None`` where there is no such file."""
    try:
        return str(toml_text.read(path.read_bytes(), source=str(path)).get("name"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {refusal(error)}") from None


def _show(path: Path, text: str) -> None:
    """Write a file that holds no secret."""
    atomic.write(path, text.encode(), mode=0o644)
