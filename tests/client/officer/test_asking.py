"""What the officer signs counts once, for what was asked, and is in the log; nothing else counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.consent import deciding
from client.consent.deciding import Decision
from client.log import chain
from client.officer import answering, asking
from client.officer.question import Answer, Statement
from client.officer.spool import Spool
from client.site import officer, policy_file, policy_words
from client.site.site import Site
from client.state.decisions import Status
from common.errors import BusyError, PolicyError
from tests import officers
from tests.asking import change_policy
from tests.officers import KEY, OTHER


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return officers.signed(tmp_path / "north")


def ask(folder: Path, plan_hash: str, decision: Decision = Decision.APPROVE) -> None:
    asking.about_campaign(Site.open(folder), plan_hash, decision)


def status(folder: Path, plan_hash: str) -> Status:
    return deciding.known(Site.open(folder), plan_hash).status


def test_a_campaign_is_approved_by_the_officers_signature_alone(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    asking.settle(site)
    assert status(site, plan_hash) is Status.WAITING
    officers.answered(site)
    assert status(site, plan_hash) is Status.WAITING
    asking.settle(site)
    assert status(site, plan_hash) is Status.APPROVED
    outcome, said = officers.became(site)
    assert (outcome, "is approved, as the privacy officer (signed, key " in said) == ("signed", True)
    entry = officers.last(site)
    assert (entry["event"], entry["status"]) == ("campaign", "approved")
    statement = Statement.model_validate_json(json.dumps(entry["officer"]))
    statement.verify()
    assert (statement.plan_hash, statement.public_key) == (plan_hash, officers.public())
    list(chain.entries(site / chain.NAME))


def test_refusing_pausing_and_going_on(site: Path) -> None:
    first, second = officers.waiting(site), officers.waiting(site, rounds=2)
    ask(site, second, Decision.LEAVE)
    officers.answered(site)
    asking.settle(site)
    assert (status(site, first), status(site, second)) == (Status.WAITING, Status.LEFT)
    with pytest.raises(PolicyError, match="that is paused, this one is waiting"):
        ask(site, first, Decision.UNPAUSE)


def test_a_signature_counts_once(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    question, answer = officers.asked(site), officers.answered(site)
    asking.settle(site)
    deciding.take(Site.open(site), plan_hash, Decision.PAUSE, by="somebody")
    spool = Spool.of(Site.open(site))
    spool.ask(question)
    spool.put(answer)
    asking.settle(site)
    assert status(site, plan_hash) is Status.PAUSED
    assert officers.became(site)[0] == "failed"
    assert "counted before" in officers.became(site)[1]


def test_what_was_decided_meanwhile_stays(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    deciding.take(Site.open(site), plan_hash, Decision.LEAVE, by="somebody")
    officers.answered(site)
    asking.settle(site)
    assert status(site, plan_hash) is Status.LEFT
    assert "decided about meanwhile" in officers.became(site)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "leave"},
        {"plan_hash": "0" * 64},
        {"site": "south"},
        {"question": "0" * 32},
        {"question_hash": "0" * 64},
        {"sequence": 7},
        {"without": ["hypertrophy"]},
        {"signed": "2020-01-01T00:00:00+00:00"},
        {"signature": "0" * 128},
        {"public_key": officers.public(OTHER)},
    ],
)
def test_a_statement_over_anything_else_does_not_count(site: Path, change: dict[str, object]) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    answer = officers.answered(site)
    content = json.loads(answer.model_dump_json())
    content["statement"] |= change
    Spool.of(Site.open(site)).put(Answer.model_validate_json(json.dumps(content)))
    asking.settle(site)
    assert status(site, plan_hash) is Status.WAITING
    assert officers.became(site)[0] == "failed"


def test_another_officers_signature_does_not_count(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    question = officers.asked(site)
    assert "The site's officer has the key" in answering.shown(question, officers.public(OTHER)).objection
    Spool.of(Site.open(site)).put(answering.sign(answering.Shown(question=question, text=""), OTHER))
    asking.settle(site)
    assert status(site, plan_hash) is Status.WAITING
    assert officers.became(site)[0] == "failed"


def test_what_is_taken_back_does_not_count(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    answer = officers.answered(site)
    asking.take_back(Site.open(site), answer.question)
    Spool.of(Site.open(site)).put(answer)
    asking.settle(site)
    assert status(site, plan_hash) is Status.WAITING
    assert officers.became(site)[0] == "taken back"


def test_a_campaign_is_asked_about_once_at_a_time_and_only_what_can_be(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    with pytest.raises(BusyError, match="take that back first"):
        ask(site, plan_hash, Decision.LEAVE)
    other = officers.waiting(site, rounds=2)
    change_policy(site, "maximum_rounds = 20", "maximum_rounds = 1")
    with pytest.raises(PolicyError, match="maximum_rounds"):
        ask(site, other)


def test_the_officer_can_refuse_to_sign(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    Spool.of(Site.open(site)).put(Answer(question=officers.asked(site).id))
    asking.settle(site)
    assert status(site, plan_hash) is Status.WAITING
    assert officers.became(site) == ("refused", "The officer did not sign it; nothing was decided.")


def test_what_is_no_answer_is_said_to_be_none(site: Path) -> None:
    plan_hash = officers.waiting(site)
    ask(site, plan_hash)
    spool = Spool.of(Site.open(site))
    (spool.folder / "answers" / f"{officers.asked(site).id}.json").write_text("{}{")
    asking.settle(site)
    assert officers.became(site)[0] == "failed"
    assert "as this version writes it" in officers.became(site)[1]


def test_a_policy_counts_once_it_is_signed(site: Path) -> None:
    wished = policy_words.renewed(
        Site.open(site).policy, {"maximum_rounds": 9, "methods": ["rating", "probe"]}
    )
    asking.about_policy(Site.open(site), wished)
    question = officers.asked(site)
    text = answering.shown(question, officers.public()).text
    assert "[permits less] Most rounds of a campaign: 20 → 9" in text
    assert "[permits more] Methods that may run: rating → rating, probe" in text
    assert Site.open(site).policy.maximum_rounds == 20
    officers.answered(site)
    asking.settle(site)
    assert officers.became(site)[0] == "signed"
    policy_file.admit(Site.open(site))
    assert Site.open(site).policy == wished
    assert (officers.last(site)["event"], officers.last(site)["serial"]) == ("policy", 2)


def test_a_policy_that_was_edited_meanwhile_is_asked_about_anew(site: Path) -> None:
    wished = policy_words.renewed(Site.open(site).policy, {"maximum_rounds": 9})
    asking.about_policy(Site.open(site), wished)
    change_policy(site, "minimum_cohort = 2", "minimum_cohort = 1")
    officers.answered(site)
    asking.settle(site)
    assert "changed meanwhile" in officers.became(site)[1]
    assert Site.open(site).policy.maximum_rounds == 20


def test_the_first_signature_makes_the_officer(tmp_path: Path) -> None:
    site = officers.enrolled(tmp_path / "north")
    assert asking.key(Site.open(site)) is None
    asking.about_policy(Site.open(site), policy_words.renewed(Site.open(site).policy, {}))
    assert "all of this is new" in answering.shown(officers.asked(site), officers.public()).text
    officers.answered(site)
    asking.settle(site)
    policy_file.admit(Site.open(site))
    assert officer.pinned(site) == officers.public()


def test_a_policy_of_an_older_serial_is_not_signed(site: Path) -> None:
    asking.about_policy(Site.open(site), policy_words.renewed(Site.open(site).policy, {"colluders": 1}))
    question = officers.asked(site)
    assert question.policy is not None
    older = question.model_copy(update={"policy": question.policy.model_copy(update={"serial": 1})})
    shown = answering.shown(older, officers.public())
    with pytest.raises(PolicyError, match="serial is not higher"):
        answering.sign(shown, KEY)


def test_what_is_signed_is_these_bytes() -> None:
    statement = Statement(
        site="north",
        decision=Decision.APPROVE,
        plan_hash="1" * 64,
        campaign="spring",
        without=("vascularity>2",),
        question="2" * 32,
        question_hash="3" * 64,
        sequence=4,
        signed="2026-01-02T03:04:05+00:00",
        public_key="5" * 64,
        signature="6" * 128,
    )
    ones, threes, fives = "1" * 64, "3" * 64, "5" * 64
    assert statement.payload().decode() == (
        f'synofed officer decision 1\n{{"campaign":"spring","decision":"approve","plan_hash":"{ones}",'
        f'"public_key":"{fives}","question":"{"2" * 32}","question_hash":"{threes}","sequence":4,'
        f'"signed":"2026-01-02T03:04:05+00:00","site":"north","without":["vascularity>2"]}}'
    )
