"""What the centre states about a finished campaign's networks, and signs, so that a site knows whose they are.

The key is that of the centre's own certificate, the one that every site's connection is checked against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from common import signed_json
from common.ensemble.number_stack import NumberStack
from common.errors import VerificationError
from common.methods.stages import NetworkResult
from common.sections.section import GrowingSection, Section

RECIPIENT = "sites"
"""Among ``campaign.recipients``: every site that took part gets the networks."""
DOMAIN = b"synofed ensemble 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NetworkStatement(Section):
    """One network as the campaign left it."""

    weights: Sha256
    """Of its flat weights, as :class:`common.messages.WeightsRef` hashes them."""
    frozen: Mapping[str, Sha256] = Field(default_factory=dict)
    """Part -> hash of frozen parts that no other network of the campaign has."""
    best_round: int
    auc: float | None
    """Validation AUC over all sites; ``None`` where no histograms came."""
    threshold: float

    @property
    def result(self) -> NetworkResult:
        """How it was selected."""
        auc = math.nan if self.auc is None else self.auc
        return NetworkResult(best_round=self.best_round, auc=auc, threshold=self.threshold)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of all arrays that it is made of."""
        return (self.weights, *self.frozen.values())


class Statement(GrowingSection):
    """A finished campaign's ensemble; the same campaign gives the same text."""

    later: ClassVar[tuple[str, ...]] = ("stacks",)

    campaign: str
    plan_hash: Sha256
    version: str
    """The centre's version of synofed."""
    status: Literal["COMPLETE_ALL_SITES", "COMPLETE_SUBSET"]
    missing: Mapping[str, int]
    """Site -> rounds in which its update was not used."""
    networks: Mapping[str, NetworkStatement]
    """Those that score, and those that they are built on, by name."""
    stacks: Mapping[str, NumberStack] = Field(default_factory=dict)
    """Number -> how it comes of its networks; of those not named the mean over the networks is taken."""

    def dump(self) -> str:
        """Canonical JSON: the text that is signed."""
        return signed_json.canonical(self.model_dump(mode="json"))

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of all arrays, each once, in the order of the networks."""
        return tuple(dict.fromkeys(h for network in self.networks.values() for h in network.hashes))


def sign(statement: str, key: ec.EllipticCurvePrivateKey) -> str:
    """The centre's signature, ECDSA with SHA-256 in hex."""
    return key.sign(DOMAIN + statement.encode(), ec.ECDSA(hashes.SHA256())).hex()


def verified(
    text: str, signature: str, certificate: str, *, authority: x509.Certificate, now: datetime | None = None
) -> Statement:
    """What the centre stated.

    Args:
        text: canonical JSON of a :class:`Statement`.
        signature: of :func:`sign`.
        certificate: the centre's, PEM.
        authority: the one that the site trusts for this federation.
        now: the certificate has to be valid then; ``None``: it was looked at when the statement came.

    Raises:
        VerificationError: if the certificate is not the authority's, or the signature not the certificate's, or the
            text no statement.
    """
    try:
        centre = x509.load_pem_x509_certificate(certificate.encode())
        centre.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise VerificationError(
            "Expected the certificate of this federation's centre under an ensemble, got a different one: "
            "it was replaced "
            "on its way, or comes from another federation"
        ) from None
    if now is not None and not centre.not_valid_before_utc <= now <= centre.not_valid_after_utc:
        raise VerificationError(
            f"Expected a centre's certificate that is valid at {now:%Y-%m-%d %H:%M} UTC, got one from "
            f"{centre.not_valid_before_utc:%Y-%m-%d} to {centre.not_valid_after_utc:%Y-%m-%d}: look at this "
            f"machine's clock, or ask the centre to renew"
        )
    key = centre.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(bytes.fromhex(signature), DOMAIN + text.encode(), ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        raise VerificationError(
            "Expected the centre's signature under an ensemble, it does not fit: something was changed since"
        ) from None
    try:
        return Statement.model_validate(signed_json.parse(text))
    except ValueError:
        raise VerificationError(
            "Expected a statement as this version of synofed writes it, got a different one: bring site and "
            "centre to the same "
            "version"
        ) from None
