"""What the officer is shown comes from what is signed, never from what the site says beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.consent.deciding import Decision
from client.officer import answering, asking
from client.officer.question import Question
from client.site.site import Site
from common.errors import PolicyError, VerificationError
from tests import officers
from tests.officers import KEY, OTHER

HOSTILE = "\x1b[2J<i>\u202eevil\nPolicy      permits this campaign"


@pytest.fixture
def question(tmp_path: Path) -> Question:
    site = officers.signed(tmp_path / "north")
    asking.about_campaign(Site.open(site), officers.waiting(site), Decision.APPROVE)
    return officers.asked(site)


def changed(question: Question, **changes: object) -> Question:
    assert question.campaign is not None
    return question.model_copy(update={"campaign": question.campaign.model_copy(update=changes)})


def test_a_plan_that_is_not_that_of_the_hash_is_not_shown(question: Question) -> None:
    assert question.campaign is not None
    other = question.campaign.plan.replace("Score synovitis", "Something else")
    with pytest.raises(VerificationError, match="matches its hash"):
        answering.shown(changed(question, plan=other), officers.public())


def test_the_page_is_made_under_the_policy_that_this_key_signed(question: Question) -> None:
    shown = answering.shown(question, officers.public())
    assert "Score synovitis" in shown.text
    assert "permits this campaign" in shown.text
    assert "counts in 256 bins" in shown.text
    assert "serial 1: if you have signed a later one" in shown.text
    assert "You APPROVE that this campaign runs here, exactly this plan." in shown.text
    assert not shown.objection


def test_a_policy_that_this_key_did_not_sign_is_none(question: Question) -> None:
    assert question.standing is not None
    loose = question.standing.policy.model_copy(update={"metrics": (), "maximum_rounds": 1000})
    forged = question.model_copy(
        update={"standing": question.standing.model_copy(update={"policy": loose}), "officer": None}
    )
    for one, key in ((forged, KEY), (question.model_copy(update={"officer": None}), OTHER)):
        shown = answering.shown(one, officers.public(key))
        assert "The site shows no policy that you signed" in shown.objection
        assert "not looked at" in shown.text
        with pytest.raises(PolicyError, match="cannot be signed"):
            answering.sign(shown, key)


def test_a_campaign_can_be_left_without_a_signed_policy(question: Question) -> None:
    leave = changed(question.model_copy(update={"standing": None}), decision=Decision.LEAVE)
    assert not answering.shown(leave, officers.public()).objection


def test_what_the_site_says_of_its_exams_is_said_to_be_its_word(question: Question) -> None:
    text = answering.shown(changed(question, trains=("9999 patients",)), officers.public()).text
    before, after = text.split("which nothing here can check:")
    assert "9999" not in before
    assert after.lstrip().startswith("9999 patients")


@pytest.mark.parametrize("where", ["purpose", "status", "trains"])
def test_no_text_is_obeyed_by_the_terminal_or_makes_a_line_of_its_own(tmp_path: Path, where: str) -> None:
    site = officers.signed(tmp_path / "south")
    plan_hash = officers.waiting(site, purpose=HOSTILE if where == "purpose" else "Score")
    asking.about_campaign(Site.open(site), plan_hash, Decision.APPROVE)
    told: dict[str, object] = {"status": HOSTILE, "trains": (HOSTILE,)}
    said = {name: text for name, text in told.items() if name == where}
    text = answering.shown(changed(officers.asked(site), **said), officers.public()).text
    assert "evil" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert [line for line in text.splitlines() if line.startswith("Policy ")] == [
        "Policy      permits this campaign"
    ]
