"""The messages of an attempt: five phases, each a request to every site that is left and its reply.

============  ===========================================  ====================================================
phase         the centre sends                             a site replies
============  ===========================================  ====================================================
keys          nothing but the context                      two public keys, signed
shares        everybody's signed keys                      shares of its two secrets, encrypted for each peer
masked        the shares for this site                     its vector under all masks
survivors     whose vectors are in the sum                 that list, signed
unmask        the signatures of the survivors              a share of one secret of each peer
============  ===========================================  ====================================================

How they travel follows from the types of their fields (:mod:`common.wire.codec`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np

from common.secure_aggregation.masks import Ring
from common.secure_aggregation.terms import Context, digest

Phase: TypeAlias = Literal["keys", "shares", "masked", "survivors", "unmask"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Field: TypeAlias = str | bytes | int | list[str] | list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRequest:
    """Asks for fresh keys."""

    phase: ClassVar[Phase] = "keys"
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysReply:
    """A site's fresh public keys.

    Attributes:
        site: its name.
        mask_key: X25519, agrees on masks with each peer.
        share_key: X25519, agrees on a key for shares with each peer.
        signature: Ed25519 by the site's receipt key over the attempt, its name and both keys.
    """

    phase: ClassVar[Phase] = "keys"
    site: str
    mask_key: bytes
    share_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesRequest:
    """Everybody's keys, in the order of names.

    Attributes:
        context: the attempt.
        sites: names, ascending.
        mask_keys: of each.
        share_keys: of each.
        signatures: of each.
    """

    phase: ClassVar[Phase] = "shares"
    context: Context
    sites: tuple[str, ...]
    mask_keys: tuple[bytes, ...]
    share_keys: tuple[bytes, ...]
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesReply:
    """Shares of a site's two secrets, encrypted for each peer.

    Attributes:
        site: its name.
        receivers: all other sites, ascending.
        ciphertexts: for each.
        commitment: SHA-256 of its self-mask's seed, by which the centre sees whether shares were changed.
    """

    phase: ClassVar[Phase] = "shares"
    site: str
    receivers: tuple[str, ...]
    ciphertexts: tuple[bytes, ...]
    commitment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedRequest:
    """The shares that peers made for one site.

    Attributes:
        context: the attempt.
        sharers: all sites that made shares, this one among them, ascending.
        senders: the others, ascending.
        ciphertexts: of each, for this site.
    """

    phase: ClassVar[Phase] = "masked"
    context: Context
    sharers: tuple[str, ...]
    senders: tuple[str, ...]
    ciphertexts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskedReply:
    """A site's vector under all its masks.

    Attributes:
        site: its name.
        vector: modulo 2^32 or 2^64, uniformly distributed whatever is under the masks.
    """

    phase: ClassVar[Phase] = "masked"
    site: str
    vector: Ring


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorsRequest:
    """Whose vectors are in the sum, names ascending."""

    phase: ClassVar[Phase] = "survivors"
    context: Context
    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorsReply:
    """A site's Ed25519 signature over the lists of sharers and of survivors."""

    phase: ClassVar[Phase] = "survivors"
    site: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskRequest:
    """The signatures of the list of survivors.

    Attributes:
        context: the attempt.
        signers: who signed, ascending.
        signatures: of each.
    """

    phase: ClassVar[Phase] = "unmask"
    context: Context
    signers: tuple[str, ...]
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskReply:
    """One share of each peer's secrets, never of both.

    Attributes:
        site: who held them.
        survivors: ascending.
        seed_shares: of the self-mask's seed of each.
        dropped: who made shares and sent no vector, ascending.
        key_shares: of the mask key of each.
    """

    phase: ClassVar[Phase] = "unmask"
    site: str
    survivors: tuple[str, ...]
    seed_shares: tuple[bytes, ...]
    dropped: tuple[str, ...]
    key_shares: tuple[bytes, ...]


Request: TypeAlias = KeysRequest | SharesRequest | MaskedRequest | SurvivorsRequest | UnmaskRequest
Reply: TypeAlias = KeysReply | SharesReply | MaskedReply | SurvivorsReply | UnmaskReply
REPLIES: Mapping[Phase, type[Reply]] = {kind.phase: kind for kind in get_args(Reply)}

_CONTEXT = tuple(field.name for field in dataclasses.fields(Context))


def to_fields(message: Request | Reply) -> dict[str, Field]:
    """A message as one flat mapping; a vector is left out."""
    found: dict[str, Field] = {"phase": message.phase}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, Context):
            found.update({name: getattr(value, name) for name in _CONTEXT})
        elif not isinstance(value, np.ndarray):
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def request_digest(request: Request) -> str:
    """SHA-256 over all of a request, in hex: whether it is the same again."""
    return digest("request", {name: _readable(value) for name, value in to_fields(request).items()})


def _readable(value: Field) -> object:
    if isinstance(value, list):
        return [_readable(part) for part in value]
    return {"bytes": value.hex()} if isinstance(value, bytes) else value
