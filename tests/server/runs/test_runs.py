"""Campaigns as folders: submitting, stopping, resuming, and what the service does about each."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
import torch
from typer.testing import CliRunner

from common.errors import CampaignError, ConfigurationError
from common.evaluation.inside.site_tables import SiteTables
from common.machine import file_lock
from common.networks import torchvision_shim
from common.privacy.planning import notice
from common.sections.campaign import CampaignSettings
from common.settings import Settings
from common.text.notices import NO_TABLES
from server import deployed
from server.campaign.events import CentreNews, SiteNews, StageStarted
from server.federation import enrolment, provision
from server.federation.home import Home
from server.federation.registry import RegisteredSite, Registry
from server.report import page
from server.rounds import site_results
from server.rounds.journal import RoundRecord
from server.runs import submit
from server.runs.run_folder import RunFolder
from server.runs.runs import Attempts, CampaignStatus, Run, find
from server.service import campaign_facts, up
from server.service.control import Control
from simulation.cli.command_line import commands
from tests.full_disk import limited_files
from tests.site_folders import make_settings

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    provision.provision(tmp_path / "centre", name="Test", address="localhost:8443", now=NOW)
    made = Home(tmp_path / "centre")
    registry = Registry.open(made.path)
    for name in ("north", "south"):
        site = RegisteredSite(name=name, status="registered", node_key=name, receipt_key=name.encode().hex())
        registry = registry.with_site(site)
    registry.with_site(RegisteredSite(name="west", status="invited")).write(made.path)
    return made


def settings(name: str = "demo") -> Settings:
    return make_settings(text='fusion = "joint"\nreplicas = 1').model_copy(update={"name": name})


@dataclass
class Link:
    """Flower's control API, as far as campaigns are concerned."""

    started: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)

    def active(self) -> frozenset[int]:
        return frozenset(self.alive)

    def start(self, campaign: str) -> int:
        self.started.append(campaign)
        self.alive.add(len(self.started))
        return len(self.started)

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)
        self.alive.discard(run_id)


def tend(run: Run, link: Link) -> None:
    if not up._settled(run):
        up._Tended(run, cast(Control, link), frozenset(link.alive), lambda text: None).tend()


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("federation", {"quorum": 3}, "quorum of at most 2, the sites that train, got 3"),
        ("federation", {"rule": "krum"}, "federation.rule cannot be used with 2 sites"),
        ("network", {"backbone": "vgg16", "image_px": 16}, "Raise network.image_px to 32"),
        pytest.param(
            "network",
            {"backbone": "resnet18"},
            "training.batch_size .* to 2 or more",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_what_cannot_be_trained_is_not_submitted(
    home: Home, section: str, changes: dict[str, object], said: str
) -> None:
    plan = settings()
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"batch_size": 1})})
    plan = plan.model_copy(update={section: getattr(plan, section).model_copy(update=changes)})
    with pytest.raises(ConfigurationError, match=said):
        submit.submit(home, plan)
    assert not home.runs.exists() or not list(home.runs.iterdir())


def test_a_campaign_takes_all_registered_sites_or_those_named(home: Home) -> None:
    everybody = submit.submit(home, settings())
    assert everybody.wish().sites == ("north", "south")
    assert everybody.status().state == "SUBMITTED"
    assert everybody.settings().plan_hash() == settings().plan_hash()
    assert submit.submit(home, settings("south"), sites=["south"]).wish().sites == ("south",)
    assert not [path for path in home.runs.iterdir() if path.name.startswith(".")]


