"""Real sites judge the ensemble of their campaign over TLS; the centre's report shows what they permit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.ensemble import evaluation as at_site
from common.sections.campaign import CampaignSettings
from server.cli.centre_cli import run as run_group
from server.runs import submit
from tests.deployment.federation import Federation
from tests.deployment.test_end_to_end import configured, leaked

pytestmark = [pytest.mark.slow, pytest.mark.soak]
SITES = ("dublin", "espoo")


@pytest.mark.ci
def test_tables_come_back_from_whoever_permits_them(tmp_path: Path) -> None:
    federation = Federation.make(
        tmp_path, SITES, patients=9, held_out_patients=5, policies={"dublin": "federated_evaluation = true\n"}
    )
    try:
        federation.connected(SITES)
        settings = configured("judged", rounds=1)
        settings = settings.model_copy(update={"campaign": CampaignSettings(evaluation=True)})
        run = federation.ended(submit.submit(federation.home, settings))
    finally:
        federation.close()
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert run.status().evaluation["dublin"] == "received"
    assert run.status().evaluation["espoo"].startswith("refused: policy")
    done = CliRunner().invoke(run_group, ["report", "judged", "--home", str(federation.home.path), "--json"])
    assert done.exit_code == 0, done.output
    judged = json.loads(done.output)["judged"]
    entry = judged["pooled"]["hypertrophy"]
    assert entry["patients"] == 5
    assert sum(map(sum, entry["confusion"])) == entry["exams"] > 5
    assert 0 <= entry["accuracy"]["ci95"][0] <= entry["accuracy"]["value"]
    assert list(judged["without"]) == ["espoo"]
    (kept,) = at_site.folder(federation.site("dublin"), run.settings().plan_hash()).glob("*.json")
    assert kept.read_bytes() == (run.path / "evaluation" / "dublin.json").read_bytes()
    assert "As the sites judged it" in (run.path / "report.html").read_text(encoding="utf-8")
    assert leaked(federation, [federation.site(name) for name in SITES]) == []


def test_sites_join_late_or_judge_what_they_did_not_train(tmp_path: Path) -> None:
    """Dublin is expected from the start; Galway is admitted while nobody trains yet; Espoo judges."""
    names = ("dublin", "espoo", "galway")
    federation = Federation.make(
        tmp_path,
        names,
        patients=9,
        held_out_patients=5,
        policies=dict.fromkeys(names, "federated_evaluation = true\n"),
    )
    try:
        federation.connected(names[1:])
        settings = configured("grown", rounds=2)
        asked = CampaignSettings(evaluation=True, late_joining=True)
        settings = settings.model_copy(update={"campaign": asked})
        run = submit.submit(federation.home, settings, sites=["dublin"], judges=["espoo"])
        home = ["--home", str(federation.home.path)]
        done = CliRunner().invoke(run_group, ["admit", "grown", "galway", *home])
        assert done.exit_code == 0, done.output

        def agreed() -> bool:
            sites = run.status().sites
            return all(name in sites and sites[name].state == "present" for name in names[1:])

        federation.wait(agreed, what="Espoo and Galway agreeing")
        federation.join("dublin")
        federation.ended(run)
    finally:
        federation.close()
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert {name: site.used > 0 for name, site in run.status().sites.items()} == {
        "dublin": True,
        "galway": True,
        "espoo": False,
    }
    assert set(run.status().evaluation.values()) == {"received"}
    done = CliRunner().invoke(run_group, ["report", "grown", *home, "--json"])
    judged = json.loads(done.output)["judged"]
    assert (sorted(judged["sites"]), judged["strangers"]) == (sorted(names), ["espoo"])
    pooled = judged["pooled"]["hypertrophy"]["exams"]
    assert pooled == sum(judged["sites"][name]["hypertrophy"]["exams"] for name in ("dublin", "galway"))
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "espoo (trained nothing)" in page
    assert "Grades by site and machine" in page
    done = CliRunner().invoke(run_group, ["matrix", "grown", *home, "--json"])
    assert json.loads(done.output)["campaigns"]["grown"]["trained"] == ["dublin", "galway"]
