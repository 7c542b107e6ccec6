"""A round of a group, and what a site trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from common.errors import UpdateError
from common.evaluation.histograms import BINS
from common.messages import (
    Encoding,
    MissingWeights,
    NetworkReply,
    Refusal,
    Signed,
    TrainReply,
    TrainRequest,
    Weights,
    WeightsRef,
)
from common.wire.parts import (
    contents,
    decode_missing_weights,
    decode_refusal,
    fields_of,
    pack,
    receipt_of,
    unpack,
)


def encode_train_request(request: TrainRequest) -> RecordDict:
    """Pack a round of a group for the wire."""
    names = list(request.weights)
    return RecordDict(
        {
            "request": ConfigRecord(
                {
                    "campaign": request.campaign,
                    "plan-hash": request.plan_hash,
                    "request-id": request.request_id,
                    "group": request.group,
                    "server-round": request.server_round,
                    "encoding": request.encoding,
                    "layouts": [request.layouts[name] for name in names],
                    "networks": names,
                    "frozen": json.dumps(_hashes(request.frozen)),
                    "run": request.run,
                    "state-round": request.state_round,
                }
            ),
            "weights": ArrayRecord({name: pack(request.weights[name], request.encoding) for name in names}),
            # never rounded: their hash is of all their bits
            "attached": ArrayRecord({h: pack(w, "float32") for h, w in request.attached.items()}),
            "extra": _pack_extra(request.extra),
        }
    )


def content_hash(request: TrainRequest) -> str:
    """SHA-256 in hex of all that decides what a site computes, the same for what is sent and what was received.

    That is everything but the request's id, and attached weights: those go by their hashes, which are part of it.
    """
    return contents(encode_train_request(replace(request, request_id="", attached={}))).hash


def _hashes(frozen: Mapping[str, Mapping[str, WeightsRef]]) -> dict[str, dict[str, str]]:
    return {name: {part: ref.hash for part, ref in parts.items()} for name, parts in frozen.items()}


def decode_train_request(record: RecordDict) -> TrainRequest:
    """Unpack :func:`encode_train_request`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
    """
    fields = fields_of(
        record,
        "request",
        {
            "campaign": str,
            "plan-hash": str,
            "request-id": str,
            "group": str,
            "server-round": int,
            "encoding": str,
            "layouts": list,
            "networks": list,
            "frozen": str,
            "run": str,
            "state-round": int,
        },
    )
    names = [str(name) for name in cast(list[str], fields["networks"])]
    arrays, attached = (record.array_records.get(part, ArrayRecord()) for part in ("weights", "attached"))
    if sorted(arrays) != sorted(names):
        raise UpdateError(f"Expected weights of {sorted(names)}, got {sorted(arrays)}")
    encoding = _encoding(cast(str, fields["encoding"]))
    weights = {name: unpack(arrays[name]) for name in names}
    if {arrays[name].dtype for name in names} - {
        encoding
    }:  # else content_hash would not be of what is computed
        raise UpdateError(f"Expected weights as {encoding}, got them written otherwise")
    return TrainRequest(
        campaign=cast(str, fields["campaign"]),
        plan_hash=cast(str, fields["plan-hash"]),
        request_id=cast(str, fields["request-id"]),
        group=cast(str, fields["group"]),
        server_round=cast(int, fields["server-round"]),
        encoding=encoding,
        weights=weights,
        layouts=dict(zip(names, cast(list[str], fields["layouts"]), strict=True)),
        frozen=_refs(cast(str, fields["frozen"])),
        attached={str(name): unpack(attached[name]) for name in attached},
        extra=_unpack_extra(record, names),
        run=cast(str, fields["run"]),
        state_round=cast(int, fields["state-round"]),
    )


def _refs(text: str) -> dict[str, dict[str, WeightsRef]]:
    try:
        return {
            str(name): {str(part): WeightsRef(str(digest)) for part, digest in parts.items()}
            for name, parts in json.loads(text).items()
        }
    except (ValueError, AttributeError):
        raise UpdateError("Expected references to weights by network and part, got something else") from None


def encode_train_reply(reply: TrainReply, *, encoding: Encoding) -> RecordDict:
    """Pack a site's answer for the wire."""
    names = list(reply.networks)
    networks = reply.networks
    updates = {n: pack(u, encoding) for n in names if (u := networks[n].update) is not None}
    histograms = {
        n: Array("int64", h.shape, "raw", h.astype("<i8").tobytes())
        for n in names
        if (h := networks[n].histograms) is not None
    }
    return RecordDict(
        {
            "reply": ConfigRecord(
                {
                    "site": reply.site,
                    "request-id": reply.request_id,
                    "networks": names,
                    "num-examples": [networks[n].num_examples for n in names],
                    "loss": [networks[n].loss for n in names],
                }
            ),
            "updates": ArrayRecord(updates),
            "histograms": ArrayRecord(histograms),
            "extra": _pack_extra({name: networks[name].extra for name in names}),
        }
    )


