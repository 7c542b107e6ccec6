"""What the site's log tells of each request: that it came, what it was answered, what was sent.

A request is entered when it comes and again with its answer; only the answer waits for the disk. ``request_hash`` is
over all that a request holds but ``attached``, weights that the site itself had asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from client.log import chain
from common import receipts
from common.errors import UpdateError
from common.hash_chain import Entry
from common.messages import EnsembleRequest, EvaluateRequest, Request, SumRequest, TrainRequest
from common.receipts import Contents

REQUEST = "request"
CONSENT = "consent"
REPLY = "reply"
SUM = "sum"
"""A phase of a secure sum into which no patient's data went."""
ENSEMBLE = "ensemble"
EVALUATION = "evaluation"
"""Tables of held-out patients, or what is missing to make them."""
REPEATED = "repeated"
MISSING = "missing-weights"
REFUSAL = "refusal"
POLICY = "policy"
OFFICER = "officer"
CAMPAIGN = "campaign"
TOLD = ("request", "campaign", "status", "by", "code", "server_round", "group", "reply_bytes", "serial")
"""Facts of entries that are shown in lists."""
ANSWERS = (CONSENT, REPLY, SUM, ENSEMBLE, EVALUATION, MISSING)
"""Events after which a request's id stands for its contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request was, as the log has it.

    Attributes:
        request: ``plan``, ``train``, ``ensemble``, ``evaluate``, or ``sum-`` and a phase.
        campaign: the campaign's name.
        plan_hash: of the campaign.
        request_id: names the request.
        server_round: of training; else 0.
        group: of networks; else as in :class:`common.receipts.Receipt`.
        request_hash: SHA-256 over its contents, in hex.
        request_bytes: of its arrays.
    """

    request: str
    campaign: str
    plan_hash: str
    request_id: str
    server_round: int
    group: str
    request_hash: str
    request_bytes: int

    @classmethod
    def of(cls, request: Request, contents: Contents) -> Asked:
        """The facts of a request."""
        kind, server_round, group = "plan", 0, ""
        if isinstance(request, TrainRequest):
            kind, server_round, group = "train", request.server_round, request.group
        elif isinstance(request, SumRequest):
            kind, (server_round, group) = f"sum-{request.asks.phase}", request.place
        elif isinstance(request, EnsembleRequest):
            kind, group = "ensemble", receipts.ENSEMBLE
        elif isinstance(request, EvaluateRequest):
            kind, group = "evaluate", receipts.EVALUATION
        return cls(
            request=kind,
            campaign=request.campaign,
            plan_hash=request.plan_hash,
            request_id=request.request_id,
            server_round=server_round,
            group=group,
            request_hash=contents.hash,
            request_bytes=contents.size_bytes,
        )

    def facts(self) -> dict[str, object]:
        """As the log's entries have them."""
        return asdict(self)


def log_request(folder: Path, asked: Asked, *, policy_hash: str) -> None:
    """Enter that a request came; it is on disk with its answer."""
    details = {**asked.facts(), "policy_hash": policy_hash}
    chain.append(folder / chain.NAME, REQUEST, details, durable=False)


def repeated(folder: Path, asked: Asked, *, reply_hash: str, reply_bytes: int, policy_hash: str) -> None:
    """Enter that a reply left once more."""
    details = {
        **asked.facts(),
        "reply_hash": reply_hash,
        "reply_bytes": reply_bytes,
        "policy_hash": policy_hash,
    }
    chain.append(folder / chain.NAME, REPEATED, details)


def missing(folder: Path, asked: Asked, *, weights: int, policy_hash: str) -> None:
    """Enter that the site asked for weights instead of answering."""
    chain.append(
        folder / chain.NAME, MISSING, {**asked.facts(), "weights": weights, "policy_hash": policy_hash}
    )


def refused(folder: Path, asked: Asked | None, *, code: str) -> None:
    """Enter that a request was refused."""
    facts: Mapping[str, object] = asked.facts() if asked is not None else {}
    chain.append(folder / chain.NAME, REFUSAL, {**facts, "code": code})


def recent(folder: Path, count: int, *, before: int | None = None) -> list[Entry]:
    """Entries of the log in order, after checking the whole log.

    Args:
        folder: the site's.
        count: how many at most, counted from the end.
        before: the number of an entry that they come before; ``None``: the last ones.

    Raises:
        VerificationError: naming the first line that was edited, dropped, added or moved.
    """
    kept: deque[Entry] = deque(maxlen=count)
    for entry in chain.entries(folder / chain.NAME):
        if before is None or entry.sequence < before:
            kept.append(entry)
    return list(kept)


def facts(entry: Entry) -> str:
    """The facts of an entry that people look for, in one line."""
    content = entry.content
    return " ".join(f"{name}={content[name]}" for name in TOLD if content.get(name) not in (None, ""))


def line(entry: Entry) -> str:
    """An entry as people read it."""
    return f"{entry.sequence:>6} {entry.content.get('time')} {entry.content.get('event')}: {facts(entry)}"


def find_answer(folder: Path, asked: Asked) -> Entry | None:
    """The entry of the answer that a request of this id has got, the newest one.

    Raises:
        UpdateError: if the ID was used for a different request before.
        VerificationError: if the log is damaged where it was looked at.
    """
    for entry in chain.newest(folder / chain.NAME, "request_id", asked.request_id):
        if entry.content.get("event") in ANSWERS and "request_hash" in entry.content:
            if entry.content["request_hash"] != asked.request_hash:
                raise UpdateError(
                    f"Expected request {asked.request_id} as it was answered before (entry {entry.sequence} of the "
                    f"log), got other contents under its id"
                )
            return entry
    return None
