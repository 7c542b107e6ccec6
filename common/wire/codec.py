"""One codec for all messages: the types of a dataclass's fields say how they travel.

======================================  =================================================================
a field of type                         travels as
======================================  =================================================================
``Mapping[str, Weights]``               arrays, by key; marked :data:`ONLY_IF_ANY` no part where there are none
``PerNetwork`` of arrays                arrays, by network; the entry ``networks`` names them in their order
``PerNetwork[Mapping[str, Weights]]``   arrays, by ``<key>:<network>``
``PerNetwork`` of a dataclass           each of its fields as ``PerNetwork``
``PerNetwork`` of anything else         an entry, a list in the order of ``networks``
an array                                arrays, by the message's phase
a message, or several told by phase     fields and arrays of its own, beside those of the message
:class:`Context`                        its fields, among those of the message
anything else                           an entry, see :mod:`common.wire.entries`
======================================  =================================================================

Nothing is converted on the way: what is missing, unknown or of another type is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import UpdateError
from common.messages import ONLY_IF_ANY, PER_NETWORK, Encoding, Named
from common.secure_aggregation.terms import Context
from common.wire import arrays, entries
from common.wire.arrays import ARRAYS

Message = TypeVar("Message")
Part = ArrayRecord | ConfigRecord
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
NETWORKS = "networks"
PHASE = "phase"


@dataclass(slots=True, kw_only=True)
class _Sent:
    """A message on its way into a record."""

    record: RecordDict
    fields: ConfigRecord
    message: object
    encoding: Encoding
    networks: list[str]


@dataclass(slots=True, kw_only=True)
class _Received:
    """A message on its way out of a record; what was read is taken out of the parts."""

    parts: dict[str, object]
    part: str
    fields: ConfigRecord
    encodings: tuple[Encoding, ...]
    networks: tuple[str, ...]

    def arrays(self, name: str) -> dict[str, Array]:
        """The arrays of a name; none where it has none."""
        found = self.parts.pop(name, ArrayRecord())
        if not isinstance(found, ArrayRecord):
            raise UpdateError(f"Expected arrays as {name} of a {self.part}, got fields")
        return {str(key): array for key, array in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A field of which an entry is made.

    Attributes:
        name: on the wire.
        hint: type of the field, or of its values.
        attribute: the field.
    """

    name: str
    hint: object
    attribute: str

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries that it makes."""
        return (self.name,)

    @property
    def names_networks(self) -> bool:
        """Whether it says which networks there are."""
        return False

    def put(self, sent: _Sent, value: object) -> None:
        """Add the field's value to a record."""
        sent.fields[self.name] = entries.pack(value, self.hint)

    def take(self, received: _Received) -> object:
        """The field's value.

        Raises:
            UpdateError: if it is missing or of another type.
            VerificationError: the same of a receipt.
        """
        return entries.unpack(received.fields[self.name], self.hint, where=f"{received.part}.{self.name}")


class _Column(_Entry):
    """A plain value of each network."""

    def put(self, sent: _Sent, value: object) -> None:
        values = cast(Mapping[str, object], value)
        sent.fields[self.name] = entries.pack_list([values[n] for n in sent.networks], self.hint)

    def take(self, received: _Received) -> object:
        where = f"{received.part}.{self.name}"
        values = entries.unpack_list(received.fields[self.name], self.hint, where=where)
        if len(values) != len(received.networks):
            raise UpdateError(
                f"Expected {received.part}.{self.name} of {len(received.networks)} networks, got {len(values)}"
            )
        return dict(zip(received.networks, values, strict=True))


class _Inline(_Entry):
    """A dataclass whose fields stand among the message's."""

    @property
    def entries(self) -> tuple[str, ...]:
        return tuple(name for field in _fields(cast(type, self.hint)) for name in field.entries)

    def put(self, sent: _Sent, value: object) -> None:
        for field in _fields(cast(type, self.hint)):
            field.put(sent, getattr(value, field.attribute))

    def take(self, received: _Received) -> object:
        kind = cast(Callable[..., object], self.hint)
        return kind(**{f.attribute: f.take(received) for f in _fields(cast(type, self.hint))})


class _Arrays(_Entry):
    """Arrays by key."""

    @property
    def entries(self) -> tuple[str, ...]:
        return ()

    def put(self, sent: _Sent, value: object) -> None:
        values = cast(Mapping[str, np.ndarray], value)
        sent.record[self.name] = ArrayRecord(
            {key: arrays.pack(array, self.hint, sent.encoding) for key, array in values.items()}
        )

    def take(self, received: _Received) -> object:
        found = received.arrays(self.name)
        return {key: arrays.unpack(array, self.hint, received.encodings) for key, array in found.items()}


