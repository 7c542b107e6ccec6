"""The check of a site: what it finds in data, machine, policy and campaigns, and what its dry round leaves behind."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client.check import consent, data, place, rehearsal, run
from client.check.plan_choice import choose, from_tables
from client.check.report import Finding, Report, ok, problem, warning
from client.cli.site_cli import site as site_commands
from client.consent import campaigns
from client.data.site_store import site_store
from client.rounds import node
from client.site import file_permissions, policy_file
from client.site.site import Site
from client.state.decisions import Status
from common import wire
from common.errors import ConfigurationError, DataError, MemoryLimitError, PolicyError, UnapprovedError
from common.exam import Quarantined
from common.messages import MissingWeights, PlanRequest, TrainReply, TrainRequest
from common.methods.stages import method
from common.settings import Settings
from tests.site_folders import PUZZLES, make_settings, make_site_folder, read_table, ungrade, write_table

NOW = datetime.now(UTC)
CPU = torch.device("cpu")


def plan(*, folds: int = 2) -> Settings:
    """A plan that is quick to rehearse."""
    made = make_settings(measurements=("vascularity",), image_px=16, folds=folds)
    network = made.network.model_copy(update={"width": 4})
    training = made.training.model_copy(update={"batch_size": 8, "local_steps": 4})
    rating = made.rating.model_copy(update={"replicas": 1, "models": 1})
    federation = made.federation.model_copy(update={"rounds": 3})
    return made.model_copy(
        update={"network": network, "training": training, "rating": rating, "federation": federation}
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks on a busy machine: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folds = [str(patient % 2) if patient < 10 else "" for patient in range(12) for _ in range(2)]
    made = make_site_folder(
        tmp_path / "north",
        name="north",
        patients=12,
        exams_per_patient=2,
        readers=2,
        held_out_patients=2,
        extra={"fold": folds},  # else the site's key draws them
    )
    (made / "site.toml").write_text(
        (made / "site.toml").read_text() + '\n[compute]\ndevice = "cpu"\nthreads = 1\n'
    )
    return made


def checked(folder: Path, *, given: Settings | None = None, rehearse: bool = False) -> run.Checked:
    return run.check(Site.open(folder), given=given or plan(), rehearse=rehearse, now=NOW)


def found(report: Report, text: str) -> Finding:
    (only,) = [finding for finding in report.findings if text in f"{finding.found}. {finding.advice}"]
    return only


def content(folder: Path) -> dict[str, str]:
    """Every file but the store's and what the check writes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "store" not in path.parts and not path.name.startswith("check-")
    }


def change(folder: Path, table: str, line: int, **cells: str) -> None:
    rows = read_table(folder / table)
    rows[line].update(cells)
    write_table(folder / table, rows)


def policy(folder: Path, old: str, new: str) -> Site:
    text = (folder / "site.toml").read_text()
    assert old in text
    (folder / "site.toml").write_text(text.replace(old, new))
    return Site.open(folder)


