"""What all messages are made of: fields, arrays, receipts, refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common import bfloat16
from common.errors import UpdateError
from common.messages import Encoding, MissingWeights, Refusal, Weights
from common.receipts import Contents, Receipt, from_fields


def contents(record: RecordDict) -> Contents:
    """Hash and size of all that a packed reply holds but its receipt; arrays are read where they lie.

    Raises:
        UpdateError: if it holds something that no reply has.
    """
    return Contents.of(_parts(record))


def with_receipt(record: RecordDict, receipt: Receipt) -> RecordDict:
    """A packed reply and its receipt, as they leave."""
    return RecordDict({**record, "receipt": ConfigRecord(asdict(receipt))})


def encode_refusal(refusal: Refusal) -> RecordDict:
    """Pack a refusal for the wire."""
    return RecordDict(
        {"refusal": ConfigRecord({"site": refusal.site, "code": refusal.code, "version": refusal.version})}
    )


def decode_refusal(record: RecordDict) -> Refusal:
    """Unpack :func:`encode_refusal`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
    """
    fields = fields_of(record, "refusal", {"site": str, "code": str, "version": str})
    return Refusal(
        site=cast(str, fields["site"]), code=cast(str, fields["code"]), version=cast(str, fields["version"])
    )


def encode_missing_weights(missing: MissingWeights) -> RecordDict:
    """Pack a site's request for weights for the wire."""
    return RecordDict(
        {
            "missing-weights": ConfigRecord(
                {"site": missing.site, "request-id": missing.request_id, "hashes": list(missing.hashes)}
            )
        }
    )


def decode_missing_weights(record: RecordDict) -> MissingWeights:
    """Unpack :func:`encode_missing_weights`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
    """
    fields = fields_of(record, "missing-weights", {"site": str, "request-id": str, "hashes": list})
    return MissingWeights(
        site=cast(str, fields["site"]),
        request_id=cast(str, fields["request-id"]),
        hashes=tuple(str(digest) for digest in cast(list[str], fields["hashes"])),
    )


def receipt_of(record: RecordDict) -> Receipt:
    """The receipt that came with a reply; not yet checked.

    Raises:
        VerificationError: if there is none.
    """
    return from_fields(record.config_records.get("receipt", ConfigRecord()))


def fields_of(record: RecordDict, name: str, expected: Mapping[str, type]) -> Mapping[str, object]:
    """The fields of a part of a message.

    Raises:
        UpdateError: if one is missing, unknown or of another type.
    """
    config = record.config_records.get(name)
    if config is None or set(config) != set(expected):
        raise UpdateError(
            f"Expected a {name} with {sorted(expected)}, got {sorted(config) if config is not None else 'none'}"
        )
    for key, kind in expected.items():
        if not isinstance(config[key], kind):
            raise UpdateError(
                f"Expected {name}.{key} to be {kind.__name__}, got {type(config[key]).__name__}"
            )
    return config


def pack(values: Weights, encoding: Encoding) -> Array:
    """Numbers as raw little-endian bytes."""
    if encoding == "float32":
        return Array("float32", values.shape, "raw", values.astype("<f4", copy=False).tobytes())
    return Array("bfloat16", values.shape, "raw", bfloat16.encode(values).tobytes())


def unpack(array: Array) -> Weights:
    """Undo :func:`pack`; numbers are read where they lie.

    Raises:
        UpdateError: if type, shape and bytes do not fit.
    """
    width = {"float32": 4, "bfloat16": 2}.get(array.dtype)
    if array.stype != "raw" or width is None or len(array.data) != width * math.prod(array.shape):
        raise UpdateError(
            f"Expected raw float32 or bfloat16 of the stated shape, got {array.dtype} {array.stype} {array.shape}, "
            f"{len(array.data)} bytes"
        )
    if array.dtype == "float32":
        return np.frombuffer(array.data, dtype="<f4")
    return bfloat16.decode(np.frombuffer(array.data, dtype="<u2"))


def _parts(record: RecordDict) -> Iterator[tuple[object, bytes]]:
    for name in sorted(set(record) - {"receipt"}):
        part = record[name]
        if isinstance(part, ConfigRecord):
            yield [name, dict(part)], b""
        elif isinstance(part, ArrayRecord):
            for key in sorted(part):
                array = part[key]
                yield [name, key, array.dtype, list(array.shape), array.stype], array.data
        else:
            raise UpdateError(f"Expected fields and arrays in a reply, got {type(part).__name__}")
