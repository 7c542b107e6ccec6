"""A campaign's plan, and a site's consent to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import cast

from flwr.app import ConfigRecord, RecordDict

from common.errors import UpdateError
from common.messages import PlanReply, PlanRequest, Refusal, Signed
from common.receipts import Receipt, from_fields
from common.wire.parts import contents, decode_refusal, fields_of, receipt_of

WEEK_MINUTES = 7 * 24 * 60


def encode_plan_request(request: PlanRequest) -> RecordDict:
    """Pack a plan for the wire."""
    return RecordDict(
        {
            "request": ConfigRecord(
                {
                    "campaign": request.campaign,
                    "request-id": request.request_id,
                    "version": request.version,
                    "plan": request.plan,
                    "plan-hash": request.plan_hash,
                    "run": request.run,
                    "known": json.dumps([asdict(receipt) for receipt in request.known]),
                }
            )
        }
    )


def decode_plan_request(record: RecordDict) -> PlanRequest:
    """Unpack :func:`encode_plan_request`.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of a receipt.
    """
    names = ("campaign", "request-id", "version", "plan", "plan-hash", "run", "known")
    fields = fields_of(record, "request", dict.fromkeys(names, str))
    return PlanRequest(
        campaign=cast(str, fields["campaign"]),
        request_id=cast(str, fields["request-id"]),
        version=cast(str, fields["version"]),
        plan=cast(str, fields["plan"]),
        plan_hash=cast(str, fields["plan-hash"]),
        run=cast(str, fields["run"]),
        known=_receipts(cast(str, fields["known"])),
    )


def encode_plan_reply(reply: PlanReply) -> RecordDict:
    """Pack a site's consent for the wire."""
    return RecordDict(
        {
            "reply": ConfigRecord(
                {
                    "site": reply.site,
                    "version": reply.version,
                    "plan-hash": reply.plan_hash,
                    "usable": json.dumps(dict(reply.usable)),
                    "public-key": reply.public_key,
                    "without": list(reply.without),
                    "hours": json.dumps(reply.hours),
                    "round-seconds": reply.round_seconds,
                }
            )
        }
    )


def decode_plan_reply(record: RecordDict) -> Signed[PlanReply] | Refusal:
    """Unpack :func:`encode_plan_reply` with its receipt, or a refusal.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of the receipt.
    """
    if "refusal" in record:
        return decode_refusal(record)
    names = ("site", "version", "plan-hash", "usable", "public-key", "hours")
    kinds: dict[str, type] = {**dict.fromkeys(names, str), "without": list, "round-seconds": float}
    fields = fields_of(record, "reply", kinds)
    reply = PlanReply(
        site=cast(str, fields["site"]),
        version=cast(str, fields["version"]),
        plan_hash=cast(str, fields["plan-hash"]),
        usable={str(k): int(v) for k, v in json.loads(cast(str, fields["usable"])).items()},
        public_key=cast(str, fields["public-key"]),
        without=tuple(str(name) for name in cast(list[str], fields["without"])),
        hours=_hours(cast(str, fields["hours"])),
        round_seconds=cast(float, fields["round-seconds"]),
    )
    return Signed(reply=reply, receipt=receipt_of(record), contents_hash=contents(record).hash)


def _receipts(text: str) -> tuple[Receipt, ...]:
    try:
        return tuple(from_fields(dict(one)) for one in json.loads(text))
    except (ValueError, TypeError):
        raise UpdateError("Expected the receipts that the centre knows, got something else") from None


def _hours(text: str) -> tuple[tuple[int, int], ...]:
    try:
        windows = tuple((int(start), int(end)) for start, end in json.loads(text))
    except (ValueError, TypeError):
        raise UpdateError("Expected hours as pairs of minutes of the week, got something else") from None
    if any(not 0 <= start < end <= WEEK_MINUTES for start, end in windows):
        raise UpdateError(f"Expected hours within the {WEEK_MINUTES} minutes of a week, got values outside")
    return windows
