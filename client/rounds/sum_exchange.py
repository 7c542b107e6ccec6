"""One phase of a secure sum and its one answer; see :mod:`client.rounds.exchange`.

What leaves is what the protocol says in that phase and nothing else: keys, encrypted shares, a signature, shares, or
a vector under masks. Patients' data go into phase masked alone; it is the only one that the ledger knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import RecordDict
from jaxtyping import Int64

from client.consent import answered_rounds, campaigns, opened_sums
from client.ledger import issued_receipts
from client.log import audit
from client.log.audit import Asked
from client.rounds import secure_sum, sum_allow_list
from client.rounds.exchange import (
    Compute,
    device_of,
    handled,
    sent,
    trained_openly,
    trained_privately,
)
from client.site import policy_file
from client.site.site import Site
from client.state import sum_state
from client.state.sum_state import SumFile
from common import wire
from common.aggregation.update_sum import UpdateSum
from common.errors import SiteStateError
from common.messages import MissingWeights, SumReply, SumRequest, TrainRequest
from common.privacy.mechanism.private_sum import PrivateSum
from common.receipts import Contents, Receipt
from common.secure_aggregation.messages import Reply
from common.settings import Settings


def answer_sum(folder: Path, record: RecordDict, compute: Compute) -> RecordDict:
    """A site's answer in a phase of a secure sum, or its refusal."""

    def answer(site: Site, request: SumRequest, asked: Asked) -> RecordDict:
        settings = campaigns.settings_of_approved(site, request.plan_hash, name=request.campaign)
        secure_sum.check(request, settings.federation.secure)
        before = audit.find_answer(site.folder, asked)
        with sum_state.opened(site.folder, request.asks.context) as file:
            if not file.is_repeated(request.asks, request.networks):
                if before is not None and before.content.get("event") != audit.MISSING:
                    raise SiteStateError(
                        f"Phase {request.asks.phase} of this attempt was answered before (entry {before.sequence} of "
                        f"the log), and what was kept of it is gone: the centre has to begin another attempt"
                    )
                site.policy.check_hours()
                missing = _answer(site, request, settings, file, compute)
                if missing is not None:
                    policy_hash = policy_file.policy_hash(site)
                    audit.missing(site.folder, asked, weights=len(missing.hashes), policy_hash=policy_hash)
                    return wire.encode(missing)
            return _kept(site, request, asked, file)

    return handled(folder, record, SumRequest, answer)


def _answer(
    site: Site, request: SumRequest, settings: Settings, file: SumFile, compute: Compute
) -> MissingWeights | None:
    """Answer a phase and keep reply and state; or which weights have to come first."""
    asks = request.asks
    says: Reply
    opened_sums.check(site, asks.context, request.networks)
    if asks.phase == "masked":
        assert request.train is not None
        secure_sum.check_masked(file, request)
        vector = _vector(site, request, request.train, settings, compute)
        if isinstance(vector, MissingWeights):
            return vector
        says, state = secure_sum.masked(file, request, vector)
    else:
        says, state = secure_sum.answer(site, request, settings, file)
    if asks.phase == "unmask":
        opened_sums.note(site, asks.context, request.networks)
    reply = SumReply(site=site.name, request_id=request.request_id, says=says)
    packed = wire.encode(sum_allow_list.checked(reply, request, state))
    file.answer(asks.phase, packed, state, request.networks)
    return None


def _kept(site: Site, request: SumRequest, asked: Asked, file: SumFile) -> RecordDict:
    """What was said, with its receipt: the same bytes however often it is asked for."""
    phase = request.asks.phase
    record, receipt = file.reply(phase)
    if receipt is not None:
        contents = wire.contents(record)
        audit.repeated(
            site.folder,
            asked,
            reply_hash=contents.hash,
            reply_bytes=contents.size_bytes,
            policy_hash=policy_file.policy_hash(site),
        )
        return wire.with_receipt(record, receipt)
    issued = []

    def issue(contents: Contents) -> Receipt:
        issued.append(issued_receipts.of_sum(site, request, contents, asked))
        return issued[0]

    packed = sent(site, asked, record, issue, kept=phase == "masked")
    file.receipted(phase, issued[0])
    return packed


def _vector(
    site: Site, request: SumRequest, train: TrainRequest, settings: Settings, compute: Compute
) -> Int64[np.ndarray, " length"] | MissingWeights:
    """What goes under the masks; booked to the patients before it is drawn."""
    run = request.asks.context.run
    answered_rounds.check(site.folder, train, asker=run)
    from client.rounds import run_data  # noqa: PLC0415  torch: the exams are read

    run_data.check(site, settings, plan_hash=train.plan_hash, run=run)
    plan = secure_sum.plan(settings, request.networks)
    if settings.private:
        from client.rounds import private_sum  # noqa: PLC0415  torch

        return private_sum.vector(
            site,
            train,
            settings,
            cast(PrivateSum, plan),
            noise="share" if site.policy.relies(settings.federation.secure) == "peers" else "full",
            device=device_of(site, compute),
            asker=run,
        )
    trained = trained_openly if settings.privacy is None else trained_privately
    reply = trained(site, train, settings, compute, asker=run)
    return reply if isinstance(reply, MissingWeights) else cast(UpdateSum, plan).encode(reply.networks)
