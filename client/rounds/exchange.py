"""One request and its one answer: held against policy and decisions, entered in the log, kept in the outbox.

Whatever goes wrong becomes a fixed code, which leaves, and a text, which stays in the site's own ``log.txt``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from client.consent import answered_rounds, campaigns, consent, timing
from client.ledger import issued_receipts
from client.log import audit, outbox
from client.log.audit import Asked
from client.log.log import site_log
from client.site import policy_file, training_device
from client.site.site import Site
from client.state import busy, decisions
from common import wire
from common.errors import PolicyError, SynofedError, UpdateError, VerificationError
from common.messages import (
    EnsembleRequest,
    EvaluateRequest,
    MissingWeights,
    PlanRequest,
    Refusal,
    SumRequest,
    TrainReply,
    TrainRequest,
)
from common.receipts import Contents, Receipt
from common.settings import Settings

if TYPE_CHECKING:
    import torch

Request = TypeVar("Request", PlanRequest, TrainRequest, SumRequest, EnsembleRequest, EvaluateRequest)
PARTS = frozenset({"request", "sum", "train", "weights", "attached", "extra"})
MAXIMUM_TEXT_BYTES = 4_000_000
"""Of all texts of a request together."""
MAXIMUM_ITEMS = 100_000
"""Of all lists and arrays of a request together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What the site gives for training.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of the CPU; 0: as many as there are cores.
        stacked: whether networks of one shape train at once; ``None``: as ``site.toml`` says.
    """

    device: str = "auto"
    threads: int = 0
    stacked: bool | None = None


def answer_plan(folder: Path, record: RecordDict) -> RecordDict:
    """A site's answer to a campaign's plan, or its refusal."""

    def answer(site: Site, request: PlanRequest, asked: Asked) -> RecordDict:
        audit.find_answer(site.folder, asked)
        packed = wire.encode(consent.consider_plan(site, request))
        return sent(
            site, asked, packed, lambda contents: issued_receipts.of_consent(site, request, contents, asked)
        )

    return handled(folder, record, PlanRequest, answer)


def answer_train(folder: Path, record: RecordDict, compute: Compute) -> RecordDict:
    """A site's answer to a request to train, or its refusal."""

    def answer(site: Site, request: TrainRequest, asked: Asked) -> RecordDict:
        settings = campaigns.settings_of_approved(site, request.plan_hash, name=request.campaign)
        again = _repeated(site, asked)
        if again is not None:
            return again
        site.policy.check_hours()
        if settings.federation.secure is not None:
            raise PolicyError(
                "Expected a phase of a secure sum, as the plan says, got a request for a single update"
            )
        answered_rounds.check(site.folder, request)
        from client.rounds import run_data  # noqa: PLC0415  torch: the exams are read

        run_data.check(site, settings, plan_hash=request.plan_hash, run=request.run)
        train = trained_openly if settings.privacy is None else trained_privately
        reply = train(site, request, settings, compute)
        if isinstance(reply, MissingWeights):
            policy_hash = policy_file.policy_hash(site)
            audit.missing(site.folder, asked, weights=len(reply.hashes), policy_hash=policy_hash)
            return wire.encode(reply)
        packed = wire.encode(reply, encoding=request.encoding)
        return sent(
            site, asked, packed, lambda contents: issued_receipts.of_reply(site, request, contents, asked)
        )

    return handled(folder, record, TrainRequest, answer)


def answer_ensemble(folder: Path, record: RecordDict) -> RecordDict:
    """A site's acknowledgement of the ensemble that it helped to train, or its refusal."""

    def answer(site: Site, request: EnsembleRequest, asked: Asked) -> RecordDict:
        from client.ensemble import delivery  # noqa: PLC0415  torch: the networks are looked at

        settings = campaigns.settings_of_approved(site, request.plan_hash, name=request.campaign)
        audit.find_answer(site.folder, asked)
        packed = wire.encode(delivery.take(site, request, settings))
        return sent(
            site, asked, packed, lambda contents: issued_receipts.of_ensemble(site, request, contents, asked)
        )

    return handled(folder, record, EnsembleRequest, answer)


