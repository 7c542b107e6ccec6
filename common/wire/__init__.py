"""Typed requests and replies, and how they travel as Flower messages: the only part of common that knows flwr.

A network travels as one flat array (56 arrays cost 3.2 ms of encoding, one 0.12 ms) of raw little-endian
bytes. The layout it belongs to is known on both sides from the plan; its hash is checked by the receiver.
A reply travels with the site's receipt, which names the hash of everything else in it.

A new kind of message is a dataclass in :mod:`common.messages`: :mod:`common.wire.codec` reads its fields' types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.errors import UpdateError
from common.messages import Encoding, Message, MissingWeights, Refusal, Reply, Signed, TrainRequest
from common.receipts import Contents, Receipt, from_fields
from common.wire import codec

PLAN = "query.plan"
TRAIN = "train"
SUM = "train.sum"
ENSEMBLE = "query.ensemble"
EVALUATE = "evaluate"
RECEIPT = "receipt"


def encode(message: Message, *, encoding: Encoding = "float32") -> RecordDict:
    """Pack a message for the wire.

    Args:
        message: a request, or a reply without its receipt.
        encoding: how weights are written, where the message does not say so itself.
    """
    record = RecordDict()
    codec.put(message, message.part, record, encoding=encoding)
    return record


def decode(kind: type[Message], record: RecordDict) -> Message:
    """Unpack :func:`encode`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of a receipt.
    """
    parts: dict[str, object] = dict(record.items())
    message = codec.take([kind], kind.part, parts)
    if parts:
        raise UpdateError(f"Expected a {kind.part} alone, got {sorted(parts)!s:.200} too")
    return message


def decode_reply(kind: type[Reply], record: RecordDict) -> Signed[Reply] | Refusal:
    """Unpack a site's reply with its receipt, or its refusal; see :func:`decode`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of the receipt.
    """
    if Refusal.part in record:
        return decode(Refusal, record)
    reply = decode(kind, RecordDict({name: part for name, part in record.items() if name != RECEIPT}))
    receipt = from_fields(record.config_records.get(RECEIPT, ConfigRecord()))
    return Signed(reply=reply, receipt=receipt, contents_hash=contents(record).hash)


def decode_round_reply(kind: type[Reply], record: RecordDict) -> Signed[Reply] | MissingWeights | Refusal:
    """As :func:`decode_reply`, where a site may also ask for weights."""
    return decode(MissingWeights, record) if MissingWeights.part in record else decode_reply(kind, record)


def with_receipt(record: RecordDict, receipt: Receipt) -> RecordDict:
    """A packed reply and its receipt, as they leave."""
    return RecordDict({**record, RECEIPT: ConfigRecord(asdict(receipt))})


def contents(record: RecordDict) -> Contents:
    """Hash and size of all that a packed reply holds but its receipt; arrays are read where they lie.

    Raises:
        UpdateError: if it holds something that no reply has.
    """
    return Contents.of(_parts(record))


def content_hash(request: TrainRequest) -> str:
    """SHA-256 in hex of all that decides what a site computes, the same for what is sent and what was received.

    That is everything but the request's id, and attached weights: those go by their hashes, which are part of it.
    """
    return contents(encode(replace(request, request_id="", attached={}))).hash


def _parts(record: RecordDict) -> Iterator[tuple[object, bytes]]:
    for name in sorted(set(record) - {RECEIPT}):
        part = record[name]
        if isinstance(part, ConfigRecord):
            yield [name, dict(part)], b""
        elif isinstance(part, ArrayRecord):
            for key in sorted(part):
                array = part[key]
                yield [name, key, array.dtype, list(array.shape), array.stype], array.data
        else:
            raise UpdateError(f"Expected fields and arrays in a reply, got {type(part).__name__}")
