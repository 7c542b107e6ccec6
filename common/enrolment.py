"""How a site joins: the invitation that the centre gives it, and the registration request that it gives back.

The invitation carries the certificate that the site will trust and a one-time code; the request carries the
site's public keys and a proof, keyed with that code, that its sender had the invitation. Private keys are in
neither. A copied invitation lets somebody else register first, so both sides compare fingerprints by telephone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from pydantic import AwareDatetime, Field, PlainSerializer, SecretStr, ValidationError

from common import signed_json
from common.errors import ConfigurationError, VerificationError
from common.sections.section import Section, secret

DOMAIN = b"synofed registration 1\n"
"""Stands before what is proven, so that a proof can never pass for one of something else."""

LIMIT_BYTES = 65_536
"""No invitation and no request is larger."""

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""A site's name: it becomes the name of files, and of a node."""

SiteName = Annotated[str, Field(pattern=SITE_NAME)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


class _Document(Section):
    """A file that is exchanged: canonical JSON and a line's end, so that there is one way to write each."""

    def dump(self) -> str:
        """The file's text."""
        return signed_json.canonical(self.model_dump(mode="json")) + "\n"


def _code_objection(code: str) -> str | None:
    return None if re.fullmatch(r"[0-9a-f]{64}", code) else "expected 64 hex digits"


Code = Annotated[
    SecretStr,
    secret(_code_objection),
    PlainSerializer(lambda code: code.get_secret_value(), return_type=str, when_used="json"),
]
"""A one-time code, 32 random bytes in hex: written out in JSON alone, which is a file for its owner's eyes."""


class Invitation(_Document):
    """What the centre gives a site, over a channel that both trust; of no use once it was accepted."""

    federation: Annotated[str, Field(min_length=1, max_length=48)]
    site: SiteName
    address: str
    """``HOST:PORT`` that the site connects to."""
    ca_certificate: str
    """The certificate authority's certificate, PEM."""
    code: Code
    """One-time code: 32 random bytes."""
    expires: AwareDatetime
    """Until when the centre accepts the code."""

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Undo :meth:`dump`.

        Raises:
            ConfigurationError: if the text is no invitation.
        """
        try:
            invitation = cls.model_validate_json(text)
        except ValidationError:
            raise ConfigurationError(
                f"Expected an invitation as synofed federation invite writes it, got "
                f"{_found(text, 'an invitation')}: ask the centre for it again"
            ) from None
        split_address(invitation.address)
        authority(invitation.ca_certificate)
        return invitation


class Registration(_Document):
    """What a site gives the centre: who it is from now on."""

    site: SiteName
    node_key: str
    """For connections: EC P-384, OpenSSH text without a comment."""
    receipt_key: Hex32
    """For receipts: Ed25519."""
    version: str
    """Of the synofed that the site runs."""
    proof: Hex32
    """HMAC-SHA-256 over all else, keyed with the invitation's code."""

    @classmethod
    def make(
        cls, *, site: str, node_key: str, receipt_key: str, version: str, code: SecretStr
    ) -> Registration:
        """A request with its proof."""
        rest = {"site": site, "node_key": node_key, "receipt_key": receipt_key, "version": version}
        return cls.model_validate({**rest, "proof": _proof(rest, code.get_secret_value())})

    @classmethod
    def parse(cls, text: str) -> Registration:
        """Undo :meth:`dump`; a text that differs in any byte from what ``dump`` wrote is another text.

        Raises:
            VerificationError: if the text is no request.
        """
        try:
            request = cls.model_validate_json(text)
        except ValidationError:
            request = None
        if request is None or request.dump() != text:
            raise VerificationError(
                f"Expected a registration request as synofed site init writes it, got "
                f"{_found(text, 'a registration request')}: have the site send its request.json again, unchanged"
            )
        return request

    def check(self, code: SecretStr) -> None:
        """Whether it was made with the code, and its keys are of the kinds that are used.

        Raises:
            VerificationError: if not.
        """
        rest = self.model_dump(mode="json", exclude={"proof"})
        if not hmac.compare_digest(_proof(rest, code.get_secret_value()), self.proof):
            raise VerificationError(
                f"The request of {self.site} does not fit the code of its latest invitation: it was changed, or "
                f"made from an earlier one. Have the site run synofed site init with the latest invitation, and "
                f"send request.json unchanged"
            )
        if not _is_node_key(self.node_key):
            raise VerificationError(
                f"Expected an EC P-384 key in OpenSSH's form, without a comment, as the node key of {self.site}, "
                f"got {self.node_key[:40]!r}: have the site make its keys with synofed site init"
            )

    @property
    def fingerprint(self) -> str:
        """Of both keys together, to be compared by telephone."""
        return keys_fingerprint(self.node_key, self.receipt_key)


def authority(pem: str) -> x509.Certificate:
    """The certificate of a certificate authority.

    Args:
        pem: one certificate and nothing else, PEM.

    Raises:
        ConfigurationError: if it is something else.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        certificate, constraints = None, None
    alone = certificate is not None and certificate.public_bytes(Encoding.PEM).decode() == pem
    if certificate is None or constraints is None or not (constraints.ca and alone):
        raise ConfigurationError("Expected the certificate of a certificate authority, alone, as PEM")
    return certificate


def certificate_fingerprint(pem: str) -> str:
    """SHA-256 over a certificate (as ``openssl x509 -fingerprint -sha256`` gives it), in hex.

    Raises:
        ConfigurationError: if it is no certificate authority's.
    """
    return hashlib.sha256(authority(pem).public_bytes(Encoding.DER)).hexdigest()


def keys_fingerprint(node_key: str, receipt_key: str) -> str:
    """SHA-256 over a site's two public keys, in hex."""
    return hashlib.sha256(signed_json.canonical([node_key, receipt_key]).encode()).hexdigest()


def spoken(fingerprint: str) -> str:
    """A fingerprint in groups of four, as it is read out."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def split_address(address: str) -> tuple[str, int]:
    """The host and the port of ``HOST:PORT``; an IPv6 address stands in brackets, and comes back without.

    Raises:
        ConfigurationError: if it is neither a DNS name nor an IP address, or the port is none.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = _ip_version(bare) == 6 if bare != host else _ip_version(bare) == 4 or _is_name(bare)
    if not (colon and known and re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) < 2**16):
        raise ConfigurationError(
            f"Expected an address as centre.example.org:8443, 192.0.2.7:8443 or [2001:db8::7]:8443, got "
            f"{address!r}"
        )
    return bare, int(port)


def _proof(rest: object, code: str) -> str:
    return hmac.new(
        bytes.fromhex(code), DOMAIN + signed_json.canonical(rest).encode(), hashlib.sha256
    ).hexdigest()


def _is_node_key(text: str) -> bool:
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    known = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    return known and key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == text


def _is_name(host: str) -> bool:
    parts = host.split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, parts)) and not parts[-1].isdigit()


def _ip_version(host: str) -> int:
    """4, 6, or 0 for what is no IP address."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return 0


def _found(text: str, expected: str) -> str:
    """What a text seems to be, told without repeating it: it may hold a code."""
    try:
        content = json.loads(text)
    except ValueError:
        return "no JSON"
    marks = {"proof": "a registration request", "code": "an invitation"}
    kinds = [kind for mark, kind in marks.items() if isinstance(content, dict) and mark in content]
    if not kinds:
        return "other JSON"
    return "one that is incomplete or was changed" if kinds[0] == expected else kinds[0]
