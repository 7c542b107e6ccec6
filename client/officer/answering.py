"""The officer's side: what a question asks, worked out from what will be signed, and the signature.

Nothing that is shown here is taken on the site's word: a plan is read from the text whose hash is signed, its page is
made under the policy that this very key has signed. What only the site can know, of its own exams, is said to be its
word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.consent import campaign_page
from client.consent.campaign_page import OwnExams
from client.consent.deciding import Decision
from client.officer.question import AboutCampaign, AboutPolicy, Answer, Question, Statement
from client.site import officer, policy_file, policy_words
from client.site.policy import NEWEST
from client.site.site import Site, SiteFile
from client.state import decisions
from client.state.decisions import State, Status
from common import signed_json
from common.errors import PolicyError, VerificationError
from common.text.visible import visible

MEANS = {
    Decision.APPROVE: "You APPROVE that this campaign runs here, exactly this plan.",
    Decision.LEAVE: "You REFUSE or LEAVE this campaign: no more requests of it are answered.",
    Decision.PAUSE: "You PAUSE this campaign.",
    Decision.UNPAUSE: "You let this paused campaign GO ON, as it was approved.",
}
UNSIGNED = (
    "The site shows no policy that you signed, so what the campaign may do under it is not worked out. To approve "
    "campaigns, sign the policy first."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A question as the officer sees it.

    Attributes:
        question: what is asked.
        text: all of it.
        objection: why it cannot be signed; empty: it can.
    """

    question: Question
    text: str
    objection: str = ""


def shown(question: Question, public_key: str) -> Shown:
    """What a question asks of the officer who has a key.

    Args:
        question: from the spool; nothing in it is trusted.
        public_key: the officer's, in hex.

    Raises:
        DataError: if a plan cannot be understood.
    """
    if question.campaign is not None:
        text, objection = _campaign(question, question.campaign, public_key)
    elif question.policy is not None:
        text, objection = _policy(question, question.policy, public_key)
    else:
        text, objection = "", "It asks nothing."
    if question.officer is not None and question.officer != public_key:
        objection = (
            f"The site's officer has the key {officer.spoken(question.officer)}, yours is "
            f"{officer.spoken(public_key)}."
        )
    return Shown(question=question, text=text, objection=visible(objection))


def sign(shown: Shown, key: Ed25519PrivateKey) -> Answer:
    """Sign what was shown.

    Raises:
        PolicyError: if it cannot be signed.
    """
    if shown.objection:
        raise PolicyError(f"This cannot be signed: {shown.objection}")
    question = shown.question
    if question.policy is not None:
        file = SiteFile(name=question.site, policy=question.policy.policy, peers=question.policy.peers)
        site = Site(folder=Path(), file=file)
        return Answer(
            question=question.id, policy=policy_file.signed(site, key, serial=question.policy.serial)
        )
    assert question.campaign is not None, "anything else has an objection"
    unsigned = Statement.over(
        question,
        site=question.site,
        signed=datetime.now(UTC).isoformat(timespec="seconds"),
        public_key=key.public_key().public_bytes_raw().hex(),
    )
    signature = signed_json.sign(unsigned.payload(), key)
    return Answer(question=question.id, statement=unsigned.model_copy(update={"signature": signature}))


def _campaign(question: Question, about: AboutCampaign, public_key: str) -> tuple[str, str]:
    plan = about.plan.encode()
    if hashlib.sha256(plan).hexdigest() != about.plan_hash:
        raise VerificationError("Expected a plan that matches its hash, got a different one")
    settings = decisions.understood(plan, name=about.campaign)
    file = question.standing.of(question.site, public_key) if question.standing is not None else None
    site = Site(folder=Path(), file=file or SiteFile(name=question.site))
    state = State(names=(about.campaign,), status=Status.WAITING, asked=question.asked)
    page = campaign_page.of_plan(site, about.plan_hash, settings, state, own=OwnExams())
    rows = campaign_page.rows(page) | {"Status": (about.status,)}
    text = [
        f"Site {question.site} asks: {about.decision} this campaign?",
        campaign_page.aligned({name: [visible(line) for line in lines] for name, lines in rows.items()}),
    ]
    if about.without:
        text.append(f"Without: the site takes no part in {visible(', '.join(about.without))}.")
    own = (*about.trains, *about.takes_part)
    if own:
        said = "\n".join(f"  {visible(line)}" for line in own)
        text.append(f"The site says of its own exams, which nothing here can check:\n{said}")
    runs = about.decision in (Decision.APPROVE, Decision.UNPAUSE)
    objection = (UNSIGNED if file is None else page.objection) if runs else ""
    if file is None or question.standing is None:
        text.append(UNSIGNED)
    else:
        signed = question.standing.signature
        text.append(
            f"Worked out under the policy that you signed at {visible(signed.signed)}, serial {signed.serial}: if "
            f"you have signed a later one, the site shows an old one, and you should not sign."
        )
    return "\n\n".join([*text, MEANS[about.decision]]), objection


def _policy(question: Question, about: AboutPolicy, public_key: str) -> tuple[str, str]:
    before = question.standing.of(question.site, public_key) if question.standing is not None else None
    if about.policy.version != NEWEST:
        return "", f"It is of version {about.policy.version}; a policy is signed as version {NEWEST}."
    text = [f"Site {question.site} asks: is this its policy from now on? Serial {about.serial}."]
    if before is None:
        text.append("The site shows no policy that you signed: all of this is new.")
    else:
        changes = [
            f"  {_mark(change.permits)}{visible(change.sentence)}"
            for change in policy_words.changes(before.policy, about.policy)
        ]
        changes += _peers(before.peers, about.peers)
        signed = visible(question.standing.signature.signed) if question.standing is not None else ""
        text.append(
            f"Against what you signed at {signed}:\n" + "\n".join(changes or ["  nothing is different"])
        )
    text.append("All of it:\n" + "\n".join(f"  {visible(line)}" for line in policy_words.lines(about.policy)))
    text.append(
        "Keys of other sites, for secure sums:\n"
        + "\n".join(f"  {name}: {peer}" for name, peer in sorted(about.peers.items()) or [("none", "")])
    )
    older = before is not None and about.serial <= _serial(question)
    return "\n\n".join(text), "Its serial is not higher than that of the policy you signed." if older else ""


def _serial(question: Question) -> int:
    return question.standing.signature.serial if question.standing is not None else 0


def _mark(permits: str) -> str:
    return f"[permits {permits}] " if permits else ""


def _peers(before: dict[str, str], after: dict[str, str]) -> Sequence[str]:
    return [
        f"  Key of {name}: {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
