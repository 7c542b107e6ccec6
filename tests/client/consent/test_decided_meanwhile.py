"""What people decide while the centre asks: it is not undone by a request that came in the same instant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.consent import answered_rounds, campaigns
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common.errors import UnapprovedError
from tests import asking
from tests.asking import Centre


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(asking.site(tmp_path / "north"))
    made.plan(made.plan_request())
    campaigns.decide(Site.open(made.folder), made.settings.plan_hash(), Status.APPROVED, by="officer")
    return made


@pytest.mark.parametrize("status", [Status.LEFT, Status.PAUSED])
def test_a_decision_is_not_undone_by_a_request_under_another_name(
    centre: Centre, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan under ever new names rewrote ``state.json`` each time: 9 of 30 decisions to leave were lost."""
    site, plan_hash = Site.open(centre.folder), centre.settings.plan_hash()
    place = decisions.folder(centre.folder, plan_hash)
    known = decisions.read(place)

    def read(folder: Path) -> decisions.State | None:
        monkeypatch.undo()  # once: what the request has read is old as soon as it was read
        campaigns.decide(site, plan_hash, status, by="officer")
        return known

    monkeypatch.setattr(decisions, "read", read)
    request = replace(centre.plan_request(), campaign="another")
    answer = centre.plan(request)
    state = decisions.read(place)
    assert state is not None
    assert state.status is status
    assert state.names[-1] == "another"
    centre.refused(answer, "policy" if status is Status.LEFT else "paused", says="officer decided so")


def test_a_round_that_two_requests_ask_for_at_once_is_answered_to_one(centre: Centre) -> None:
    first = centre.train_request()
    second = replace(first, request_id="f" * 32)
    answered_rounds.check(centre.folder, first)
    answered_rounds.check(centre.folder, second)
    answered_rounds.claim(centre.folder, first)
    answered_rounds.claim(centre.folder, first)
    with pytest.raises(UnapprovedError, match="was asked for before, by another request"):
        answered_rounds.claim(centre.folder, second)