class _ArraysIfAny(_Arrays):
    """Arrays by key that have no part where there are none: then the message has the bytes of before they were."""

    def put(self, sent: _Sent, value: object) -> None:
        if value:
            super().put(sent, value)


class _NetworkArrays(_Arrays):
    """An array of each network, whose names it gives."""

    @property
    def entries(self) -> tuple[str, ...]:
        return (NETWORKS,)

    @property
    def names_networks(self) -> bool:
        return True

    def put(self, sent: _Sent, value: object) -> None:
        sent.fields[NETWORKS] = sent.networks
        super().put(sent, value)

    def take(self, received: _Received) -> object:
        found = cast(dict[str, object], super().take(received))
        if set(found) != set(received.networks):
            raise UpdateError(
                f"Expected {self.name} of {sorted(received.networks)}, got {sorted(found)!s:.200}"
            )
        return {name: found[name] for name in received.networks}


class _SomeArrays(_Arrays):
    """An array of some networks, ``None`` of the others."""

    def put(self, sent: _Sent, value: object) -> None:
        values = cast(Mapping[str, object], value)
        super().put(sent, {name: array for name, array in values.items() if array is not None})

    def take(self, received: _Received) -> object:
        found = cast(dict[str, object], super().take(received))
        if not set(found) <= set(received.networks):
            raise UpdateError(
                f"Expected {self.name} of {sorted(received.networks)} only, got {sorted(found)!s:.200}"
            )
        return {name: found.get(name) for name in received.networks}


class _FurtherArrays(_Arrays):
    """Arrays by key of each network."""

    def put(self, sent: _Sent, value: object) -> None:
        values = cast(Mapping[str, Mapping[str, object]], value)
        super().put(sent, {f"{key}:{n}": array for n, kept in values.items() for key, array in kept.items()})

    def take(self, received: _Received) -> object:
        found: dict[str, dict[str, object]] = {name: {} for name in received.networks}
        for place, array in cast(dict[str, object], super().take(received)).items():
            key, _, name = place.partition(":")
            if name not in found:
                raise UpdateError(f"Expected further arrays of {sorted(found)}, got {place!r:.200}")
            found[name][key] = array
        return found


class _Rows(_Entry):
    """A dataclass of each network."""

    @property
    def _columns(self) -> tuple[_Entry, ...]:
        return _fields(cast(type, self.hint), per_network=True)

    @property
    def entries(self) -> tuple[str, ...]:
        return (self.name, *(name for column in self._columns for name in column.entries))

    @property
    def names_networks(self) -> bool:
        return True

    def put(self, sent: _Sent, value: object) -> None:
        rows = cast(Mapping[str, object], value)
        sent.fields[self.name] = sent.networks
        for column in self._columns:
            column.put(sent, {name: getattr(row, column.attribute) for name, row in rows.items()})

    def take(self, received: _Received) -> object:
        kind = cast(Callable[..., object], self.hint)
        columns = {c.attribute: cast(Mapping[str, object], c.take(received)) for c in self._columns}
        return {
            network: kind(**{attribute: column[network] for attribute, column in columns.items()})
            for network in received.networks
        }


class _Array(_Arrays):
    """One array."""

    def put(self, sent: _Sent, value: object) -> None:
        super().put(sent, {_phase_of(type(sent.message)): value})

    def take(self, received: _Received) -> object:
        found = cast(dict[str, object], super().take(received))
        key = str(received.fields[PHASE])
        if set(found) != {key}:
            raise UpdateError(f"Expected one {self.name} as {key}, got {sorted(found)!s:.200}")
        return found[key]


class _Message(_Entry):
    """A message within a message, or none."""

    @property
    def entries(self) -> tuple[str, ...]:
        return ()

    def put(self, sent: _Sent, value: object) -> None:
        if value is not None:
            put(value, self.name, sent.record, encoding=sent.encoding)

    def take(self, received: _Received) -> object:
        kinds = _options(self.hint)
        if type(None) in kinds and self.name not in received.parts:
            return None
        messages = [cast(type, kind) for kind in kinds if kind is not type(None)]
        return take(messages, self.name, received.parts)