def test_a_good_site_has_no_problem(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    make_site_folder(folder, name="north", patients=12, exams_per_patient=2, readers=3)
    report = checked(folder).report
    assert report.exit_code == 0 and report.count("problem") == 0
    assert found(report, "usable exams").facts["exams"] == 24
    assert found(report, "vascularity: 24 exams").facts["patients"] == 12
    kappa = found(report, "linear kappa between several readers").facts
    assert kappa["pairs"] == 3 and isinstance(kappa["kappa_linear"], float)


def test_what_is_left_out_is_counted_on_the_screen_and_named_in_the_file(folder: Path) -> None:
    exam = read_table(folder / "manifest.csv")[0]["exam_id"]
    (folder / "images" / f"{exam}_doppler.png").write_bytes(b"no picture")
    change(folder, "grades.csv", 4, vascularity="seven")
    done = checked(folder)
    assert found(done.report, "2 exams are left out").facts["left_out"] == {
        "a picture that cannot be used": 1,
        "a grade that does not exist": 1,
    }
    (details, *_) = run.write(done, Site.open(folder))
    assert stat.S_IMODE(details.stat().st_mode) == 0o600
    rows = read_table(details)
    assert [row["exam_id"] for row in rows if row["kind"] == "left out"] == [
        exam,
        read_table(folder / "grades.csv")[4]["exam_id"],
    ]
    shown = json.dumps(done.report.document())
    assert "north-p" not in shown and "seven" not in shown and "r1" not in shown


def test_tables_that_cannot_be_used_are_a_problem_whose_rows_stay_off_the_screen(folder: Path) -> None:
    change(folder, "manifest.csv", 3, doppler_path="../secret-p003.png")
    done = checked(folder, rehearse=True)
    assert done.report.exit_code == 4 and done.rehearsal is None
    assert "1 error" in found(done.report, "manifest.csv").found
    assert "secret" not in json.dumps(done.report.document())
    assert [row for row in done.report.detail if "secret-p003" in row[-1]]
    assert found(done.report, "There was none").section == "dry round"


def test_no_tables_at_all(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "north"\n')
    report = run.check(Site.open(tmp_path), given=None, rehearse=True, now=NOW).report
    assert report.exit_code == 4


def test_a_reason_is_told_without_what_it_names() -> None:
    reasons = {
        "no reader gave a grade": "no reader gave a grade",
        "grades line 7: hypertrophy 0 with vascularity 2 cannot be: validity …": "grades that cannot stand together",
        "grades line 7: vascularity is 'x cannot', expected 0 to 3 or nothing": "a grade that does not exist",
        "gs_path: images/Jensen.png is no picture": "a picture that cannot be used",
        "Jensen": "another reason",
    }
    for reason, kind in reasons.items():
        assert data.kind_of(Quarantined(exam_id="e", line=1, reason=reason)) == kind


def test_too_few_patients_for_the_policy(folder: Path) -> None:
    policy(folder, "minimum_cohort = 1", "minimum_cohort = 13")
    report = checked(folder).report
    said = found(report, "below policy.minimum_cohort: this site would train nothing for vascularity")
    assert said.state == "problem"  # no participant of this plan
    assert "policy.minimum_cohort is 13" in said.found


def test_a_measurement_that_the_site_cannot_train_is_a_warning(folder: Path) -> None:
    table = read_table(folder / "grades.csv")
    write_table(folder / "grades.csv", [row | {"vascularity": ""} for row in table])
    report = checked(folder, given=make_settings(image_px=16)).report
    said = found(report, "this site would train nothing for vascularity (no training exam has a grade of it)")
    assert said.state == "warning"


def test_the_machine(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    said = {finding.found: finding.state for finding in place.findings(Site.open(folder))[0]}
    assert [state for text, state in said.items() if "on the CPU" in text] == ["ok"]
    assert said["Other accounts of this machine can read nothing of the site"] == "ok"
    site = policy(folder, 'device = "cpu"', 'device = "cuda:31"')
    with pytest.raises(ConfigurationError, match="Expected a GPU"):
        place.training_device(site)
    assert place.findings(site)[0][0].exit_code == 3


def test_training_takes_no_more_of_a_gpu_than_the_site_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caps: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: caps.append((share, device))
    )
    site = policy(folder, 'device = "cpu"', 'device = "cuda:1"\ngpu_memory_fraction = 0.4')
    assert place.training_device(site) == torch.device("cuda:1")
    assert caps == [(0.4, torch.device("cuda:1"))]
    place.training_device(policy(folder, "gpu_memory_fraction = 0.4", "gpu_memory_fraction = 1.0"))
    assert len(caps) == 1


@pytest.mark.parametrize("says", ["CUDA error: out of memory", "CUDA error: unspecified launch failure"])
def test_a_gpu_that_has_no_room_for_another_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    def full(share: float, device: torch.device) -> None:
        raise torch.AcceleratorError(says)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", full)
    site = policy(folder, 'device = "cpu"', 'device = "cuda:0"\ngpu_memory_fraction = 0.4')
    short_of_memory = says.endswith("memory")
    with pytest.raises(MemoryLimitError if short_of_memory else torch.AcceleratorError):
        place.training_device(site)
    if short_of_memory:
        assert place.findings(site)[0][0].exit_code == MemoryLimitError.exit_code


def test_open_folders_are_told_without_names_of_pictures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_permissions, "REACH", stat.S_IXUSR)  # pytest's folders are closed
    shown, rows = place.findings(Site.open(folder))
    (one,) = [finding for finding in shown if "Other accounts" in finding.found]
    assert one.state == "warning" and "north-p" not in one.found and f"chmod -R go-rwx {folder}" in one.found
    assert "north-p" in rows[0][-1]


def test_disk(folder: Path) -> None:
    site = policy(folder, "keep_outbox_days = 0", "keep_outbox_days = 1")
    free = shutil.disk_usage(folder).free
    assert place.disk(site, outbox_bytes=0).state == "ok"
    assert place.disk(site, outbox_bytes=int(0.7 * free)).state == "warning"
    full = place.disk(site, outbox_bytes=2 * free)
    assert (full.state, full.exit_code) == ("problem", 4)
    assert (
        place.disk(
            policy(folder, "keep_outbox_days = 1", "keep_outbox_days = 0"), outbox_bytes=2 * free
        ).state
        == "ok"
    )


def test_the_policy_in_one_line(folder: Path) -> None:
    said = consent.permits(Site.open(folder)).found
    assert "Permits * for at most 1000 rounds per stage; approval automatic" in said
    closed = policy(folder, 'methods = ["*"]\ncode = ["*"]', "methods = []")
    assert "policy.methods is empty" in consent.permits(closed).found
    none = policy(folder, "allow_unprotected = true", "allow_unprotected = false")
    assert "allow_unprotected is false" in consent.permits(none).found
    closed = policy(folder, "methods = []", 'methods = ["rating"]')
    assert (
        consent.permits(closed).state == "warning"
    )  # methods without any protection that they may run under
    for protected in ("maximum_epsilon = 8.0", "allow_secure_only = true"):
        opened = policy(folder, "allow_unprotected = false", f"allow_unprotected = false\n{protected}")
        assert consent.permits(opened).found.startswith("Permits rating for"), protected
        policy(folder, f"\n{protected}", "")


def test_a_policy_that_nobody_signed_is_a_problem_and_a_signed_one_is_not(folder: Path) -> None:
    (folder / "federation.json").write_text("{}")
    before = content(folder)
    (unsigned, _) = consent.policy(Site.open(folder))
    assert (unsigned.state, unsigned.exit_code) == (
        "problem",
        5,
    ) and "Every request is refused" in unsigned.found
    assert content(folder) == before
    policy_file.sign(Site.open(folder), Ed25519PrivateKey.generate())
    (signed, permits) = consent.policy(Site.open(folder))
    assert signed.state == "ok" and signed.facts["serial"] == 1
    assert "for at most 1000 rounds; approval" in permits.found


def test_a_policy_that_was_signed_before_it_had_a_version_is_told_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "federation.json").write_text("{}")
    with monkeypatch.context() as earlier:
        earlier.setattr(policy_file, "NEWEST", 1)
        policy_file.sign(Site.open(folder), Ed25519PrivateKey.generate())
    (told, _) = consent.policy(Site.open(folder))
    assert told.state == "warning" and "maximum_rounds = 1000 limits each stage of a campaign" in told.found
    assert "synofed site policy sign" in told.advice


