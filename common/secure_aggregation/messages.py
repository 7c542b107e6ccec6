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

Every message is one flat mapping of names to text, bytes, whole numbers or lists of these
(:func:`to_fields`, :func:`from_fields`); a masked vector travels beside it as one array.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args, get_type_hints

import numpy as np

from common.errors import UpdateError
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
REQUESTS: Mapping[Phase, type[Request]] = {kind.phase: kind for kind in get_args(Request)}
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


def request_from_fields(fields: Mapping[str, object]) -> Request:
    """Undo :func:`to_fields` of a request.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
    """
    kind = REQUESTS[_phase(fields)]
    found = _checked(Context, {name: fields.get(name) for name in _CONTEXT})
    context = Context(**found)  # type: ignore[arg-type]
    rest = {name: value for name, value in fields.items() if name not in _CONTEXT and name != "phase"}
    return kind(**_checked(kind, {**rest, "context": context}))  # type: ignore[arg-type]


def reply_from_fields(fields: Mapping[str, object], *, vector: np.ndarray | None = None) -> Reply:
    """Undo :func:`to_fields` of a reply.

    Args:
        fields: as they came.
        vector: the array that came beside them.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
    """
    kind = REPLIES[_phase(fields)]
    rest = {name: value for name, value in fields.items() if name != "phase"}
    found = _checked(kind, rest if vector is None else {**rest, "vector": vector})
    return kind(**found)  # type: ignore[arg-type]


def request_digest(request: Request) -> str:
    """SHA-256 over all of a request, in hex: whether it is the same again."""
    return digest("request", {name: _readable(value) for name, value in to_fields(request).items()})


def _phase(fields: Mapping[str, object]) -> Phase:
    phase = fields.get("phase")
    if phase not in PHASES:
        raise UpdateError(f"Expected a phase of {', '.join(PHASES)}, got {phase!r:.40}")
    return phase


def _checked(kind: type, fields: Mapping[str, object]) -> dict[str, object]:
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name != "phase"}
    if set(fields) != set(hints):
        raise UpdateError(f"Expected {kind.__name__} with {sorted(hints)}, got {sorted(fields)}")
    return {name: _value(f"{kind.__name__}.{name}", fields[name], hint) for name, hint in hints.items()}


def _value(name: str, value: object, hint: object) -> object:
    inner = get_args(hint)
    if hint == Ring:
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype in (np.uint32, np.uint64):
            return value
    elif inner:
        if isinstance(value, list | tuple) and all(type(part) is inner[0] for part in value):
            return tuple(value)
    elif type(value) is hint:
        return value
    raise UpdateError(f"Expected {name} to be {hint}, got {type(value).__name__}")


def _readable(value: Field) -> object:
    if isinstance(value, list):
        return [_readable(part) for part in value]
    return {"bytes": value.hex()} if isinstance(value, bytes) else value
