"""Values of a message's fields as entries of a record: text, numbers, lists of these, or JSON as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Literal, NoReturn, cast, get_args, get_origin

from common.errors import UpdateError
from common.messages import WeightsRef
from common.receipts import Receipt, from_fields

Entry = str | int | float | list[str] | list[int] | list[float]


def pack(value: object, hint: object) -> Entry:
    """A value of a type as an entry."""
    inner = _items(hint)
    if inner is not None:
        return pack_list(cast(tuple[object, ...], value), inner)
    if hint is bytes:
        return cast(bytes, value).hex()
    return cast(Entry, value) if _is_plain(hint) else json.dumps(_plain(value))


def unpack(entry: object, hint: object, *, where: str) -> object:
    """Undo :func:`pack`.

    Args:
        entry: as it came.
        hint: the type of the value.
        where: names it in errors.

    Raises:
        UpdateError: if it is none of that type.
        VerificationError: the same of a receipt.
    """
    inner = _items(hint)
    if inner is not None:
        return unpack_list(entry, inner, where=where)
    if hint is bytes:
        return _bytes(entry, where)
    if _is_plain(hint):
        return _checked(entry, hint, where)
    if not isinstance(entry, str):
        _refuse(entry, str, where)
    try:
        value = json.loads(entry)
    except (ValueError, RecursionError):
        raise UpdateError(f"Expected {where} as JSON, got other text") from None
    return _read(value, hint, where)


def pack_list(values: Iterable[object], hint: object) -> Entry:
    """Plain values of a type as one entry; see :func:`pack`."""
    return cast(Entry, [pack(value, hint) for value in values])


def unpack_list(entry: object, hint: object, *, where: str) -> tuple[object, ...]:
    """Undo :func:`pack_list`; see :func:`unpack`."""
    if not isinstance(entry, list):
        _refuse(entry, list, where)
    return tuple(unpack(item, hint, where=f"each of {where}") for item in entry)


def _is_plain(hint: object) -> bool:
    return hint in (str, int, float, bytes) or get_origin(hint) is Literal


def _items(hint: object) -> object | None:
    """The type of each item of a list of plain values; ``None``: the type is another."""
    if get_origin(hint) is not tuple:
        return None
    inner, *rest = get_args(hint)
    return inner if rest == [...] and _is_plain(inner) else None


def _checked(value: object, hint: object, where: str) -> object:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UpdateError(f"Expected {where} to be {' or '.join(get_args(hint))}, got {value!r:.40}")
    elif not isinstance(value, cast(type, hint)) or isinstance(value, bool):
        _refuse(value, cast(type, hint), where)
    return value


def _bytes(entry: object, where: str) -> bytes:
    try:
        found = bytes.fromhex(cast(str, _checked(entry, str, where)))
    except ValueError:
        found = b""
    if found.hex() != entry:
        raise UpdateError(f"Expected {where} to be bytes as hex, got other text")
    return found


def _plain(value: object) -> object:
    if isinstance(value, WeightsRef):
        return value.hash
    if isinstance(value, Receipt):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(value: object, hint: object, where: str) -> object:
    """Undo :func:`_plain`."""
    inner = get_args(hint)
    if hint is WeightsRef:
        return WeightsRef(cast(str, _checked(value, str, where)))
    if hint is Receipt and isinstance(value, dict):
        return from_fields(value)
    if get_origin(hint) is Mapping and isinstance(value, dict):
        return {key: _read(item, inner[1], where) for key, item in value.items()}
    if get_origin(hint) is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        if len(kinds) == len(value):
            return tuple(_read(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    if _is_plain(hint):
        return _checked(value, hint, where)
    raise UpdateError(
        f"Expected {where} as JSON of {re.sub(r'[a-z_]+[.]', '', str(hint))}, got something else"
    )


def _refuse(value: object, kind: type, where: str) -> NoReturn:
    raise UpdateError(f"Expected {where} to be {kind.__name__}, got {type(value).__name__}")