def asked(folder: Path, settings: Settings) -> str:
    """A campaign that the site was asked about."""
    text = settings.plan_json()
    plan_hash = settings.plan_hash()
    request = PlanRequest(campaign="study", request_id="q", version="0", plan=text, plan_hash=plan_hash)
    with contextlib.suppress(UnapprovedError):
        campaigns.consider(Site.open(folder), request)
    return plan_hash


def test_campaigns_are_held_against_policy_and_data(folder: Path) -> None:
    site = policy(folder, 'approval = "automatic"', 'approval = "each"')
    plan_hash = asked(folder, plan())
    (waiting,) = consent.known_campaigns(site)
    assert waiting.state == "warning" and "fits policy and data" in waiting.found
    campaigns.decide(site, plan_hash, Status.APPROVED, by="me")
    (approved,) = consent.known_campaigns(site)
    assert approved.state == "ok"
    tight = policy(folder, "allow_unprotected = true", "allow_unprotected = false")
    (refused,) = consent.known_campaigns(tight)
    assert (refused.state, refused.exit_code) == ("problem", 5) and "would be refused" in refused.found
    wide = policy(folder, "allow_unprotected = false", "allow_unprotected = true")
    rows = [
        {name: cell for name, cell in row.items() if name != "vascularity"}
        for row in read_table(folder / "grades.csv")
    ]
    write_table(folder / "grades.csv", rows)
    (unfit,) = consent.known_campaigns(wide)
    assert (unfit.state, unfit.exit_code) == ("problem", 4) and "vascularity" in unfit.found
    campaigns.decide(wide, plan_hash, Status.LEFT, by="me")
    (none,) = consent.known_campaigns(wide)
    assert none.found == "The site was asked about none yet"


