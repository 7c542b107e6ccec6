"""What a site or a run has to show for itself, as plain values; judged in :mod:`.claims`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float64

from common.privacy.accounting.chain import Entry
from common.privacy.accounting.spending import Book
from common.settings import Settings

Verdict = Literal["holds", "not contradicted", "fails", "open"]
"""``open``: what would settle it is not here, and why stands in the text. ``not contradicted``: a measurement bears
it out, and would not have found a deviation that is smaller than the one in the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim and what became of it.

    Attributes:
        name: one word.
        claim: what is claimed, for somebody who is no engineer.
        verdict: see :data:`Verdict`.
        found: what was looked at and seen.
    """

    name: str
    claim: str
    verdict: Verdict
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply to a round, as a site's log or a receipt at the centre has it.

    Attributes:
        sequence: of its entry in the site's log.
        time: of the entry, or when the receipt came; ISO 8601.
        campaign: its name.
        plan_hash: of its plan.
        request_id: what was answered.
        server_round: its round.
        group: its group of networks.
        reply_hash: SHA-256 of all that left.
        reply_bytes: of the arrays that left; ``None``: not known at the centre.
        ledger_sequence: where the site's ledger ended when it left.
        version: of synofed at the site.
        repeated: whether the same bytes were sent once more.
    """

    sequence: int
    time: str
    campaign: str
    plan_hash: str
    request_id: str
    server_round: int
    group: str
    reply_hash: str
    reply_bytes: int | None
    ledger_sequence: int
    version: str
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The bytes of a reply, as the site kept them.

    Attributes:
        request_id: what was answered.
        plan_hash: of its plan.
        server_round: its round.
        fields: part -> field -> value.
        arrays: part -> name -> values, flat, and their type on the wire.
        reply_hash: SHA-256 of all of it.
    """

    request_id: str
    plan_hash: str
    server_round: int
    fields: Mapping[str, Mapping[str, object]]
    arrays: Mapping[str, Mapping[str, tuple[str, Float64[np.ndarray, " _"]]]]
    reply_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """What a site's policy let a patient spend from a moment on.

    Attributes:
        since: ISO 8601.
        maximum_epsilon: ``None``: no private release.
        delta: that it is at.
    """

    since: str
    maximum_epsilon: float | int | None
    delta: float | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What somebody at a site approved of a campaign with differential privacy.

    Attributes:
        plan_hash: of the campaign.
        after: number of the ledger's last entry at that moment.
        epsilon: what it may cost a patient until it is approved again, rounds drawn again included.
        delta: that it is at.
    """

    plan_hash: str
    after: int
    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one site.

    Attributes:
        site: its name.
        source: ``ledger``: its own folder; ``receipts``: what the centre has of it.
        public_key: of the site, Ed25519 in hex; empty where there is none yet.
        entries: of its ledger, checked; at the centre, what receipts and plan say must stand there.
        book: what they add up to.
        answers: replies to rounds, in the order of the log.
        plans: plan hash -> settings, of every campaign that is kept.
        caps: in the order of time; the last one holds now. None at the centre.
        approvals: in the order of time; none where the policy approves, or at the centre.
        checks: what was already checked while reading: chain, log, receipts, policy.
        facts: what else the report tells, label -> text.
    """

    site: str
    source: Literal["ledger", "receipts"]
    public_key: str
    entries: tuple[Entry, ...]
    book: Book
    answers: tuple[Answer, ...]
    plans: Mapping[str, Settings]
    caps: tuple[Cap, ...]
    checks: tuple[Check, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    approvals: tuple[Approval, ...] = ()
