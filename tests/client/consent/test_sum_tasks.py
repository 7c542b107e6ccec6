"""In which tasks of a campaign with sums a site takes part: what it has, what its people say, what stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.site_cli import site as site_cli
from client.consent import campaign_page, campaigns, sum_tasks
from client.site.site import Site
from client.state import decisions
from common.errors import DataError, PolicyError, UnapprovedError
from common.messages import PlanRequest
from common.settings import Settings
from common.version import VERSION
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

SECURE = "[federation]\nrounds = 1\n[federation.secure]\nsites = 3\nsurvivors = 2\n"
ALL = [f"{name}>{threshold}" for name in ("hypertrophy", "vascularity") for threshold in range(3)]


def settings(text: str = SECURE) -> Settings:
    return make_settings(text=f'fusion = "joint"\nreplicas = 1\nmodels = 1\n{text}')


def folder_of(base: Path, *, minimum_cohort: int = 2) -> Path:
    """A site whose vascularity is never 3, and 2 in one patient alone."""
    made = make_site_folder(
        base / "north", name="north", patients=12, exams_per_patient=4, held_out_patients=2
    )
    rows = read_table(made / "grades.csv")
    lows = [{**row, "vascularity": "1" if row["hypertrophy"] != "0" else "0"} for row in rows]
    write_table(made / "grades.csv", lows)
    toml = made / "site.toml"
    text = toml.read_text().replace(
        "minimum_cohort = 1", f"minimum_cohort = {minimum_cohort}\nminimum_peers = 1"
    )
    peers = "".join(f'"{name}" = "{index:064x}"\n' for index, name in enumerate(("south", "west"), start=1))
    toml.write_text(f"{text.replace('automatic', 'each')}[peers]\n{peers}")
    return made


def asked(folder: Path, plan: Settings) -> str:
    """The hash of a campaign that waits for a decision."""
    request = PlanRequest(
        campaign="study", request_id="r1", version=VERSION, plan=plan.plan_json(), plan_hash=plan.plan_hash()
    )
    with pytest.raises(UnapprovedError):
        campaigns.consider(Site.open(folder), request)
    return plan.plan_hash()


def test_a_task_for_which_a_site_has_nothing_is_none_of_its(tmp_path: Path) -> None:
    site = Site.open(folder_of(tmp_path))
    found = {task.name: task for task in sum_tasks.tasks(site, settings())}
    assert list(found) == ALL
    assert found["vascularity>1"].lacks == found["vascularity>2"].lacks == "all exams on one side"
    assert [name for name, task in found.items() if not task.lacks] == [*ALL[:3], "vascularity>0"]
    assert sum_tasks.exclude(site, settings()) == ("vascularity>1", "vascularity>2")


def test_people_may_leave_more_out_and_nothing_unknown(tmp_path: Path) -> None:
    site = Site.open(folder_of(tmp_path))
    assert sum_tasks.exclude(site, settings(), without=["vascularity"]) == tuple(ALL[3:])
    assert sum_tasks.exclude(site, settings(), without=["hypertrophy>1"]) == (ALL[1], *ALL[4:])
    for wrong in (["vascularit"], ["hypertrophy>3"], [""], ["vascularity", "[x]"], [">"]):
        with pytest.raises(PolicyError, match="Expected --without of hypertrophy>0"):
            sum_tasks.exclude(site, settings(), without=wrong)
    with pytest.raises(DataError, match=r"leave it .*hypertrophy>0: left out"):
        sum_tasks.exclude(site, settings(), without=["hypertrophy", "vascularity"])


def test_too_few_patients_are_none(tmp_path: Path) -> None:
    site = Site.open(folder_of(tmp_path, minimum_cohort=11))
    with pytest.raises(DataError, match="fewer than 11 patients to train on"):
        sum_tasks.exclude(site, settings())


def test_campaigns_without_sums_or_with_noise_ask_for_all_or_nothing(tmp_path: Path) -> None:
    site = Site.open(folder_of(tmp_path))
    noised = make_settings(
        method="probe",
        weights="imagenet",
        text="[privacy]\npatients = 9\nnoise_multiplier = 4.0\n"
        + SECURE.replace("survivors = 2", "survivors = 3\ncolluders = 1"),
    )
    for plan in (settings(""), noised):
        assert sum_tasks.exclude(site, plan) == ()
        with pytest.raises(PolicyError, match="takes part in all of it, or leaves it"):
            sum_tasks.exclude(site, plan, without=["vascularity"])


def test_what_was_declared_is_shown_told_to_the_centre_and_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    plan_hash = asked(folder, settings())
    runner = CliRunner()
    shown = runner.invoke(site_cli, ["campaigns", "show", str(folder), plan_hash[:8]])
    assert shown.exit_code == 0, shown.output
    assert "vascularity>2: takes no part, " in shown.output
    assert "hypertrophy>0: takes part, " in shown.output
    wrong = runner.invoke(
        site_cli, ["campaigns", "approve", str(folder), plan_hash[:8], "--without", "erosions"]
    )
    assert isinstance(wrong.exception, PolicyError)
    assert decisions.listed(Site.open(folder))[plan_hash].status is decisions.Status.WAITING
    done = runner.invoke(
        site_cli, ["campaigns", "approve", str(folder), plan_hash[:8], "--without", "hypertrophy>2"]
    )
    assert done.exit_code == 0, done.output
    out = ("hypertrophy>2", "vascularity>1", "vascularity>2")
    assert f"takes no part in {', '.join(out)}" in done.output
    site = Site.open(folder)
    assert decisions.without(site, plan_hash) == out
    assert json.loads((folder / "audit.jsonl").read_text().splitlines()[-1])["without"] == list(out)
    rows = read_table(folder / "grades.csv")  # patients withdraw, others come: the declaration stays
    write_table(folder / "grades.csv", [{**row, "hypertrophy": "", "vascularity": "0"} for row in rows])
    for status in (decisions.Status.PAUSED, decisions.Status.APPROVED):
        campaigns.decide(site, plan_hash, status, by="officer")
        assert decisions.without(site, plan_hash) == out
    page = campaign_page.page(site, plan_hash, decisions.listed(site)[plan_hash])
    assert sum("takes no part" in line for line in page.takes_part) == len(out)
    campaigns.decide(site, plan_hash, decisions.Status.PAUSED, by="officer")
    more = runner.invoke(
        site_cli, ["campaigns", "approve", str(folder), plan_hash[:8], "--without", "hypertrophy"]
    )
    # it was not heard, and the campaign went on with all of it
    assert isinstance(more.exception, PolicyError)
    assert "stays as it was approved" in str(more.exception)
    assert decisions.listed(site)[plan_hash].status is decisions.Status.PAUSED


def test_an_approval_of_before_has_to_be_given_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    plan_hash = asked(folder, settings())
    site = Site.open(folder)
    campaigns.decide(site, plan_hash, decisions.Status.APPROVED, by="officer")
    campaigns.settings_of_approved(site, plan_hash, name="study")
    place = decisions.folder(folder, plan_hash) / "state.json"
    state = json.loads(place.read_text())
    del state["without"]
    place.write_text(json.dumps(state))
    with pytest.raises(UnapprovedError, match="approve it again"):
        campaigns.settings_of_approved(site, plan_hash, name="study")
    campaigns.decide(site, plan_hash, decisions.Status.APPROVED, by="officer")
    campaigns.settings_of_approved(site, plan_hash, name="study")


def test_heads_without_noise_are_one_group_and_take_who_has_something_for_all(tmp_path: Path) -> None:
    heads = make_settings(
        method="probe", weights="imagenet", text='[privacy]\npatients = 9\nmechanism = "none"\n' + SECURE
    )
    folder = folder_of(tmp_path)
    assert sum_tasks.exclude(Site.open(folder), heads) == ()
    with pytest.raises(DataError, match=r"leave it .*vascularity: left out"):
        sum_tasks.exclude(Site.open(folder), heads, without=["vascularity"])
    rows = read_table(folder / "grades.csv")
    write_table(folder / "grades.csv", [{**row, "vascularity": ""} for row in rows])
    with pytest.raises(DataError, match="vascularity: fewer than 2 patients"):
        sum_tasks.exclude(Site.open(folder), heads)