def test_a_damaged_decision_is_a_problem_and_stops_nothing_else(folder: Path) -> None:
    plan_hash = asked(folder, plan())
    (folder / "campaigns" / plan_hash / "state.json").write_text("{")
    report = run.check(Site.open(folder), given=None, rehearse=False, now=NOW).report
    assert [(one.section, one.exit_code) for one in report.findings if one.state == "problem"] == [
        ("campaigns", 5)
    ]
    assert found(report, "Held against small networks").state == "ok"


def test_a_device_that_fails_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(node, "train", fail)
    report = checked(folder, rehearse=True).report
    assert (report.exit_code, report.count("problem")) == (1, 1)
    assert found(report, "Training failed: CUDA error: no kernel image is available.").section == "dry round"
    assert not list(folder.glob(".rehearsal-*"))


def test_which_plan_the_data_are_held_against(folder: Path) -> None:
    site = Site.open(folder)
    made = choose(site, None)
    assert not made.named and made.settings == from_tables(site)
    assert made.settings.validity == "eoss" and list(made.settings.images) == ["gs", "doppler"]
    plan_hash = asked(folder, plan())
    newest = choose(site, None)
    assert newest.named and newest.settings.plan_hash() == plan_hash and plan_hash[:12] in newest.source
    other = plan(folds=3)
    assert choose(site, other).settings is other


def test_tables_of_another_organ_make_a_plan_too(tmp_path: Path) -> None:
    folder = make_site_folder(tmp_path / "liver", images=("bmode",), measurements=("steatosis",), grades=3)
    made = from_tables(Site.open(folder))
    assert made.measurements["steatosis"].grades == 3 and made.validity == "any"
    assert made.images["bmode"].kind == "grey"
    (folder / "grades.csv").write_text("exam_id,reader,comment\na,b,nice\n")
    with pytest.raises(DataError, match="--plan"):
        from_tables(Site.open(folder))


def test_a_dry_round_shows_what_the_site_would_answer_and_leaves_nothing(folder: Path) -> None:
    site, settings = Site.open(folder), plan()
    store = site_store(site, settings)
    before = content(folder)
    done = rehearsal.rehearse(site, settings, store, device=CPU)
    assert content(folder) == before and not list(folder.glob(".rehearsal-*"))
    assert (done.stage, done.rounds, done.exams) == ("features", 3, 16)
    for shape in done.shapes:
        sent = {(one.part, one.name): one for one in shape.sent}
        update = sent["updates", shape.network]
        values = sum(torch.Size(size).numel() for _, size in shape.tensors)
        assert update.shape == (values,) and update.size_bytes == 4 * values
        assert sent["histograms", shape.network].shape == (2, 256)
        assert {name for part, name in sent if part == "reply"} == {
            "site", "request-id", "networks", "num-examples", "loss",
        }  # fmt: skip
        assert 0 < shape.seconds < 60
        assert shape.up_bytes > update.size_bytes
    assert done.seconds_per_round > 0 and done.down_bytes_per_round > 4 * values
    json.dumps(done.document(), allow_nan=False)


def test_bytes_of_a_dry_round_are_those_of_a_real_reply(folder: Path) -> None:
    site, settings = Site.open(folder), plan()
    done = rehearsal.rehearse(site, settings, site_store(site, settings), device=CPU)
    (shape, *_) = done.shapes
    spec = next(one for one in rehearsal.first_stage(settings).networks if one.name == shape.network)
    reply = node.train(site, rehearsal._request(spec, settings), settings, device=CPU)
    assert isinstance(reply, TrainReply)
    real = wire.contents(wire.encode(reply, encoding="float32")).size_bytes
    assert abs(shape.up_bytes - real) < 10  # a count or a loss may have another digit