def answer_evaluate(folder: Path, record: RecordDict, compute: Compute) -> RecordDict:
    """What a site tells of an ensemble on its held-out patients, or its refusal."""

    def answer(site: Site, request: EvaluateRequest, asked: Asked) -> RecordDict:
        from client.ensemble import evaluation  # noqa: PLC0415  torch: the networks are asked

        settings = campaigns.settings_of_approved(site, request.plan_hash, name=request.campaign)
        again = _repeated(site, asked)
        if again is not None:
            return again
        site.policy.check_hours()
        packed = wire.encode(evaluation.take(site, request, settings, device=device_of(site, compute)))
        return sent(
            site,
            asked,
            packed,
            lambda contents: issued_receipts.of_ensemble(site, request, contents, asked),
        )

    return handled(folder, record, EvaluateRequest, answer)


def handled(
    folder: Path,
    record: RecordDict,
    kind: type[Request],
    answer: Callable[[Site, Request, Asked], RecordDict],
) -> RecordDict:
    """The answer to one request, or the code of what kept it from being given; never an exception.

    Args:
        folder: of the site.
        record: what came.
        kind: of request.
        answer: is asked for what leaves, with its receipt, once the request is in the log.
    """
    name, asked = folder.name, None
    try:
        request, asked = _received(record, kind)
        site = Site.open(folder)
        name = site.name
        with busy.working(folder) if policy_file.enrolled(site) else nullcontext():
            policy_file.admit(site)
            audit.log_request(folder, asked, policy_hash=policy_file.policy_hash(site))
            return answer(site, request, asked)
    except SynofedError as error:
        site_log(folder, logging.ERROR, str(error))
        return _refusal(folder, name, asked, error.code)
    except Exception:  # anything else may carry patient data in its text
        site_log(folder, logging.CRITICAL, "unexpected error", with_traceback=True)
        return _refusal(folder, name, asked, "internal")


def _refusal(folder: Path, name: str, asked: Asked | None, code: str) -> RecordDict:
    """Refusals stand in the audit log too, but do not depend on it."""
    try:
        audit.refused(folder, asked, code=code)
    except SynofedError as error:
        site_log(folder, logging.ERROR, str(error))
    return wire.encode(Refusal(site=name, code=code))


