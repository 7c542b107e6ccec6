"""What a site asks its privacy officer to sign, what is signed, and what became of it.

A question carries everything that the officer has to see: the plan itself, whose hash is signed, and the policy with
the signature that the officer put under it before. Who answers it needs nothing of the site's folder.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from client.consent.deciding import Decision
from client.site import policy_file
from client.site.policy import Policy
from client.site.policy_file import Signature
from client.site.site import SiteFile
from common import signed_json
from common.enrolment import Hex32, SiteName
from common.errors import VerificationError
from common.sections.section import Section

DOMAIN = b"synofed officer decision 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""
QuestionId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Outcome = Literal["signed", "refused", "taken back", "failed"]


class Standing(Section):
    """The policy that was signed last, and its signature."""

    policy: Policy
    peers: dict[SiteName, Hex32] = Field(default_factory=dict)
    signature: Signature

    def of(self, site: str, public_key: str) -> SiteFile | None:
        """The policy as a site's file, if an officer's own key signed it; ``None``: it did not."""
        file = SiteFile(name=site, policy=self.policy, peers=self.peers)
        own = self.signature.public_key == public_key
        return file if own and policy_file.fits(file, self.signature) else None


class AboutCampaign(Section):
    """Whether a campaign is to be decided so."""

    decision: Decision
    plan_hash: Hex32
    plan: str
    """The very text that the hash is of."""
    campaign: str
    """What the centre calls it."""
    status: str
    """What was decided about it before."""
    decided: str
    """When; empty: never."""
    without: tuple[str, ...] = ()
    trains: tuple[str, ...] = ()
    """What the site says its exams would train."""
    takes_part: tuple[str, ...] = ()
    """In what the site says it takes part."""


class AboutPolicy(Section):
    """Whether a policy is to count."""

    policy: Policy
    peers: dict[SiteName, Hex32] = Field(default_factory=dict)
    serial: Annotated[int, Field(ge=1)]
    replaces: Policy
    """What stands in ``site.toml``."""


class Question(Section):
    """What a site asks."""

    id: QuestionId
    site: SiteName
    asked: str
    """When, ISO 8601."""
    sequence: Annotated[int, Field(ge=0)]
    """Number of the log's last entry then: where in the site's history it was asked."""
    officer: Hex32 | None
    """Whose signature counts; ``None``: nobody's yet, the first one becomes the site's officer."""
    standing: Standing | None = None
    campaign: AboutCampaign | None = None
    policy: AboutPolicy | None = None

    @property
    def title(self) -> str:
        """In one line."""
        if self.campaign is not None:
            about = self.campaign
            return f"{about.decision} campaign {about.campaign} ({about.plan_hash[:12]})"
        assert self.policy is not None
        return f"change the policy (serial {self.policy.serial})"

    def hash(self) -> str:
        """SHA-256 of all of it, in hex."""
        return hashlib.sha256(signed_json.canonical(self.model_dump(mode="json")).encode()).hexdigest()


class Statement(Section):
    """A decision about a campaign, signed by the officer."""

    site: SiteName
    decision: Decision
    plan_hash: Hex32
    campaign: str
    without: tuple[str, ...]
    question: QuestionId
    """That it answers: an answer counts once."""
    question_hash: Hex32
    """Over all that the officer was shown."""
    sequence: int
    """As in the question."""
    signed: str
    """When, ISO 8601."""
    public_key: Hex32
    signature: str = ""
    """Over :meth:`payload`, in hex; empty before it is signed."""

    @classmethod
    def over(cls, question: Question, *, site: str, signed: str, public_key: str) -> Statement:
        """What is signed of a question about a campaign, without the signature.

        Args:
            question: the question.
            site: whose it is.
            signed: when it is signed, ISO 8601.
            public_key: of the officer, in hex.
        """
        about = question.campaign
        assert about is not None, "of a policy another text is signed"
        return cls(
            site=site,
            decision=about.decision,
            plan_hash=about.plan_hash,
            campaign=about.campaign,
            without=about.without,
            question=question.id,
            question_hash=question.hash(),
            sequence=question.sequence,
            signed=signed,
            public_key=public_key,
        )

    def payload(self) -> bytes:
        """The bytes that are signed: all fields but the signature, as canonical JSON."""
        return DOMAIN + signed_json.canonical(self.model_dump(mode="json", exclude={"signature"})).encode()

    def verify(self) -> None:
        """Check the signature with the key that the statement names.

        Raises:
            VerificationError: if it does not fit.
        """
        if not signed_json.fits(self.signature, self.payload(), self.public_key):
            raise VerificationError("The officer's signature does not fit what it is said to be over")


class Answer(Section):
    """What the officer's process puts back: a signature, or none."""

    question: QuestionId
    statement: Statement | None = None
    policy: Signature | None = None

    @property
    def refuses(self) -> bool:
        """Whether nothing was signed."""
        return self.statement is None and self.policy is None


class Settled(Section):
    """What became of a question."""

    question: QuestionId
    title: str
    plan_hash: str = ""
    settled: str
    """When, ISO 8601."""
    outcome: Outcome
    said: str