def decode_train_reply(record: RecordDict) -> Signed[TrainReply] | MissingWeights | Refusal:
    """Unpack :func:`encode_train_reply` with its receipt, or a request for weights, or a refusal.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of the receipt.
    """
    if "refusal" in record:
        return decode_refusal(record)
    if "missing-weights" in record:
        return decode_missing_weights(record)
    fields = fields_of(
        record,
        "reply",
        {"site": str, "request-id": str, "networks": list, "num-examples": list, "loss": list},
    )
    updates = record.array_records.get("updates", ArrayRecord())
    histograms = record.array_records.get("histograms", ArrayRecord())
    names = [str(name) for name in cast(list[str], fields["networks"])]
    if not (set(updates) <= set(names) and set(histograms) <= set(names)):
        raise UpdateError(
            f"Expected arrays of {sorted(names)} only, got {sorted(updates)}, {sorted(histograms)}"
        )
    extra = _unpack_extra(record, names)
    counts, losses = cast(list[int], fields["num-examples"]), cast(list[float], fields["loss"])
    reply = TrainReply(
        site=cast(str, fields["site"]),
        request_id=cast(str, fields["request-id"]),
        networks={
            name: NetworkReply(
                update=unpack(updates[name]) if name in updates else None,
                num_examples=int(count),
                loss=float(loss),
                histograms=_unpack_histograms(histograms[name]) if name in histograms else None,
                extra=extra[name],
            )
            for name, count, loss in zip(names, counts, losses, strict=True)
        },
    )
    return Signed(reply=reply, receipt=receipt_of(record), contents_hash=contents(record).hash)


def _encoding(text: str) -> Encoding:
    if text not in ("float32", "bfloat16"):
        raise UpdateError(f"Expected encoding float32 or bfloat16, got {text!r}")
    return cast(Encoding, text)


def _pack_extra(extra: Mapping[str, Mapping[str, Weights]]) -> ArrayRecord:
    """Further arrays of all networks, by ``<array>:<network>``; control variates are too small to be rounded."""
    return ArrayRecord(
        {
            f"{array}:{name}": pack(values, "float32")
            for name, arrays in extra.items()
            for array, values in arrays.items()
        }
    )


def _unpack_extra(record: RecordDict, networks: Sequence[str]) -> dict[str, dict[str, Weights]]:
    """Network -> array -> values, for each of the networks."""
    found: dict[str, dict[str, Weights]] = {name: {} for name in networks}
    for key, array in record.array_records.get("extra", ArrayRecord()).items():
        kind, _, name = str(key).partition(":")
        if name not in found:
            raise UpdateError(f"Expected further arrays of {sorted(found)}, got {key!r:.200}")
        found[name][kind] = unpack(array)
    return found


def _unpack_histograms(array: Array) -> NDArray[np.int64]:
    shape = tuple(array.shape)
    fits = len(shape) == 2 and shape[1] == BINS and len(array.data) == math.prod(shape) * 8
    if array.dtype != "int64" or not fits:
        raise UpdateError(
            f"Expected int64 histograms of shape (classes, {BINS}), got {array.dtype} {array.shape}"
        )
    return np.frombuffer(array.data, dtype="<i8").reshape(shape).astype(np.int64)