def test_a_campaign_knows_where_its_start_weights_lie_wherever_it_is_run(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = settings().network.model_copy(
        update={"backbone": "mobilenet_v2", "image_px": 32, "weights": "imagenet"}
    )
    Path("weights").mkdir()
    torch.save(torchvision_shim.mobilenet_v2().state_dict(), "weights/mobilenet_v2.pth")
    run = submit.submit(home, settings().model_copy(update={"network": network}))
    assert run.settings().network.weights == str(tmp_path / "weights")
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["start_weights"] == ["mobilenet_v2 starts from weights/mobilenet_v2.pth"]


def growing(name: str) -> Settings:
    asked = CampaignSettings(late_joining=True, evaluation=True)
    return settings(name).model_copy(update={"campaign": asked})


def test_sites_are_admitted_later_where_the_plan_says_so(home: Home) -> None:
    run = submit.submit(home, growing("open"), sites=["north"])
    submit.admit(home, "open", ["south"])
    assert (run.wish().sites, run.wish().late, run.wish().judges) == (("north",), ("south",), ())
    with pytest.raises(ConfigurationError, match="not in 'open' yet, got south"):
        submit.admit(home, "open", ["south"], judge=True)
    with pytest.raises(ConfigurationError, match="registered sites"):
        submit.admit(home, "open", ["west"])
    submit.submit(home, settings("closed"), sites=["north"])
    with pytest.raises(ConfigurationError, match=r"campaign.late_joining = true"):
        submit.admit(home, "closed", ["south"])
    run.write_status(CampaignStatus(state="COMPLETE_SUBSET"))
    run.write_wish(run.wish().model_copy(update={"late": ()}))
    with pytest.raises(CampaignError, match="is complete"):
        submit.admit(home, "open", ["south"])


def test_judges_do_not_train(home: Home) -> None:
    run = submit.submit(home, growing("judged"), judges=["south"])
    assert (run.wish().sites, run.wish().judges) == (("north",), ("south",))
    members = deployed.roster(home, run.wish())
    assert (members.count, sorted(members.expected), sorted(members.judges)) == (1, ["north"], ["south"])
    with pytest.raises(ConfigurationError, match="no site that trains"):
        submit.submit(home, growing("nobody"), judges=["north", "south"])
    quiet = growing("quiet").model_copy(update={"campaign": CampaignSettings(late_joining=True)})
    with pytest.raises(ConfigurationError, match=r"campaign.evaluation = true"):
        submit.submit(home, quiet, judges=["south"])


def test_what_cannot_run_is_refused_before_anything_is_written(home: Home) -> None:
    with pytest.raises(ConfigurationError, match=r"registered sites \(north, south\), got east, west"):
        submit.submit(home, settings(), sites=["west", "east"])
    Registry.open(home.path)
    assert not list(home.runs.iterdir())
    submit.submit(home, settings())
    with pytest.raises(ConfigurationError, match="already"):
        submit.submit(home, settings())
    with pytest.raises(ConfigurationError, match=r"\(demo\), got 'other'"):
        find(home, "other")


def test_a_submitted_campaign_is_started_once(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    for _ in range(3):
        tend(run, link)
    assert link.started == ["demo"]
    assert run.status().state == "STARTING"


def test_a_full_disk_is_told_once_and_ends_nothing(home: Home) -> None:
    run, link, told = submit.submit(home, settings()), Link(), list[str]()
    centre = up.Centre(home, insecure=False, say=told.append)
    with limited_files(10):
        for _ in range(2):
            centre._next_look = 0.0
            centre._tend_campaigns(cast(Control, link))
    assert [text.partition(" (")[0] for text in told] == ["demo: nothing can be written"]
    centre._next_look = 0.0
    centre._tend_campaigns(cast(Control, link))
    assert (link.started, run.status().state) == (["demo"], "STARTING")


def test_one_that_died_waits_ever_longer_until_it_has_failed(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    waits = []
    while run.status().state != "FAILED":
        tend(run, link)
        attempts = run.attempts()
        if attempts.not_before:
            waits.append(attempts.not_before - time.time())
            run.write_attempts(attempts.model_copy(update={"not_before": time.time() - 1}))
        else:
            link.alive.clear()
    assert len(link.started) == up.MOST_TRIES + 1
    assert waits == pytest.approx([min(300.0, 5.0 * 2**tries) for tries in range(up.MOST_TRIES)], abs=2.0)
    tend(run, link)
    assert len(link.started) == up.MOST_TRIES + 1


def test_a_round_makes_the_tries_begin_anew(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    tend(run, link)
    link.alive.clear()
    run.write_attempts(run.attempts().model_copy(update={"tries": 7}))
    with (run.path / "rounds.jsonl").open("a") as file:
        file.write("{}\n")
    tend(run, link)
    assert run.attempts().tries == 1
    assert run.status().state == "INTERRUPTED"


def test_a_process_that_was_killed_is_found_by_its_lock(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    tend(run, link)
    run.write_status(CampaignStatus(state="RUNNING"))
    with file_lock.alone(run.path):
        assert file_lock.holder(run.path) is not None
    with (run.path / file_lock.NAME).open("a+") as other:
        import fcntl

        fcntl.flock(other, fcntl.LOCK_EX)
        tend(run, link)
        assert link.stopped == []
    tend(run, link)
    assert link.stopped == [1]
    assert run.status().state == "INTERRUPTED"


def test_a_process_that_ends_while_it_is_looked_at_is_not_taken_for_killed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, link = submit.submit(home, settings()), Link()
    tend(run, link)
    run.write_status(CampaignStatus(state="RUNNING"))

    def complete_and_end(folder: Path) -> None:
        assert folder == run.path
        run.write_status(CampaignStatus(state="COMPLETE_ALL_SITES"))

    monkeypatch.setattr(file_lock, "holder", complete_and_end)
    tend(run, link)
    assert (link.stopped, run.status().state) == ([], "COMPLETE_ALL_SITES")


def test_stop_ends_it_and_resume_goes_on(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    tend(run, link)
    submit.stop(home, "demo")
    tend(run, link)
    assert (link.stopped, run.status().state) == ([1], "STOPPED")
    tend(run, link)
    with pytest.raises(CampaignError, match="STOPPED"):
        submit.stop(home, "demo")
    submit.resume(home, "demo")
    tend(run, link)
    assert link.started == ["demo", "demo"]
    run.write_status(CampaignStatus(state="COMPLETE_SUBSET"))
    with pytest.raises(CampaignError, match="complete"):
        submit.resume(home, "demo")


def test_a_failed_campaign_stays_so_until_it_is_resumed(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    tend(run, link)
    link.alive.clear()
    run.write_status(CampaignStatus(state="FAILED", reason="quorum"))
    tend(run, link)
    assert len(link.started) == 1
    submit.resume(home, "demo")
    tend(run, link)
    assert len(link.started) == 2


def record(group: str, number: int, *, participants: tuple[str, ...] = ("north", "south")) -> RoundRecord:
    return RoundRecord(
        stage="scoring",
        group=group,
        round=number,
        loss=0.5,
        auc=float("nan"),
        participants=participants,
        dropped={} if len(participants) > 1 else {"south": "late"},
        seconds=1.0,
        time="2030-01-01T00:00:00+00:00",
    )


@pytest.fixture
def reported(home: Home) -> Iterator[Run]:
    """A campaign of which two rounds are reported, and a site that waits."""
    run = submit.submit(home, settings())
    handler = deployed._log_to(run.log)
    reporter = deployed.Reporter(run)
    stage = StageStarted(stage="scoring", networks=4, reused=0, groups=2, total=6, done=0)
    for event in (
        SiteNews(site="north", state="present"),
        SiteNews(site="south", state="waiting", reason="unapproved"),
        stage,
        record("a", 1),
        record("b", 1, participants=("north",)),
        CentreNews(reason="disk"),
    ):
        reporter(event)
    yield run
    deployed.logger.removeHandler(handler)
    handler.close()


def test_the_status_says_who_is_where(reported: Run) -> None:
    status = reported.status()
    assert (status.state, status.stage, status.done, status.total, status.waits) == (
        "RUNNING",
        "scoring",
        2,
        6,
        "disk",
    )
    assert status.groups == {"a": 1, "b": 1}
    assert {name: (site.state, site.reason, site.used) for name, site in status.sites.items()} == {
        "north": ("present", "", 2),
        "south": ("waiting", "unapproved", 1),
    }
    assert status.eta_s is not None
    assert [line["group"] for line in reported.rounds()] == ["a", "b"]
    assert "b, round 1: without south: late" in reported.log.read_text()


def test_commands_show_it(reported: Run, home: Home) -> None:
    runner = CliRunner(env={"COLUMNS": "160"})
    app = commands()
    shown = runner.invoke(app, ["run", "watch", "demo", "--once", "--home", str(home.path)])
    assert shown.exit_code == 0
    assert "unapproved" in shown.output
    facts = runner.invoke(app, ["run", "watch", "demo", "--once", "--json", "--home", str(home.path)])
    assert json.loads(facts.output)["sites"]["south"]["state"] == "waiting"
    listed = runner.invoke(app, ["run", "list", "--json", "--home", str(home.path)])
    assert [one["campaign"] for one in json.loads(listed.output)] == ["demo"]
    assert "demo" in runner.invoke(app, ["run", "list", "--home", str(home.path)]).output


def test_a_report_says_where_the_tables_of_the_sites_stand(home: Home) -> None:
    def said(run: Run) -> str:
        done = CliRunner(env={"COLUMNS": "300"}).invoke(
            commands(), ["run", "report", run.name, "--home", str(home.path)]
        )
        assert done.exit_code == 0, done.output
        return done.output

    assert "campaign.evaluation = true asks" in said(submit.submit(home, settings("plain")))
    asking = settings().model_copy(update={"campaign": CampaignSettings(evaluation=True)})
    run = submit.submit(home, asking)
    assert "once its networks are done; the campaign is SUBMITTED." in said(run)
    run.write_status(CampaignStatus(state="RUNNING", stage="scoring", networks=4, total=6, done=2))
    assert "the campaign is RUNNING, stage scoring: 2/6 rounds of 4 networks." in said(run)
    assert "once its networks are done" in (run.path / "report.html").read_text(encoding="utf-8")
    site_results.keep(
        run.path, "north", SiteTables(site="north", minimum_cohort=5, tables=(), suppressed=2).dump()
    )
    run.write_status(CampaignStatus(state="RUNNING", evaluation={"north": "received", "south": "busy"}))
    assert "are being asked for their tables: south (busy) not yet here; RUNNING." in said(run)
    run.write_status(
        CampaignStatus(state="COMPLETE_SUBSET", evaluation={"north": "received", "south": "policy"})
    )
    site_results.keep_without(run.path, {"south": "refused: policy"})
    shown = said(run)
    assert "south gave none: refused: policy" in shown
    assert "north keeps 2 tables back, of fewer than 5 patients" in shown
    assert "asked" not in shown
    asked = CliRunner().invoke(commands(), ["run", "matrix", run.name, "plain", "--home", str(home.path)])
    assert "plain has no tables of any" in str(asked.exception)


def test_a_campaign_with_privacy_says_that_it_gives_no_tables(home: Home) -> None:
    """What plan, page and passport say is the same sentence."""
    noised = "[privacy]\nnoise_multiplier = 4.0\nmax_grad_norm = 1.0\nsample_rate = 0.5\npatients = 20\n"
    private = make_settings(text=noised)
    folder = RunFolder.begin(home.runs / "private", private)
    assert campaign_facts.tables(Run(folder.path)) == NO_TABLES
    assert NO_TABLES in notice.sentence(private)
    assert NO_TABLES in page.write(folder.path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("state", "code"),
    [("COMPLETE_ALL_SITES", 0), ("COMPLETE_SUBSET", 7), ("FAILED", 1), ("STOPPED", 1)],
)
def test_watching_exits_as_the_campaign_ended(reported: Run, home: Home, state: str, code: int) -> None:
    reported.write_status(CampaignStatus.model_validate({"state": state}))
    watched = CliRunner().invoke(commands(), ["run", "watch", "demo", "--home", str(home.path)])
    assert watched.exit_code == code
    assert state in watched.output


def test_submit_checks_the_configuration_and_says_how_to_watch(home: Home, tmp_path: Path) -> None:
    runner, app = CliRunner(), commands()
    config = submit.submit(home, settings("model")).path / "config.toml"
    arguments = ["run", "submit", str(config), "--home", str(home.path), "--set", "name=second"]
    said = runner.invoke(app, [*arguments, "--sites", "north"])
    assert said.exit_code == 0, said.output
    assert "synofed run watch second" in said.output
    assert find(home, "second").wish().sites == ("north",)
    again = runner.invoke(app, arguments)
    assert isinstance(again.exception, ConfigurationError)


def test_revoked_sites_are_left_out_and_none_left_is_said(home: Home) -> None:
    wish = submit.submit(home, settings()).wish()
    enrolment.revoke(home.path, "south", now=NOW)
    assert dict(deployed.roster(home, wish).keys) == {"north": b"north".hex()}
    enrolment.revoke(home.path, "north", now=NOW)
    with pytest.raises(ConfigurationError, match="registered any more"):
        deployed.roster(home, wish)


def test_attempts_of_another_wish_do_not_count(home: Home) -> None:
    run, link = submit.submit(home, settings()), Link()
    run.write_attempts(Attempts(asked="before", tries=9, not_before=time.time() + 1000))
    tend(run, link)
    assert link.started == ["demo"]
