"""The federation's certificates: an authority of its own, and what it certifies for the proxy.

Sites trust this authority for this one connection and nothing else, so a server's certificate can be renewed
as often as one likes: no site hears of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ConfigurationError
from server.federation.home import Home

AUTHORITY_DAYS = 3652
"""Ten years: its end is the one thing that needs new invitations for all sites."""
SERVER_DAYS = 397
"""What browsers and auditors accept at most."""
BACKDATED = timedelta(hours=1)
"""A certificate is valid a little before it is made: clocks of sites may be behind."""
LOCAL_NAMES = ("localhost", "127.0.0.1")
"""The centre's own machine checks its proxy under these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def fits(self) -> bool:
        """Whether the certificate is of this key."""
        return self.certificate.public_key() == self.key.public_key()


def make_authority(
    federation: str,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    now: datetime,
    validity: timedelta = timedelta(days=AUTHORITY_DAYS),
) -> Certified:
    """A new certificate authority that certifies servers only.

    Args:
        federation: the federation's name, at most 48 characters.
        key: the authority's; made if not given.
        now: the present, with its time zone.
        validity: how long it can be used.
    """
    key = key or new_key()
    name = _name(f"{federation} authority")
    builder = _builder(name, key.public_key(), issuer=name, now=now, validity=validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(certify=True), critical=True)
    return Certified(certificate=builder.sign(key, hashes.SHA384()), key=key)


def certify_server(
    authority: Certified,
    key: ec.EllipticCurvePrivateKey,
    host: str,
    *,
    now: datetime,
    validity: timedelta = timedelta(days=SERVER_DAYS),
) -> x509.Certificate:
    """A certificate for the server that hospitals reach as ``host``; it never outlives its authority.

    Args:
        authority: who certifies.
        key: the server's.
        host: DNS name or IP address.
        now: the present, with its time zone.
        validity: how long it can be used.
    """
    issuer = authority.certificate
    left = issuer.not_valid_after_utc - (now - BACKDATED)
    builder = _builder(
        _name("synofed centre"),
        key.public_key(),
        issuer=issuer.subject,
        now=now,
        validity=min(validity, left),
    )
    names = x509.SubjectAlternativeName([_general_name(one) for one in dict.fromkeys((host, *LOCAL_NAMES))])
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(certify=False), critical=True)
    server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(server_only, critical=False)
    identity = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return builder.add_extension(identity, critical=False).sign(authority.key, hashes.SHA384())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key for an authority or a server: EC P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as it is written to a file."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as it is written to a file, without a passphrase: the service starts unattended."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate from its file.

    Raises:
        ConfigurationError: if there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"Expected a certificate at {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(
            f"Expected a certificate in {path}, as PEM: restore it from a backup"
        ) from None


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key from its file.

    Raises:
        ConfigurationError: if there is none.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError(f"Expected a key at {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ConfigurationError(f"Expected a key in {path}, as PEM: restore it from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"Expected an EC key in {path}, got another kind: restore it from a backup")
    return key


def read_authority(home: Home) -> Certified:
    """The centre's authority.

    Raises:
        ConfigurationError: if one of its files is missing, or they do not belong together.
    """
    authority = Certified(certificate=read_certificate(home.ca_certificate), key=read_key(home.ca_key))
    if not authority.fits:
        raise ConfigurationError(
            f"Expected {home.ca_key} to be the key of {home.ca_certificate}: restore both from a backup"
        )
    return authority


def days_left(certificate: x509.Certificate, *, now: datetime) -> int:
    """Whole days until a certificate ends; negative once it has ended."""
    return (certificate.not_valid_after_utc - now) // timedelta(days=1)


def hosts(certificate: x509.Certificate) -> Sequence[str]:
    """The DNS names and IP addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _builder(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    now: datetime,
    validity: timedelta,
) -> x509.CertificateBuilder:
    start = now.astimezone(UTC) - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _usage(*, certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certify,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certify,
        crl_sign=certify,
        encipher_only=False,
        decipher_only=False,
    )
