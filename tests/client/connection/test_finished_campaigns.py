"""A private campaign's step is rehearsed by itself once its last round was answered; the result stays at the site."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from client.connection import finished_campaigns
from client.connection.finished_campaigns import FinishedCampaigns
from client.connection.looking import Looking
from client.evidence import rehearsed, site_evidence
from client.site.site import Site
from client.state import decisions
from common.privacy.audit.evidence import Check
from tests.privacy_evidence import ROUNDS, Campaign


def finish(looking: Looking) -> None:
    until = time.monotonic() + 120
    looking.look()
    while looking._running is not None and time.monotonic() < until:
        time.sleep(0.1)
        looking.look()


def sent(site: Campaign) -> dict[str, bytes]:
    folder = site.site.folder
    return {name: (folder / name).read_bytes() for name in ("audit.jsonl", "ledger.jsonl")}


def of_rehearsal(site: Campaign) -> Check | None:
    checks = site_evidence.read(site.site.folder).checks
    return next((one for one in checks if one.name == "rehearsal"), None)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child rehearses with few canaries."""
    monkeypatch.setattr(finished_campaigns, "MODULE", "tests.client.connection.few_canaries")


@pytest.mark.slow
@pytest.mark.soak
def test_a_campaign_that_has_ended_is_rehearsed_once_and_nothing_leaves(tmp_path: Path, few: None) -> None:
    said: list[str] = []
    site = Campaign.begin(tmp_path / "north").run(ROUNDS - 1)
    looking = Looking(site.site.folder, FinishedCampaigns(site.site.folder, said.append, every_s=0.0))
    looking.look()
    assert looking._running is None  # its last round is still to come
    site.debit(ROUNDS)
    site.send(ROUNDS)
    before = sent(site)
    finish(looking)
    place = decisions.folder(site.site.folder, site.settings.plan_hash()) / decisions.REHEARSAL
    (one,) = json.loads(place.read_text(encoding="utf-8"))["rehearsals"]
    assert not one["refuted"]
    assert sent(site) == before
    assert len(said) == 1
    looking.look()
    assert looking._running is None
    check = of_rehearsal(site)
    assert check is not None
    assert check.verdict == "not contradicted"
    content = json.loads(place.read_text(encoding="utf-8"))
    content["rehearsals"][0]["refuted"] = True
    place.write_text(json.dumps(content), encoding="utf-8")
    refuted = of_rehearsal(site)
    assert refuted is not None
    assert refuted.verdict == "fails"


def test_one_that_takes_too_long_is_ended_and_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(finished_campaigns, "MODULE", "endless")
    said: list[str] = []
    site = Campaign.begin(tmp_path / "north").run()
    looking = Looking(site.site.folder, FinishedCampaigns(site.site.folder, said.append, every_s=0.0))
    looking.look()
    assert looking._running is not None
    looking._began = -math.inf
    looking.look()
    assert "had not ended after" in said[0]
    check = of_rehearsal(site)
    assert check is not None
    assert check.verdict == "open"
    assert "not finished" in check.found


def test_a_site_may_switch_it_off(tmp_path: Path) -> None:
    site = Campaign.begin(tmp_path / "north").run()
    toml = site.site.folder / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "[audit]\nafter_campaigns = false\n", encoding="utf-8")
    looking = Looking(site.site.folder, FinishedCampaigns(site.site.folder, print, every_s=0.0))
    looking.look()
    assert looking._running is None
    assert of_rehearsal(site) is None  # of no federation: nobody would have started it
    (site.site.folder / "federation.json").write_text("{}", encoding="utf-8")
    evidence = site_evidence.read(site.site.folder)
    check = next(rehearsed.check(Site.open(site.site.folder), evidence.answers, dict(evidence.plans)))
    assert check.verdict == "open"
    assert "after_campaigns is off" in check.found
