"""Who signs: a site's own receipt key, and the keys of its peers that it was given out of band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import ConfigurationError, VerificationError
from common.secure_aggregation.messages import KeysReply
from common.secure_aggregation.terms import statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A site and those whom it knows.

    Attributes:
        site: its name.
        key: its receipt key.
        peers: name -> Ed25519 public key in hex, as pinned in ``[peers]`` of site.toml.
        minimum_peers: so many other known sites it wants in every sum, at least 1.
        colluders: against so many colluding sites it wants to be protected.

    Raises:
        ConfigurationError: if a peer's key is malformed or stands twice, or the site's own entry has another key.
    """

    site: str
    key: Ed25519PrivateKey = field(repr=False)
    peers: Mapping[str, str]
    minimum_peers: int = 1
    colluders: int = 0

    def __post_init__(self) -> None:
        own = self.key.public_key().public_bytes_raw().hex()
        if self.peers.get(self.site, own) != own:
            raise ConfigurationError(
                f"Expected {self.site} in [peers] with this site's own key {own:.16}, got a different one: "
                "correct site.toml"
            )
        known = self.known
        for name, key in known.items():
            _public(name, key)
        if len(set(known.values())) < len(known):
            raise ConfigurationError(
                "Expected every site in [peers] with a key of its own, got one key twice"
            )
        if self.minimum_peers < 1 or self.colluders < 0:
            raise ConfigurationError(
                f"Expected minimum_peers >= 1 and colluders >= 0, got {self.minimum_peers} and {self.colluders}"
            )

    @property
    def known(self) -> dict[str, str]:
        """All sites whose keys it has, itself among them."""
        return {**self.peers, self.site: self.key.public_key().public_bytes_raw().hex()}


def sign_keys(key: Ed25519PrivateKey, *, binding: str, site: str, mask_key: bytes, share_key: bytes) -> bytes:
    """A site's signature of its keys for one attempt."""
    return key.sign(_keys(binding, site, mask_key, share_key))


def check_keys(keys: KeysReply, *, binding: str, known: Mapping[str, str]) -> None:
    """Whether a site that is known signed these keys for this attempt.

    Raises:
        VerificationError: if the site is unknown, or the signature is of another key, attempt, plan or terms.
    """
    signed = _keys(binding, keys.site, keys.mask_key, keys.share_key)
    if not _fits(known, keys.site, keys.signature, signed):
        raise VerificationError(
            f"The keys of {keys.site} are not signed with the key known for it, for this attempt and these "
            f"terms: they were exchanged, are those of another attempt, or its plan is another"
        )


def sign_survivors(key: Ed25519PrivateKey, *, lists: str) -> bytes:
    """A site's signature of who is in a sum; ``lists`` is their digest."""
    return key.sign(statement("survivors", lists))


def check_survivors(site: str, signature: bytes, *, lists: str, known: Mapping[str, str]) -> None:
    """Whether a site that is known signed these lists.

    Raises:
        VerificationError: if not.
    """
    if not _fits(known, site, signature, statement("survivors", lists)):
        raise VerificationError(
            f"{site} did not sign this list of survivors: sites were shown different lists, or it is of another "
            f"attempt"
        )


def _keys(binding: str, site: str, mask_key: bytes, share_key: bytes) -> bytes:
    return statement("keys", [binding, site, mask_key.hex(), share_key.hex()])


def _fits(known: Mapping[str, str], site: str, signature: bytes, signed: bytes) -> bool:
    if site not in known:
        raise VerificationError(
            f"Expected sites out of {', '.join(sorted(known))}, got {site!r:.70}: the centre names a site whose key "
            f"is not known here; if it exists, exchange keys with it and add it to [peers] in site.toml"
        )
    try:
        _public(site, known[site]).verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _public(name: str, key: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    except ValueError:
        raise ConfigurationError(
            f"Expected an Ed25519 key of 64 hex digits for {name} in [peers], got {key!r:.70}"
        ) from None
