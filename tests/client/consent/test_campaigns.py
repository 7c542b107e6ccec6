import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import synofed
from client.consent import campaigns, timing
from client.rounds import node
from client.site.policy import NEWEST, Policy
from client.site.site import Site
from client.state import busy, decisions
from client.state.decisions import Status
from common.errors import PolicyError
from common.messages import NetworkReply, Refusal, Signed, TrainRequest
from common.settings import Settings
from common.version import VERSION
from tests import asking
from tests.asking import Centre
from tests.full_disk import limited_files
from tests.patience import PATIENCE_S

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["synofed", "site", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return run


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre(asking.site(tmp_path / "north"))


@pytest.fixture
def approved(centre: Centre) -> Centre:
    centre.plan(centre.plan_request())
    campaigns.decide(Site.open(centre.folder), centre.settings.plan_hash(), Status.APPROVED, by="officer")
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    return centre


def test_a_campaign_runs_once_somebody_approved_it_and_stops_when_paused_or_left(
    centre: Centre, command: Command
) -> None:
    plan_hash = centre.settings.plan_hash()
    centre.refused(centre.plan(centre.plan_request()), "unapproved", says="site campaigns show FOLDER")
    centre.refused(centre.train(centre.train_request()), "unapproved", says="Nobody has approved")
    code, said = command("campaigns", "list", centre.folder, "--json")
    assert (code, [c["status"] for c in json.loads(said)]) == (0, ["waiting"])
    assert command("campaigns", "pause", centre.folder, plan_hash[:8])[0] == 5
    assert command("campaigns", "approve", centre.folder, plan_hash[:8], "--by", " ")[0] == 2
    centre.refused(centre.plan(centre.plan_request()), "unapproved", says="site campaigns show FOLDER")
    code, said = command("campaigns", "approve", centre.folder, plan_hash[:8], "--by", "Dr Ng")
    assert (code, "is approved, as Dr Ng decided" in said) == (0, True)
    consent = centre.plan(centre.plan_request())
    assert isinstance(consent, Signed)
    assert consent.reply.usable == {"hypertrophy": 18}  # of 24, six are held out
    assert isinstance(centre.train(centre.train_request()), Signed)
    assert "second one" not in said
    code, again = command("campaigns", "approve", centre.folder, plan_hash[:8], "--by", "Dr Ng")
    assert (code, "this is a second one, under which the centre may ask for every round" in again) == (
        0,
        True,
    )

    assert command("campaigns", "pause", centre.folder, plan_hash[:8])[0] == 0
    centre.refused(centre.train(centre.train_request(2)), "paused", says="is paused")
    centre.refused(centre.plan(centre.plan_request()), "paused", says="is paused")
    assert command("campaigns", "unpause", centre.folder, plan_hash[:8])[0] == 0
    assert command("campaigns", "unpause", centre.folder, plan_hash[:8])[0] == 5
    assert isinstance(centre.train(centre.train_request(2)), Signed)
    assert command("campaigns", "leave", centre.folder, plan_hash[:8])[0] == 0
    centre.refused(centre.train(centre.train_request(3)), "policy", says="has left campaign")
    centre.refused(centre.plan(centre.plan_request()), "policy", says="has left campaign")
    decided = [entry["status"] for entry in centre.log() if entry["event"] == "campaign"]
    assert decided == ["approved", "approved", "paused", "approved", "left"]
    assert command("log", "verify", centre.folder)[0] == 0
    code, said = command("log", "show", centre.folder, "--last", 100)
    assert (code, "campaign: campaign=test status=approved by=Dr Ng" in said) == (0, True)


def test_the_page_says_what_is_approved(tmp_path: Path, command: Command) -> None:
    text = '[campaign]\npurpose = "Score synovitis"\nrecipients = ["Odense", "Lyon"]'
    centre = Centre(asking.site(tmp_path / "north"), asking.settings(text))
    centre.plan(centre.plan_request())
    plan_hash = centre.settings.plan_hash()
    code, said = command("campaigns", "show", centre.folder, plan_hash[:6])
    assert code == 0
    for words in (
        plan_hash,
        "Score synovitis",
        "Odense, Lyon",
        "rating",
        "images doppler, gs",
        "column hypertrophy (3 grades)",
        "epsilon is unbounded",
        "reading gs+doppler",
        "permits this campaign",
        "hypertrophy: 18 training exams of 6 patients, for all",
        "counts in 256 bins",
        "waiting",
    ):
        assert words in said
    assert len(said.splitlines()) < 40
    asking.change_policy(centre.folder, "minimum_cohort = 2", "minimum_cohort = 5")
    code, said = command("campaigns", "show", centre.folder, plan_hash[:6])
    assert "below policy.minimum_cohort: this site would train nothing for hypertrophy (" in said
    assert "patients stand behind a network, policy.minimum_cohort is 5)" in said
    asking.change_policy(centre.folder, "maximum_rounds = 20", "maximum_rounds = 1")
    code, said = command("campaigns", "show", centre.folder, plan_hash[:6], "--json")
    assert (code, "maximum_rounds" in json.loads(said)["objection"]) == (0, True)
    assert command("campaigns", "approve", centre.folder, plan_hash[:6])[0] == 5


def test_an_id_has_to_be_of_one_campaign(centre: Centre, command: Command) -> None:
    centre.plan(centre.plan_request())
    for wrong in ("ffffff", "../..", centre.settings.plan_hash()[:3]):
        assert command("campaigns", "approve", centre.folder, wrong)[0] == 4


def test_an_approval_by_the_policy_ends_with_it(tmp_path: Path) -> None:
    centre = Centre(asking.site(tmp_path / "north", policy=asking.CAUTIOUS + 'approval = "automatic"\n'))
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    asking.change_policy(centre.folder, 'approval = "automatic"', 'approval = "each"')
    centre.refused(centre.train(centre.train_request()), "unapproved", says="Nobody has approved")


def test_the_policy_is_read_at_every_request(approved: Centre) -> None:
    assert isinstance(approved.train(approved.train_request()), Signed)
    asking.change_policy(approved.folder, "allow_unprotected = true", "allow_unprotected = false")
    approved.refused(approved.train(approved.train_request(2)), "policy", says="policy.allow_unprotected")
    events = approved.events()
    assert events[-2:] == ["policy", "refusal"]


def test_another_version_is_refused_with_both(approved: Centre) -> None:
    answer = approved.plan(replace(approved.plan_request(), version="0.0.1"))
    approved.refused(answer, "version", says="got 0.0.1")
    assert isinstance(answer, Refusal)
    assert answer.version == VERSION


NO_TORCH = """
import sys
from pathlib import Path
from common import wire
from common.messages import PlanRequest
from common.version import VERSION
from client.rounds import exchange
plan = PlanRequest(
    campaign="test", request_id="1" * 32, version=VERSION, plan=sys.argv[2], plan_hash=sys.argv[3]
)
answer = exchange.answer_plan(Path(sys.argv[1]), wire.encode(plan))
print(answer["refusal"]["code"], "torch" in sys.modules, "pandas" in sys.modules)
"""


def test_a_plan_that_is_not_approved_is_answered_without_what_trains(centre: Centre) -> None:
    plan = centre.plan_request()
    process = subprocess.run(
        [sys.executable, "-c", NO_TORCH, str(centre.folder), plan.plan, plan.plan_hash],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(synofed.__file__).parent,
    )
    assert process.stdout.split() == ["unapproved", "False", "False"]


def test_outside_its_hours_the_site_trains_nothing_and_says_when_it_does(approved: Centre) -> None:
    now = datetime.now(UTC)
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    other = days[(now.weekday() + 3) % 7]
    asking.change_policy(
        approved.folder, "maximum_rounds", f'hours = ["{other}"]\ntime_zone = "UTC"\nmaximum_rounds'
    )
    approved.refused(
        approved.train(approved.train_request()), "hours", says=f"The site trains at {other} only"
    )
    consent = approved.plan(approved.plan_request())
    assert isinstance(consent, Signed)
    start = days.index(other) * 1440
    assert consent.reply.hours == ((start, start + 1440),)


def test_what_the_policy_keeps_does_not_leave(tmp_path: Path) -> None:
    policy = asking.CAUTIOUS.replace('"counts", "losses", "score_histograms", "timings"', "")
    plan = asking.settings('rule = "median"')
    centre = Centre(asking.site(tmp_path / "north", policy=policy + 'approval = "automatic"\n'), plan)
    consent = centre.plan(centre.plan_request())
    assert isinstance(consent, Signed)
    assert consent.reply.usable == {}
    answer = centre.train(centre.train_request())
    assert isinstance(answer, Signed)
    (network,) = answer.reply.networks.values()
    assert network.update is not None
    assert np.abs(network.update).max() > 0
    assert (network.num_examples, network.histograms) == (1, None)
    assert np.isnan(network.loss)
    again = centre.plan(centre.plan_request())
    assert isinstance(again, Signed)
    assert np.isnan(again.reply.round_seconds)


def test_nothing_leaves_of_fewer_patients_than_the_cohort(tmp_path: Path) -> None:
    policy = asking.CAUTIOUS.replace("minimum_cohort = 2", "minimum_cohort = 9")
    centre = Centre(asking.site(tmp_path / "north", policy=policy + 'approval = "automatic"\n'))
    consent = centre.plan(centre.plan_request())
    assert isinstance(consent, Signed)
    assert consent.reply.usable == {"hypertrophy": 0}
    answer = centre.train(centre.train_request())
    assert isinstance(answer, Signed)
    (network,) = answer.reply.networks.values()
    assert network.update is not None
    assert not network.update.any()
    assert (network.num_examples, network.histograms) == (0, None)
    assert np.isnan(network.loss)


def test_a_reply_that_is_too_large_does_not_leave(approved: Centre) -> None:
    asking.change_policy(approved.folder, "maximum_rounds", "maximum_update_bytes = 1000\nmaximum_rounds")
    approved.refused(approved.train(approved.train_request()), "policy", says="policy.maximum_update_bytes")
    assert "reply" not in approved.events()


def test_the_seconds_of_a_round_are_told(approved: Centre) -> None:
    assert isinstance(approved.train(approved.train_request()), Signed)
    consent = approved.plan(approved.plan_request())
    assert isinstance(consent, Signed)
    assert consent.reply.round_seconds == timing.typical(approved.folder, approved.settings.plan_hash()) > 0
    for seconds in range(1, 20):
        timing.add(approved.folder, approved.settings.plan_hash(), float(seconds))
    assert timing.typical(approved.folder, approved.settings.plan_hash()) == 15.0


@pytest.mark.parametrize(
    ("way", "shares", "answered"),
    [("refuse", [1], False), ("smaller_batch", [1, 2, 4], True), ("cpu", [1], False)],
)
def test_a_device_without_memory(
    approved: Centre, monkeypatch: pytest.MonkeyPatch, way: str, shares: list[int], answered: bool
) -> None:
    """The fault is thrown where a device throws it: nothing else stands in for the site's own code."""
    asking.change_policy(approved.folder, "maximum_rounds", f'out_of_memory = "{way}"\nmaximum_rounds')
    tried: list[int] = []
    batch = approved.settings.training.batch_size

    def train_some(
        site: Site, request: TrainRequest, works: Sequence[node._Work], settings: Settings
    ) -> dict[str, NetworkReply]:
        size = works[0].local.training.batch_size
        tried.append(batch // size)
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return original(site, request, works, settings)

    original = node._train_some
    monkeypatch.setattr(node, "_train_some", train_some)
    answer = approved.train(approved.train_request())
    assert tried == shares
    if answered:
        assert isinstance(answer, Signed)
        assert "too little memory for batches of 1/2" in approved.text_log()
    else:
        approved.refused(answer, "memory", says="set policy.out_of_memory")


def _hold(folder: Path, held: object, done: object) -> None:
    descriptor = os.open(folder / ".working", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    held.set()  # type: ignore[attr-defined]
    done.wait(PATIENCE_S)  # type: ignore[attr-defined]


def test_while_another_process_works_for_the_site_it_is_busy(tmp_path: Path) -> None:
    centre = Centre(asking.site(tmp_path / "north"))
    spawn = multiprocessing.get_context("fork")
    held, done = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(centre.folder, held, done))
    other.start()
    try:
        assert held.wait(PATIENCE_S)
        (centre.folder / "federation.json").write_text("{}", encoding="utf-8")
        centre.refused(centre.plan(centre.plan_request()), "busy", says="Another process works for the site")
    finally:
        done.set()
        other.join(60)
        other.kill()
    with busy.working(centre.folder), busy.working(centre.folder):
        pass
    centre.refused(centre.plan(centre.plan_request()), "policy", says="there is no")


def test_a_full_disk_is_a_refusal_and_once_there_is_room_all_goes_on(approved: Centre) -> None:
    with limited_files((approved.folder / "audit.jsonl").stat().st_size + 2000):
        answer = approved.train(approved.train_request())
    approved.refused(answer, "storage", says="Free some space; the centre asks again")
    outbox = approved.folder / "outbox"
    assert len([path for path in outbox.iterdir() if not path.name.startswith(".")]) == 1  # the consent
    assert not [path for path in outbox.iterdir() if path.name.startswith(".")]
    assert isinstance(approved.train(approved.train_request()), Signed)


def test_a_full_disk_where_the_log_is(approved: Centre) -> None:
    log = approved.folder / "audit.jsonl"
    before = log.read_bytes()
    with limited_files(len(before) + 20):
        answer = approved.train(approved.train_request())
    assert isinstance(answer, Refusal)
    assert answer.code == "storage"
    assert log.read_bytes() == before
    assert isinstance(approved.train(approved.train_request()), Signed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
def test_a_gpu_that_is_not_there_is_said_before_a_round(approved: Centre) -> None:
    toml = approved.folder / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + '\n[compute]\ndevice = "cuda"\n', encoding="utf-8")
    approved.refused(approved.plan(approved.plan_request()), "configuration", says="torch sees 0")


def test_plans_cannot_be_decided_on_that_were_never_asked_for(centre: Centre) -> None:
    with pytest.raises(PolicyError, match="that this site was asked about"):
        campaigns.decide(Site.open(centre.folder), "a" * 64, Status.APPROVED, by="x")


def test_a_plan_of_another_name_is_the_same_campaign(approved: Centre) -> None:
    other = approved.settings.model_copy(update={"name": "other"})
    assert isinstance(approved.plan(approved.plan_request(other)), Signed)
    (state,) = decisions.listed(Site.open(approved.folder)).values()
    assert state.names == ("test", "other")


def test_outbox_lists_and_shows_what_left(approved: Centre, command: Command) -> None:
    request = approved.train_request()
    assert isinstance(approved.train(request), Signed)
    code, said = command("outbox", "list", approved.folder, "--json")
    rows = json.loads(said)
    assert code == 0
    assert [row["round"] for row in rows if row["id"] == request.request_id] == [1]
    code, said = command("outbox", "show", approved.folder, request.request_id)
    assert (code, "and the receipt bear it out" in said) == (0, True)
    code, said = command("outbox", "show", approved.folder, request.request_id, "--json")
    told = json.loads(said)
    (update,) = [t for t in told["tensors"] if t["name"].startswith("updates/")]
    assert update["norm"] > 0
    assert told["problem"] == ""
    assert command("outbox", "show", approved.folder, "0" * 32)[0] == 4

    place = approved.folder / "outbox" / f"{request.request_id}.reply"
    whole = place.read_bytes()
    place.write_bytes(whole[:-5000] + b"\x01" + whole[-4999:])
    assert command("outbox", "show", approved.folder, request.request_id)[0] == 8
    code, said = command("outbox", "list", approved.folder)
    assert (code, "damaged" in said) == (0, True)
    again = approved.train(request)  # computed again, the same
    assert isinstance(again, Signed)
    place.write_bytes(whole)
    approved.folder.joinpath("audit.jsonl").write_bytes(b"")
    assert command("outbox", "show", approved.folder, request.request_id)[0] == 8


def test_policy_commands(tmp_path: Path, command: Command) -> None:
    folder = asking.site(tmp_path / "north")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery\n", encoding="utf-8")
    key = tmp_path / "officer.pem"
    assert "needs no signature" in command("policy", "show", folder)[1]
    (folder / "federation.json").write_text("{}", encoding="utf-8")
    assert "Every request is refused" in command("policy", "show", folder)[1]
    assert command("policy", "officer-key", key, "--passphrase-file", passphrase)[0] == 0
    code, said = command("policy", "sign", folder, "--key", key, "--passphrase-file", passphrase)
    assert (code, "serial 1" in said) == (0, True)
    code, said = command("policy", "show", folder, "--json")
    assert (code, json.loads(said)["state"].startswith("Signed at")) == (0, True)
    passphrase.write_text("another passphrase\n", encoding="utf-8")
    assert command("policy", "sign", folder, "--key", key, "--passphrase-file", passphrase)[0] == 8


def test_the_example_is_the_policy_that_permits_nothing() -> None:
    root = Path(synofed.__file__).parent
    example = tomllib.loads((root / "configs" / "site.example.toml").read_text(encoding="utf-8"))
    assert Policy.model_validate(example["policy"]) == Policy(version=NEWEST)
    assert set(example["policy"]) | {"maximum_epsilon", "maximum_delta", "hours", "time_zone"} == set(
        Policy.model_fields
    )
