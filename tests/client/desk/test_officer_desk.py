"""The officer's desk over real HTTP: each route does what a command does, and asks where a signature is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.consent import deciding
from client.desk import site_desk
from client.ledger import ledger
from client.site.site import Site
from tests import desks, ledgers, officers
from tests.asking import change_policy
from tests.site_folders import read_table

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Desk:
    """A site's pages, and somebody who came in."""

    def __init__(self, folder: Path, browser: httpx.Client) -> None:
        self.folder = folder
        self.browser = browser

    def get(self, path: str) -> dict[str, Any]:
        answer = self.browser.get(f"/api/officer/{path}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def post(self, path: str, body: object, *, status: int = 200) -> dict[str, Any]:
        answer = self.browser.post(f"/api/officer/{path}", json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def status(self, plan_hash: str) -> str:
        return str(deciding.known(Site.open(self.folder), plan_hash).status)


def served(folder: Path) -> Iterator[Desk]:
    routers, pages, people = site_desk.pages(Site.open(folder), assistant=None)
    with desks.served(routers, pages, people) as found:
        yield Desk(folder, found.entered())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from served(officers.signed(tmp_path / "north"))


@pytest.fixture
def unkeyed(tmp_path: Path) -> Iterator[Desk]:
    folder = officers.enrolled(tmp_path / "south")
    (folder / "federation.json").unlink()
    yield from served(folder)


def test_with_a_key_a_decision_waits_for_the_signature(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder)
    said = desk.post(f"campaigns/{plan_hash}", {"decision": "approve"})
    assert "waits for the officer's signature" in str(said["said"])
    assert desk.status(plan_hash) == "waiting"
    state = desk.get("state")
    assert state["key"]
    assert [one["plan_hash"] for one in state["questions"]] == [plan_hash]
    assert "take that back" in str(
        desk.post(f"campaigns/{plan_hash}", {"decision": "leave"}, status=409)["error"]
    )
    officers.answered(desk.folder)
    state = desk.get("state")
    assert state["questions"] == []
    assert state["settled"][0]["outcome"] == "signed"
    assert desk.status(plan_hash) == "approved"


def test_stopping_needs_no_signature(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder)
    assert "approved" in str(desk.post(f"campaigns/{plan_hash}", {"decision": "pause"}, status=403)["error"])
    desk.post(f"campaigns/{plan_hash}", {"decision": "approve"})
    officers.answered(desk.folder)
    desk.get("state")
    desk.post(f"campaigns/{plan_hash}", {"decision": "pause", "by": "Dr Ng"})
    assert desk.status(plan_hash) == "paused"
    assert desk.get(f"campaigns/{plan_hash}")["can"] == ["unpause", "leave"]
    assert "waits" in str(desk.post(f"campaigns/{plan_hash}", {"decision": "unpause"})["said"])
    assert desk.status(plan_hash) == "paused"


def test_a_question_can_be_taken_back(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder)
    asked = desk.post(f"campaigns/{plan_hash}", {"decision": "leave"})["asked"]
    desk.post(f"questions/{asked}/take-back", {})
    state = desk.get("state")
    assert (state["questions"], state["settled"][0]["outcome"]) == ([], "taken back")
    assert desk.status(plan_hash) == "waiting"


def test_without_a_key_a_decision_counts_at_once(unkeyed: Desk) -> None:
    plan_hash = officers.waiting(unkeyed.folder)
    assert unkeyed.get("state")["key"] == ""
    said = unkeyed.post(f"campaigns/{plan_hash}", {"decision": "approve", "by": "Dr Ng"})["said"]
    assert "is approved, as Dr Ng decided" in str(said)
    assert unkeyed.status(plan_hash) == "approved"
    assert "officer" not in officers.last(unkeyed.folder)


def test_the_page_is_that_of_the_command_and_hostile_text_is_text(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder, purpose=HOSTILE)
    rows = {row["title"]: row["lines"] for row in desk.get(f"campaigns/{plan_hash}")["rows"]}
    assert rows["Purpose"] == [HOSTILE]
    assert rows["Hash"] == [plan_hash]
    assert rows["Policy"] == ["permits this campaign"]
    for path in ("/officer.html", "/officer.js", "/officer_campaigns.js", "/officer_records.js"):
        text = desk.browser.get(path).text
        assert "innerHTML" not in text
        assert HOSTILE not in text
    assert desk.post(f"campaigns/{'0' * 64}", {"decision": "approve"}, status=403)["error"]


def test_what_the_policy_forbids_is_not_asked(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder)
    change_policy(desk.folder, "maximum_rounds = 20", "maximum_rounds = 1")
    assert "maximum_rounds" in str(desk.get(f"campaigns/{plan_hash}")["objection"])
    assert "maximum_rounds" in str(
        desk.post(f"campaigns/{plan_hash}", {"decision": "approve"}, status=403)["error"]
    )


def test_another_pages_request_decides_nothing(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder)
    answer = desk.browser.post(
        f"/api/officer/campaigns/{plan_hash}",
        json={"decision": "leave"},
        headers={"origin": "https://elsewhere.example"},
    )
    assert answer.status_code == 403
    assert desk.get("state")["questions"] == []
    assert desk.browser.get(f"/api/officer/campaigns/{plan_hash}?decision=leave").status_code == 200
    assert desk.status(plan_hash) == "waiting"


def test_changes_of_the_policy_are_shown_in_words_then_asked(desk: Desk) -> None:
    values = {"maximum_epsilon": 4, "minimum_cohort": 10, "metrics": ["counts"]}
    shown = desk.post("policy/changes", {"values": values})["changes"]
    assert [(one["permits"], one["sentence"]) for one in shown] == [
        (
            "less",
            "What may leave beside updates: counts, losses, score_histograms, timings → counts",
        ),
        ("less", "Fewest patients behind what leaves: 2 → 10"),
        ("more", "Privacy budget of a patient (epsilon): no private campaign → 4"),
    ]
    desk.post("policy", {"values": values})
    assert Site.open(desk.folder).policy.minimum_cohort == 2
    officers.answered(desk.folder)
    assert "serial 2" in str(desk.get("state")["policy"])
    assert Site.open(desk.folder).policy.minimum_cohort == 10
    text = (desk.folder / "site.toml").read_text(encoding="utf-8")
    assert 'metrics = ["counts"]' in text


@pytest.mark.parametrize(
    "values",
    [{"minimum_cohort": 0}, {"hours": ["never"]}, {"name": "south"}, {"version": 1}, {"metrics": ["x"]}],
)
def test_what_cannot_be_a_policy_is_refused(desk: Desk, values: dict[str, object]) -> None:
    before = (desk.folder / "site.toml").read_bytes()
    answer = desk.browser.post("/api/officer/policy", json={"values": values})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]
    assert (desk.folder / "site.toml").read_bytes() == before


def test_a_policy_that_needs_no_signature_is_changed_at_once(unkeyed: Desk) -> None:
    said = unkeyed.post("policy", {"values": {"maximum_rounds": 7}})["said"]
    assert "needs no signature" in str(said)
    assert Site.open(unkeyed.folder).policy.maximum_rounds == 7


def test_the_ledger_knows_numbers_and_no_names(desk: Desk) -> None:
    change_policy(desk.folder, "[policy]\n", "[policy]\nmaximum_epsilon = 8.0\n")
    site = Site.open(desk.folder)
    ledger.reserve(site, ledgers.make_release("r1"), ["north-p000", "north-p001"])
    ledger.reserve(site, ledgers.make_release("r2"), ["north-p001"])
    found = desk.get("ledger")
    text = json.dumps(found)
    assert "north-p" not in text
    first, second = found["by_patient"]
    assert first["epsilon"] == found["epsilon"] > second["epsilon"] > 0


def test_the_log_is_paged_newest_first(desk: Desk) -> None:
    for rounds in range(1, 16):
        officers.waiting(desk.folder, rounds=rounds)
    first = desk.get("log")
    numbers = [one["sequence"] for one in first["entries"]]
    assert (numbers, first["more"]) == (sorted(numbers, reverse=True), True)
    rest = desk.get(f"log?before={numbers[-1]}")
    assert [one["sequence"] for one in rest["entries"]][-1] == 1
    assert rest["more"] is False


def test_a_patient_is_withdrawn_after_their_identifier_was_typed_twice(desk: Desk) -> None:
    ahead = desk.post("withdrawal/prospect", {"patient": "north-p001"})
    assert (ahead["exams"], ahead["pictures"], ahead["campaigns"]) == (3, 6, [])
    assert "nothing was done" in str(
        desk.post("withdrawal", {"patient": "north-p001", "typed": "north-p01"}, status=400)["error"]
    )
    assert "north-p001" in {row["patient_id"] for row in read_table(desk.folder / "manifest.csv")}
    done = desk.post("withdrawal", {"patient": "north-p001", "typed": "north-p001"})
    assert "Withdrawal from the training of networks" in str(done["text"])
    assert "north-p001" not in {row["patient_id"] for row in read_table(desk.folder / "manifest.csv")}
    assert desk.post("withdrawal/prospect", {"patient": "north-p001"})["withdrawn"] is True
    assert desk.post("withdrawal/prospect", {"patient": "nobody"}, status=422)["error"]


def test_what_left_is_listed_and_shown(desk: Desk) -> None:
    assert desk.get("outbox") == {"rows": [], "more": False}
    assert "none is kept" in desk.browser.get("/api/officer/outbox/abc").json()["error"]


def test_a_page_that_is_open_is_told_of_a_signature(desk: Desk) -> None:
    plan_hash = officers.waiting(desk.folder)
    with desk.browser.stream("GET", "/api/officer/live") as stream:
        events = (json.loads(line[6:])["state"] for line in stream.iter_lines() if line.startswith("data: "))
        assert next(events)["questions"] == []
        desk.post(f"campaigns/{plan_hash}", {"decision": "approve"})
        assert [one["title"] for one in next(events)["questions"]] == [
            f"approve campaign spring ({plan_hash[:12]})"
        ]
        officers.answered(desk.folder)
        while not (told := next(events))["settled"]:
            pass
        assert told["settled"][0]["outcome"] == "signed"


def test_pages_that_are_open_let_the_server_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = officers.signed(tmp_path / "north")
    routers, pages, people = site_desk.pages(Site.open(folder), assistant=None)
    with desks.served(routers, pages, people) as found:
        own = httpx.Client(
            base_url=found.origin, cookies=found.entered().cookies, trust_env=False, timeout=60
        )
        answer = own.send(own.build_request("GET", "/api/officer/live"), stream=True)
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
    assert [line for line in lines if line.startswith("data: ")] == []
    own.close()
    assert [said.message for said in caplog.records if said.exc_info] == []
