"""Secure aggregation's messages: a phase of an attempt, and what a site says in it.

All but arrays is text, whole numbers and lists of these, so that it can be hashed and kept like every other reply:
bytes travel as hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args, get_type_hints

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import UpdateError
from common.messages import MissingWeights, Refusal, Signed, SumReply, SumRequest
from common.secure_aggregation import messages as sums
from common.secure_aggregation.masks import Ring
from common.wire.parts import contents, decode_missing_weights, decode_refusal, fields_of, receipt_of
from common.wire.train import decode_train_request, encode_train_request

VECTOR = "masked"
WIDTHS = {"uint32": 4, "uint64": 8}


def encode_sum_request(request: SumRequest) -> RecordDict:
    """Pack a phase for the wire; in phase masked with what is to be trained."""
    record = RecordDict(
        {
            "request": ConfigRecord(
                {
                    "campaign": request.campaign,
                    "request-id": request.request_id,
                    "networks": list(request.networks),
                }
            ),
            "sum": _as_text(request.asks),
        }
    )
    if request.train is not None:
        train = encode_train_request(request.train)
        record["train"] = train.pop("request")
        record.update(train)
    return record


def decode_sum_request(record: RecordDict) -> SumRequest:
    """Unpack :func:`encode_sum_request`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type, or training is asked for in another phase.
    """
    fields = fields_of(record, "request", {"campaign": str, "request-id": str, "networks": list})
    asks = sums.request_from_fields(_as_bytes(record, "sum", sums.REQUESTS))
    train = None
    if "train" in record:
        parts = {name: part for name, part in record.items() if name not in ("request", "sum", "train")}
        train = decode_train_request(RecordDict({"request": record["train"], **parts}))
    if (train is None) == (asks.phase == "masked"):
        raise UpdateError(f"Expected what is to be trained in phase masked alone, got phase {asks.phase}")
    return SumRequest(
        campaign=cast(str, fields["campaign"]),
        request_id=cast(str, fields["request-id"]),
        networks=tuple(str(name) for name in cast(list[str], fields["networks"])),
        asks=asks,
        train=train,
    )


def encode_sum_reply(reply: SumReply) -> RecordDict:
    """Pack what a site says in a phase for the wire."""
    record = RecordDict(
        {
            "reply": ConfigRecord({"site": reply.site, "request-id": reply.request_id}),
            "sum": _as_text(reply.says),
        }
    )
    if isinstance(reply.says, sums.MaskedReply):
        record["vector"] = ArrayRecord({VECTOR: _array(reply.says.vector)})
    return record


def decode_sum_reply(record: RecordDict) -> Signed[SumReply] | MissingWeights | Refusal:
    """Unpack :func:`encode_sum_reply` with its receipt, or a request for weights, or a refusal.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of the receipt.
    """
    if "refusal" in record:
        return decode_refusal(record)
    if "missing-weights" in record:
        return decode_missing_weights(record)
    if not set(record) <= {"reply", "sum", "vector", "receipt"}:
        raise UpdateError(f"Expected a reply, its vector and its receipt, got {sorted(record)!s:.200}")
    fields = fields_of(record, "reply", {"site": str, "request-id": str})
    arrays = record.array_records.get("vector", ArrayRecord())
    vector = _ring(arrays[VECTOR]) if VECTOR in arrays else None
    reply = SumReply(
        site=cast(str, fields["site"]),
        request_id=cast(str, fields["request-id"]),
        says=sums.reply_from_fields(_as_bytes(record, "sum", sums.REPLIES), vector=vector),
    )
    return Signed(reply=reply, receipt=receipt_of(record), contents_hash=contents(record).hash)


def _as_text(message: sums.Request | sums.Reply) -> ConfigRecord:
    return ConfigRecord({name: _text(value) for name, value in sums.to_fields(message).items()})


def _text(value: sums.Field) -> str | int | list[str]:
    if isinstance(value, list):
        return [part.hex() if isinstance(part, bytes) else part for part in value]
    return value.hex() if isinstance(value, bytes) else value


def _as_bytes(
    record: RecordDict, name: str, kinds: Mapping[sums.Phase, type[sums.Request] | type[sums.Reply]]
) -> dict[str, object]:
    """Undo :func:`_as_text`, by what a message of the named phase has."""
    fields = dict(record.config_records.get(name, ConfigRecord()))
    kind = kinds.get(cast(sums.Phase, fields.get("phase")))
    hints = get_type_hints(kind) if kind is not None else {}
    return {key: _bytes(value, hints.get(key)) for key, value in fields.items()}


def _bytes(value: object, hint: object) -> object:
    try:
        if hint is bytes and isinstance(value, str):
            return bytes.fromhex(value)
        if get_args(hint)[:1] == (bytes,) and isinstance(value, list):
            return [bytes.fromhex(part) for part in value]
    except (ValueError, TypeError):
        raise UpdateError("Expected bytes as hex in a phase of a secure sum, got something else") from None
    return value


def _array(vector: Ring) -> Array:
    kind = "uint32" if vector.dtype == np.uint32 else "uint64"
    return Array(
        kind, vector.shape, "raw", vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
    )


def _ring(array: Array) -> Ring:
    width = WIDTHS.get(array.dtype)
    fits = width is not None and len(array.shape) == 1 and len(array.data) == width * array.shape[0]
    if array.stype != "raw" or not fits:
        raise UpdateError(
            f"Expected a masked vector of uint32 or uint64, got {array.dtype} {array.stype} {array.shape}"
        )
    return np.frombuffer(array.data, dtype=f"<u{width}").astype(array.dtype, copy=False)
