"""The site's side: it asks its officer, and does what was signed by the functions that the commands call."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from client.consent import campaign_page, deciding, sum_tasks
from client.consent.deciding import Decision
from client.log import chain
from client.officer.question import (
    AboutCampaign,
    AboutPolicy,
    Answer,
    Outcome,
    Question,
    Settled,
    Standing,
    Statement,
)
from client.officer.spool import Spool
from client.site import officer, policy_file
from client.site.policy import Policy
from client.site.site import Site
from client.state import decisions
from common.errors import BusyError, PolicyError, SynofedError, VerificationError

QUESTION = "question"
"""Field of the log's entry of a decision that the officer signed: an answer counts once."""
WITHOUT_SIGNATURE = frozenset({Decision.PAUSE})
"""Whoever sees that something is wrong can stop it at once."""


def key(site: Site) -> str | None:
    """Whose signature counts, in hex; ``None``: nobody's yet.

    Raises:
        VerificationError: if the pinned key is damaged.
    """
    return officer.pinned(site.folder)


def signs_policy(site: Site) -> bool:
    """Whether a policy needs a signature: of an enrolled site's always, the first one makes the officer."""
    return policy_file.enrolled(site) or key(site) is not None


def about_campaign(
    site: Site, plan_hash: str, decision: Decision, *, without: Sequence[str] = ()
) -> Question:
    """Ask whether a campaign is to be decided so; what would be refused anyhow is not asked.

    Raises:
        BusyError: if the same campaign waits for an answer.
        DataError: if the site has nothing for it, or its plan cannot be understood.
        PolicyError: if it cannot be decided so, or the policy forbids it.
        StorageError: if the question cannot be put.
    """
    state = deciding.known(site, plan_hash)
    deciding.check(state, decision)
    settings = decisions.plan(site, plan_hash, name=state.names[-1])
    if decision in (Decision.APPROVE, Decision.UNPAUSE):
        site.policy.check_plan(settings)
    if decision is Decision.APPROVE:
        sum_tasks.exclude(site, settings, without=without)
    own = campaign_page.own_exams(site, settings, state)
    about = AboutCampaign(
        decision=decision,
        plan_hash=plan_hash,
        plan=decisions.plan_text(site, plan_hash).decode(),
        campaign=state.names[-1],
        status=f"{state.status}{f', by {state.by}' if state.by else ''}",
        decided=state.decided,
        without=tuple(without),
        trains=own.trains,
        takes_part=own.takes_part,
    )
    return _ask(site, campaign=about)


def about_policy(site: Site, policy: Policy) -> Question:
    """Ask whether a policy is to count.

    Raises:
        BusyError: if another one waits for an answer.
        PolicyError: if it is the one that counts already.
        StorageError: if the question cannot be put.
    """
    standing = policy_file.last_signed(site)
    if standing is not None and standing[0].policy == policy == site.policy:
        raise PolicyError("Expected another policy than the one that is signed already: change something")
    about = AboutPolicy(
        policy=policy, peers=site.file.peers, serial=policy_file.next_serial(site), replaces=site.policy
    )
    return _ask(site, policy=about)


def take_back(site: Site, question: str) -> None:
    """Ask no more; a signature that comes later counts for nothing.

    Raises:
        StorageError: if it cannot be noted.
    """
    spool = Spool.of(site)
    with spool.locked():
        for one in spool.questions():
            if one.id == question:
                spool.settle(_settled(one, "taken back", "It was taken back before it was signed."))


def settle(folder: Path) -> None:
    """Look for answers, and do what was signed.

    Raises:
        SynofedError: if the site or its spool cannot be read; what a single answer lacks is said of its question.
    """
    site = Site.open(folder)
    spool = Spool.of(site)
    if not (spool.folder / "questions").is_dir():
        return
    with spool.locked():
        for question in spool.questions():
            try:
                answer = spool.answer(question.id)
                if answer is None:
                    continue
                settled = _done(Site.open(folder), question, answer)
            except SynofedError as error:
                settled = _settled(question, "failed", str(error))
            spool.settle(settled)


def _ask(site: Site, *, campaign: AboutCampaign | None = None, policy: AboutPolicy | None = None) -> Question:
    spool = Spool.of(site)
    spool.prepare(site)
    signed = policy_file.last_signed(site)
    question = Question(
        id=secrets.token_hex(16),
        site=site.name,
        asked=_now(),
        sequence=chain.head(site.folder / chain.NAME).sequence,
        officer=key(site),
        standing=Standing(policy=signed[0].policy, peers=signed[0].peers, signature=signed[1])
        if signed is not None
        else None,
        campaign=campaign,
        policy=policy,
    )
    with spool.locked():
        if any(_same(question, other) for other in spool.questions()):
            raise BusyError("This waits for the officer's signature already: take that back first")
        spool.ask(question)
    return question


def _same(one: Question, other: Question) -> bool:
    if one.campaign is not None and other.campaign is not None:
        return one.campaign.plan_hash == other.campaign.plan_hash
    return one.policy is not None and other.policy is not None


def _done(site: Site, question: Question, answer: Answer) -> Settled:
    if answer.question != question.id:
        raise VerificationError("Expected an answer to this question, got one to another")
    if answer.refuses:
        return _settled(question, "refused", "The officer did not sign it; nothing was decided.")
    if question.campaign is not None and answer.statement is not None:
        return _settled(question, "signed", _decide(site, question, question.campaign, answer.statement))
    if question.policy is not None and answer.policy is not None:
        about = question.policy
        if (site.policy, site.file.peers) != (about.replaces, about.peers):
            raise PolicyError("site.toml was changed meanwhile: look at the policy again, and ask again")
        policy_file.accept(site, about.policy, answer.policy)
        said = (
            f"Serial {about.serial} counts from the next request on, signed with key "
            f"{officer.spoken(answer.policy.public_key)}."
        )
        return _settled(question, "signed", said)
    raise VerificationError("Expected a signature over what was asked, got one over something else")


def _decide(site: Site, question: Question, about: AboutCampaign, statement: Statement) -> str:
    """Make a decision that the officer signed.

    Raises:
        VerificationError: if the statement is not over this question, or not of the site's officer.
        PolicyError: if the campaign was decided about meanwhile, or cannot be decided so.
    """
    expected = Statement.over(
        question, site=site.name, signed=statement.signed, public_key=statement.public_key
    )
    if statement.payload() != expected.payload():
        raise VerificationError("Expected a signature over what was asked, got one over something else")
    statement.verify()
    policy_file.check_officer(site, statement.public_key)
    if next(chain.newest(site.folder / chain.NAME, QUESTION, question.id), None) is not None:
        raise PolicyError(
            "This signature counted before: ask again, if the decision is not what it should be"
        )
    if deciding.known(site, about.plan_hash).decided != about.decided:
        raise PolicyError("The campaign was decided about meanwhile: look at it, and ask again")
    by = f"the privacy officer (signed, key {officer.spoken(statement.public_key)})"
    proof = {QUESTION: question.id, "officer": statement.model_dump(mode="json")}
    return deciding.take(
        site, about.plan_hash, about.decision, by=by, without=about.without, proof=proof
    ).sentence


def _settled(question: Question, outcome: Outcome, said: str) -> Settled:
    return Settled(
        question=question.id,
        title=question.title,
        plan_hash=question.campaign.plan_hash if question.campaign is not None else "",
        settled=_now(),
        outcome=outcome,
        said=said,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