def _received(record: RecordDict, kind: type[Request]) -> tuple[Request, Asked]:
    """A request and its facts, once it was found to be no larger than any that is meant."""
    _check_size(record)
    try:
        request = wire.decode(kind, record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UpdateError(f"Expected a readable request, got {type(error).__name__}") from None
    if outbox.REQUEST_ID.fullmatch(request.request_id) is None:
        raise UpdateError("Expected a request ID of letters, digits, - and _, got something else")
    if len(request.campaign) > 100 or decisions.HASH.fullmatch(request.plan_hash) is None:
        raise UpdateError(
            "Expected a campaign name of at most 100 characters and the hash of its plan, got something else"
        )
    if isinstance(request, TrainRequest | SumRequest) and len(request.group) > 300:
        raise UpdateError("Expected a group name of at most 300 characters, got a longer one")
    lasting = RecordDict({name: part for name, part in record.items() if name != "attached"})
    return request, Asked.of(request, wire.contents(lasting))


def _check_size(record: RecordDict) -> None:
    unknown = sorted(set(record) - PARTS)
    if unknown:
        raise UpdateError(f"Expected a request of {sorted(PARTS)}, got {unknown!s:.200} too")
    text = items = 0
    for part in record.values():
        if isinstance(part, ArrayRecord):
            items += len(part)
            text += sum(len(key) for key in part)
        elif isinstance(part, ConfigRecord):
            for value in part.values():
                values = value if isinstance(value, list) else [value]
                items += len(values)
                text += sum(len(one) for one in values if isinstance(one, (str, bytes)))
    if text > MAXIMUM_TEXT_BYTES or items > MAXIMUM_ITEMS:
        raise UpdateError(
            f"Expected a request of at most {MAXIMUM_TEXT_BYTES} letters in {MAXIMUM_ITEMS} items, got {text} in "
            f"{items}"
        )


def _repeated(site: Site, asked: Asked) -> RecordDict | None:
    """The reply that a request of this id has got, if it is kept.

    Raises:
        UpdateError: if the ID was used for a different request before.
        VerificationError: if the log is damaged where it was looked at.
    """
    audit.find_answer(site.folder, asked)
    try:
        kept = outbox.find(site.folder, asked.request_id)
    except VerificationError as error:
        site_log(site.folder, logging.WARNING, f"{error}. The reply is computed again")
        return None
    if kept is None or kept.asked.request_hash != asked.request_hash:
        return None
    contents = wire.contents(kept.record)
    audit.repeated(
        site.folder,
        asked,
        reply_hash=contents.hash,
        reply_bytes=contents.size_bytes,
        policy_hash=policy_file.policy_hash(site),
    )
    return wire.with_receipt(kept.record, kept.receipt)


def trained_openly(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    compute: Compute,
    *,
    asker: str | None = None,
) -> TrainReply | MissingWeights:
    """What training without differential privacy gave, booked as unbounded.

    Args:
        site: the site.
        request: what to train.
        settings: of the campaign.
        compute: what with.
        asker: see :func:`client.consent.answered_rounds.check`.
    """
    from client.rounds import unprotected  # noqa: PLC0415  torch: the exams are read

    patients = unprotected.patients(site, settings)
    reply = _trained(site, request, settings, compute)
    if isinstance(reply, TrainReply):
        answered_rounds.claim_at(site, request, asker=asker)
        unprotected.book(site, request, patients | unprotected.patients(site, settings))
    return reply


def trained_privately(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    compute: Compute,
    *,
    asker: str | None = None,
) -> TrainReply | MissingWeights:
    """What a private round gave, as :func:`trained_openly`; it is booked before it is drawn."""
    from client.rounds import private_round  # noqa: PLC0415  torch

    return private_round.train(site, request, settings, device=device_of(site, compute), asker=asker)


def _trained(
    site: Site, request: TrainRequest, settings: Settings, compute: Compute
) -> TrainReply | MissingWeights:
    from client.rounds import memory, node  # noqa: PLC0415  torch: only where something is trained

    began = time.monotonic()
    stacked = site.file.compute.stacked if compute.stacked is None else compute.stacked

    def work(device: torch.device, share: int) -> TrainReply | MissingWeights:
        return node.train(site, request, settings, device=device, share=share, stacked_training=stacked)

    reply = memory.within(site, device_of(site, compute), work)
    if isinstance(reply, TrainReply) and site.policy.permits("timings"):
        timing.add(site.folder, request.plan_hash, time.monotonic() - began)
    return reply


def device_of(site: Site, compute: Compute) -> torch.device:
    """What trains, with its threads and its share of memory set; see :func:`client.site.training_device.prepared`."""
    return training_device.prepared(site, device=compute.device, threads=compute.threads)


def sent(
    site: Site,
    asked: Asked,
    packed: RecordDict,
    issue: Callable[[Contents], Receipt],
    *,
    kept: bool = True,
) -> RecordDict:
    """A reply with its receipt: in the log, and in the outbox where replies are kept.

    Args:
        site: the site.
        asked: what is answered.
        packed: what leaves.
        issue: enters it in the log and signs its receipt.
        kept: whether it belongs in the outbox.

    Raises:
        PolicyError: if it is larger than the policy permits.
        StorageError: if log or outbox cannot be written.
    """
    contents = wire.contents(packed)
    if contents.size_bytes > site.policy.maximum_update_bytes:
        raise PolicyError(
            f"The reply has {contents.size_bytes} bytes, policy.maximum_update_bytes in site.toml is "
            f"{site.policy.maximum_update_bytes}: raise it there to permit that"
        )
    keep_days = site.policy.keep_outbox_days
    outbox.prune(site.folder, keep_days=keep_days)
    if keep_days == 0 or not kept:
        return wire.with_receipt(packed, issue(contents))
    draft = outbox.Draft(site.folder, asked, packed)
    try:
        receipt = issue(contents)
        draft.complete(receipt)
    finally:
        draft.discard()
    return wire.with_receipt(packed, receipt)