def test_a_dry_round_sends_no_more_than_the_policy_permits(folder: Path) -> None:
    site = policy(folder, '["counts", "losses", "score_histograms"]', "[]")
    settings = plan()
    done = rehearsal.rehearse(site, settings, site_store(site, settings), device=CPU)
    assert not [sent for shape in done.shapes for sent in shape.sent if sent.part == "histograms"]
    few = policy(folder, "metrics = []", 'metrics = ["score_histograms"]')
    few = policy(folder, "minimum_cohort = 1", "minimum_cohort = 11")
    done = rehearsal.rehearse(few, settings, site_store(site, settings), device=CPU)
    assert not [sent for shape in done.shapes for sent in shape.sent if sent.part == "histograms"]


def test_what_a_killed_dry_round_left_is_cleared(folder: Path) -> None:
    old, young = folder / ".rehearsal-old", folder / ".rehearsal-young"
    for left in (old, young):
        (left / "state").mkdir(parents=True)
    os.utime(old, (0, 0))
    site, settings = Site.open(folder), plan()
    rehearsal.rehearse(site, settings, site_store(site, settings), device=CPU)
    assert not old.exists() and young.exists()


def test_a_slow_network_is_trained_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, settings = Site.open(folder), plan()
    store, steps = site_store(site, settings), []
    answer = node.train

    def counted(
        site: Site, request: TrainRequest, settings: Settings, **how: Any
    ) -> TrainReply | MissingWeights:
        steps.append(settings.training.local_steps)
        return answer(site, request, settings, **how)

    monkeypatch.setattr(node, "train", counted)
    fast = rehearsal.rehearse(site, settings, store, device=CPU)
    assert steps == [1, 1, 1, 3, 3] * len(fast.shapes)
    steps.clear()
    monkeypatch.setattr(rehearsal, "SLOW_S", 0.0)
    slow = rehearsal.rehearse(site, settings, store, device=CPU)
    assert steps == [1] * len(slow.shapes) and slow.seconds_per_round > 0


def test_frozen_parts_are_made_up_here_and_are_nothing_that_is_sent(folder: Path) -> None:
    settings = plan()
    fusion = list(method(settings.method).stages(settings, {}))[-1]
    assert fusion.name == "fusion" and fusion.networks[0].frozen
    site = Site.open(folder)
    store = site_store(site, settings)
    sent = rehearsal.rehearse(site, settings, store, device=CPU, stage=fusion).shapes[0].sent
    assert [one.name for one in sent if one.part == "updates"] == [fusion.networks[0].name]
    assert not (folder / "cache").exists()


@pytest.mark.parametrize("algorithm", ["scaffold", "fedbn"])
def test_a_dry_round_of_an_algorithm_with_state(algorithm: str, folder: Path) -> None:
    settings = plan()
    federation = settings.federation.model_copy(update={"algorithm": algorithm})
    settings = settings.model_copy(update={"federation": federation})
    site = Site.open(folder)
    before = content(folder) if (folder / "keys").exists() else None
    done = rehearsal.rehearse(site, settings, site_store(site, settings), device=CPU)
    extra = [sent.name for shape in done.shapes for sent in shape.sent if sent.part == "extra"]
    assert bool(extra) == (algorithm == "scaffold")
    assert not (folder / "state").exists() and (before is None or content(folder) == before)


@pytest.mark.parametrize(
    ("encoding", "dtype", "least", "most"), [("bfloat16", "bfloat16", 2, 2), ("int8_int4", "int4", 6, 7.6)]
)
def test_an_encoding_of_fewer_bytes_sends_fewer(
    folder: Path, encoding: str, dtype: str, least: float, most: float
) -> None:
    site, settings = Site.open(folder), plan()
    federation = settings.federation.model_copy(update={"encoding": encoding})
    fewer = settings.model_copy(update={"federation": federation})
    saved = rehearsal.campaign_up_bytes(settings) / rehearsal.campaign_up_bytes(fewer)
    assert least <= saved <= most
    done = rehearsal.rehearse(site, fewer, site_store(site, fewer), device=CPU)
    updates = [sent for shape in done.shapes for sent in shape.sent if sent.part == "updates"]
    assert {sent.dtype for sent in updates} == {dtype}
    assert all(4 * sent.shape[0] / sent.size_bytes >= least for sent in updates)
    assert not (folder / "state").exists()


