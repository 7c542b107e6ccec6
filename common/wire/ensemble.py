"""The ensemble that a campaign left, on its way to the sites."""

from __future__ import annotations

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.messages import EnsembleReply, EnsembleRequest, Refusal, Signed
from common.wire.parts import contents, decode_refusal, fields_of, pack, receipt_of, unpack


def encode_ensemble_request(request: EnsembleRequest) -> RecordDict:
    """Pack an ensemble, or a piece of it, for the wire."""
    return RecordDict(
        {
            "request": ConfigRecord(
                {
                    "campaign": request.campaign,
                    "plan-hash": request.plan_hash,
                    "request-id": request.request_id,
                    "statement": request.statement,
                    "signature": request.signature,
                    "certificate": request.certificate,
                }
            ),
            "weights": ArrayRecord({h: pack(w, "float32") for h, w in request.weights.items()}),
        }
    )


def decode_ensemble_request(record: RecordDict) -> EnsembleRequest:
    """Unpack :func:`encode_ensemble_request`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
    """
    names = ("campaign", "plan-hash", "request-id", "statement", "signature", "certificate")
    fields = fields_of(record, "request", dict.fromkeys(names, str))
    weights = record.array_records.get("weights", ArrayRecord())
    return EnsembleRequest(
        campaign=cast(str, fields["campaign"]),
        plan_hash=cast(str, fields["plan-hash"]),
        request_id=cast(str, fields["request-id"]),
        statement=cast(str, fields["statement"]),
        signature=cast(str, fields["signature"]),
        certificate=cast(str, fields["certificate"]),
        weights={str(name): unpack(array) for name, array in weights.items()},
    )


def encode_ensemble_reply(reply: EnsembleReply) -> RecordDict:
    """Pack a site's acknowledgement for the wire."""
    return RecordDict(
        {
            "reply": ConfigRecord(
                {"site": reply.site, "request-id": reply.request_id, "missing": list(reply.missing)}
            )
        }
    )


def decode_ensemble_reply(record: RecordDict) -> Signed[EnsembleReply] | Refusal:
    """Unpack :func:`encode_ensemble_reply` with its receipt, or a refusal.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of the receipt.
    """
    if "refusal" in record:
        return decode_refusal(record)
    fields = fields_of(record, "reply", {"site": str, "request-id": str, "missing": list})
    reply = EnsembleReply(
        site=cast(str, fields["site"]),
        request_id=cast(str, fields["request-id"]),
        missing=tuple(str(digest) for digest in cast(list[str], fields["missing"])),
    )
    return Signed(reply=reply, receipt=receipt_of(record), contents_hash=contents(record).hash)