def put(message: object, part: str, record: RecordDict, *, encoding: Encoding) -> None:
    """Add a message to a record.

    Args:
        message: the message.
        part: what its fields are called there.
        record: gets fields and arrays.
        encoding: of arrays that may be rounded, if the message does not say so itself.
    """
    kind = type(message)
    phase = _phase_of(kind)
    fields = ConfigRecord({PHASE: phase} if phase else {})
    record[part] = fields
    known = next((getattr(message, f.attribute) for f in _fields(kind) if f.names_networks), ())
    encoding = getattr(message, "encoding", encoding)
    sent = _Sent(record=record, fields=fields, message=message, encoding=encoding, networks=list(known))
    for field in _fields(kind):
        field.put(sent, getattr(message, field.attribute))


def take(kinds: list[type[Message]], part: str, parts: dict[str, object]) -> Message:
    """Take a message out of a record's parts.

    Args:
        kinds: of which it is one; several are told by their phase.
        part: what its fields are called there.
        parts: of the record; what was read is taken out.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of a receipt.
    """
    fields = parts.pop(part, None)
    kind = kinds[0]
    if _phase_of(kind):
        phases = {_phase_of(kind): kind for kind in kinds}
        phase = fields.get(PHASE) if isinstance(fields, ConfigRecord) else None
        if phase not in phases:
            raise UpdateError(f"Expected a {part} of phase {' or '.join(phases)}, got {phase!r:.40}")
        kind = phases[phase]
    expected = {name for field in _fields(kind) for name in field.entries} | (
        {PHASE} if _phase_of(kind) else set()
    )
    if not isinstance(fields, ConfigRecord) or set(fields) != expected:
        found = sorted(fields) if isinstance(fields, ConfigRecord) else "none"
        raise UpdateError(f"Expected a {part} with {sorted(expected)}, got {found!s:.400}")
    networks: tuple[str, ...] = ()
    if any(field.names_networks for field in _fields(kind)):
        listed = entries.unpack_list(fields[NETWORKS], str, where=f"{part}.{NETWORKS}")
        networks = tuple(map(str, listed))
        if len(set(networks)) != len(networks):
            raise UpdateError(f"Expected each of {part}.{NETWORKS} once, got {networks!s:.200}")
    encodings = ENCODINGS
    if "encoding" in expected:
        encodings = (cast(Encoding, fields["encoding"]),)
    received = _Received(parts=parts, part=part, fields=fields, encodings=encodings, networks=networks)
    make: Callable[..., Message] = kind
    return make(**{field.attribute: field.take(received) for field in _fields(kind)})


def _fields(kind: type, *, per_network: bool = False) -> tuple[_Entry, ...]:
    """How the fields of a dataclass travel, in their order."""
    return _compiled(kind, per_network)


@cache
def _compiled(kind: type, per_network: bool) -> tuple[_Entry, ...]:
    hints = get_type_hints(kind, include_extras=True)
    dashes = not _phase_of(kind) and kind is not Context
    return tuple(
        _field(field.name, hints[field.name], dashes=dashes, per_network=per_network)
        for field in dataclasses.fields(kind)
    )


def _field(attribute: str, hint: object, *, dashes: bool, per_network: bool) -> _Entry:
    name = attribute.replace("_", "-") if dashes else attribute
    marks: list[object] = []
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        per_network = per_network or PER_NETWORK in marks
        name = next((mark.name for mark in marks if isinstance(mark, Named)), name)
        if per_network and PER_NETWORK in marks:
            hint = get_args(hint)[1]
    kind, hint = _kind(hint, per_network=per_network)
    kind = _ArraysIfAny if ONLY_IF_ANY in marks else kind
    return kind(name=name, hint=hint, attribute=attribute)


def _kind(hint: object, *, per_network: bool) -> tuple[type[_Entry], object]:
    """What becomes of a type, and of which type its values are."""
    inner = get_args(hint)
    by_key = get_origin(hint) is Mapping and inner[1] in ARRAYS
    some = [option for option in _options(hint) if option in ARRAYS]
    if hint in ARRAYS:
        return (_NetworkArrays if per_network else _Array), hint
    if by_key:
        return (_FurtherArrays if per_network else _Arrays), inner[1]
    if per_network and some:
        return _SomeArrays, some[0]
    if per_network:
        return (_Rows if dataclasses.is_dataclass(hint) else _Column), hint
    if hint is Context:
        return _Inline, hint
    is_message = any(dataclasses.is_dataclass(option) for option in _options(hint))
    return (_Message if is_message else _Entry), hint


def _options(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _phase_of(kind: type) -> str:
    """The phase of a secure sum that a message is about; empty: none."""
    return str(getattr(kind, PHASE, ""))