def test_a_plans_own_code_does_not_run_where_the_policy_refuses_it(folder: Path) -> None:
    policy(folder, 'code = ["*"]', "code = []")
    settings = plan().model_copy(update={"method": "not_installed_anywhere:Method"})
    report = checked(folder, given=settings, rehearse=True).report
    assert found(report, "refuses the plan's code").state == "warning"
    assert "not_installed_anywhere" not in sys.modules and report.exit_code == 0


def test_all_exams_held_out(folder: Path) -> None:
    site, settings = Site.open(folder), plan()
    store = site_store(site, settings)
    tensors = replace(store.tensors, fold=torch.full_like(store.tensors.fold, -1))
    with pytest.raises(DataError, match="held out"):
        rehearsal.rehearse(site, settings, replace(store, tensors=tensors), device=CPU)


def test_the_exit_code_is_that_of_the_worst_problem() -> None:
    findings = [
        ok("data", "a"),
        problem("data", DataError("b")),
        problem("policy", PolicyError("c")),
        warning("place", "d"),
    ]
    report = Report(site="north", findings=findings)
    assert report.exit_code == 5
    assert [finding.found for finding in report.ordered()] == ["a", "b", "d", "c"]
    assert Report(site="north", findings=[warning("data", "x")]).exit_code == 0


def test_the_command(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "plan.toml"
    config.write_text(
        'name = "small"\n[images.doppler]\nkind = "doppler"\n[measurements.vascularity]\nimages = ["doppler"]\n'
        "[network]\nimage_px = 16\nwidth = 4\n[training]\nlocal_steps = 2\nbatch_size = 8\n[rating]\nmodels = 1\n"
    )
    said = CliRunner().invoke(site_commands, ["check", str(folder), "--plan", str(config), "--json"])
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert document["site"] == "north" and document["exit_code"] == 0
    assert document["dry_round"]["stage"] == "scoring" and document["dry_round"]["seconds_per_round"] > 0
    with (folder / "check-sent.csv").open(newline="") as file:
        names = {row["tensor"] for row in csv.DictReader(file)}
    assert names == {name for shape in document["dry_round"]["shapes"] for name, _ in shape["tensors"]}
    shown = CliRunner().invoke(site_commands, ["check", str(folder), "--plan", str(config), "--no-rehearse"])
    assert (
        shown.exit_code == 0 and "Check of north" in shown.stdout and "What would be sent" not in shown.stdout
    )
    (folder / "grades.csv").unlink()
    broken = CliRunner().invoke(site_commands, ["check", str(folder), "--plan", str(config)])
    assert broken.exit_code == 4


def test_exams_without_grades_are_for_pretraining_or_left_out_as_the_plan_has_it(folder: Path) -> None:
    before = found(checked(folder).report, "usable exams").facts
    ungrade(folder, (0, 2, 3, 22))  # one of two exams, both exams, one of a patient who is held out
    plain, puzzles = checked(folder).report, make_settings(measurements=("vascularity",), text=PUZZLES)
    assert found(plain, "left out").facts["left_out"] == {"no reader gave a grade": 4}
    assert not any("pretraining" in finding.found for finding in plain.findings)
    report = checked(folder, given=puzzles, rehearse=True).report
    said = found(report, "have no grade")
    assert said.found == "3 more exams of 2 patients have no grade: used for pretraining by puzzles only"
    assert (said.state, said.facts["ungraded"]) == ("ok", 3)
    assert found(report, "left out").facts["left_out"] == {"no reader gave a grade": 1}
    for one in (plain, report):
        usable = found(one, "usable exams").facts
        assert (usable["exams"], usable["patients"]) == (20, 11)
        assert found(one, "vascularity: 20 exams").facts["patients"] == 11
    assert (before["exams"], before["patients"]) == (24, 12)
    assert found(report, "puzzles of gs: 20 training exams of 10 patients").state == "ok"
    assert found(report, "vascularity: 17 training exams of 9 patients").state == "ok"
    assert report.exit_code == 0
