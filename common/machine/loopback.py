"""A certificate for a service on this machine that only its own processes shall talk to.

A local account that takes the port while the service is down has no such certificate, so that nobody is fooled.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.machine import atomic

ADDRESS = "127.0.0.1"
LASTS = timedelta(days=3650)  # it is made anew at every start


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackCertificate:
    """All in PEM.

    Attributes:
        authority: what clients trust; its key is thrown away.
        certificate: of ``127.0.0.1``.
        key: of ``certificate``.
    """

    authority: bytes
    certificate: bytes
    key: bytes


def make(*, now: datetime) -> LoopbackCertificate:
    """A new authority that signs one certificate, and is never used again."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("synofed loopback authority")
    authority = (
        _builder(authority_name, authority_name, now)
        .public_key(authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("synofed loopback"), authority_name, now)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address(ADDRESS)), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, SHA256())
    )
    return LoopbackCertificate(
        authority=authority.public_bytes(Encoding.PEM),
        certificate=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@dataclass(frozen=True, slots=True)
class LoopbackFiles:
    """Where such a service keeps its certificate, and the secret that its executor shows it."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What processes on this machine trust."""
        return self.folder / "loopback-ca.crt"

    @property
    def certificate(self) -> Path:
        """The service's own certificate."""
        return self.folder / "loopback.crt"

    @property
    def key(self) -> Path:
        """The key of the certificate."""
        return self.folder / "loopback.key"

    @property
    def secret(self) -> Path:
        """What the executor proves itself with."""
        return self.folder / "superexec.secret"

    def prepare(self) -> None:
        """Make the folder and all of these anew, for their owner alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        made = make(now=datetime.now(UTC))
        for path, content in {
            self.key: made.key,
            self.certificate: made.certificate,
            self.authority: made.authority,
            self.secret: secrets.token_hex(32).encode(),
        }.items():
            atomic.write(path, content, mode=0o600)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, now: datetime) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + LASTS,
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
