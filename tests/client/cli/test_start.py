"""The walk from an invitation to a joined site: what waits is named, what is done stays."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

import synofed
from client.cli.start import command as start_cli
from client.cli.start import steps as start_steps
from client.cli.start.steps import STEPS, Given, Step
from client.connection import enrolment as site_enrolment
from client.connection import join
from client.data.doctor import check as doctor
from client.site import officer, policy_file, site_toml
from client.site.site import Site
from common.errors import ConfigurationError
from server.federation import enrolment
from server.federation.certificates import read_authority
from server.federation.home import Home
from server.federation.registry import Registry
from tests.client.check.test_check_connection import Centre
from tests.client.connection.test_service import Machine
from tests.enrolling import make_home
from tests.site_folders import make_site_folder, read_table, write_table

PASSPHRASE = "correct horse battery"
POLICY = (
    'version = 2\nallow_unprotected = true\nmethods = ["rating"]\nmetrics = ["counts"]\nminimum_cohort = 2\n'
)
NAMES = [name for name, _, _ in STEPS]


@dataclass(frozen=True)
class Walked:
    """How a run of the command ended."""

    code: int
    steps: dict[str, dict[str, Any]]
    said: str

    @property
    def states(self) -> list[str]:
        return [str(step["state"]) for step in self.steps.values()]


@dataclass
class Hospital:
    """A site's machine, and the centre that it was invited by."""

    home: Home
    address: str
    base: Path
    capsys: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    @property
    def folder(self) -> Path:
        return self.base / "north"

    @property
    def data(self) -> Path:
        return self.base / "data"

    def invited(self, name: str = "north") -> Path:
        """The file that the centre sends."""
        made = enrolment.invite(self.home.path, name, now=datetime.now(UTC))
        place = self.base / f"{name}.invitation.json"
        place.write_text(made.model_copy(update={"address": self.address}).dump(), encoding="utf-8")
        return place

    def accepted(self) -> None:
        """The centre takes the request."""
        request = site_enrolment.request_file(self.folder).read_text(encoding="utf-8")
        enrolment.accept(self.home.path, request, now=datetime.now(UTC))

    def permits(self) -> None:
        """The site's people fill in the policy."""
        toml = self.folder / "site.toml"
        head, _, rest = toml.read_text(encoding="utf-8").partition("[policy]\n")
        tail = rest[rest.index("\n[peers]") :]
        toml.write_text(f"{head}[policy]\n{POLICY}{tail}", encoding="utf-8")

    def officer(self) -> list[str]:
        """The options that sign."""
        key, passphrase = self.base / "officer.pem", self.base / "passphrase"
        if not key.exists():
            officer.make(key, passphrase=PASSPHRASE)
            passphrase.write_text(PASSPHRASE + "\n", encoding="utf-8")
        return ["--officer-key", str(key), "--passphrase-file", str(passphrase)]

    def start(self, *arguments: object) -> Walked:
        code, output, errors = self.run(*arguments, "--json")
        assert code != 1, errors
        document = json.loads(output) if output else {"steps": []}
        return Walked(code=code, steps={s["name"]: s for s in document["steps"]}, said=errors)

    def run(self, *arguments: object) -> tuple[int, str, str]:
        words = ["synofed", "site", "start", *map(str, arguments), "--no-rehearse"]
        self.patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = self.capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err


@pytest.fixture
def hospital(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hospital]:
    """A provisioned centre that lets in whom its registry has; data in a folder of their own."""
    home = make_home(tmp_path / "home", now=datetime.now(UTC))
    make_site_folder(tmp_path / "data", name="data", patients=6, exams_per_patient=2, held_out_patients=2)
    (tmp_path / "data" / "site.toml").unlink()

    def lets_in(folder: Path) -> bool:
        key = (folder / "keys" / "node.pub").read_text(encoding="utf-8").strip()
        return key in {site.node_key for site in Registry.open(home.path).registered()}

    monkeypatch.setattr(join, "is_let_in", lets_in)
    monkeypatch.chdir(tmp_path)
    with Centre(read_authority(home)).listening(tmp_path) as address:
        yield Hospital(home, address, tmp_path, capsys, monkeypatch)


def test_the_walk_from_an_invitation_until_ready_to_join(hospital: Hospital) -> None:
    invitation = hospital.invited()
    first = hospital.start(invitation)
    assert (first.code, first.states) == (4, ["done", *["waiting"] * 6]), first.said
    assert "send north/request.json to the centre" in first.steps["centre"]["todo"]
    assert "synofed data ingest EXPORT" in first.steps["data"]["todo"]
    assert "[policy] of north/site.toml" in first.steps["policy"]["todo"]
    keys = (hospital.folder / "keys" / "node").read_bytes()
    hospital.permits()
    unsigned = hospital.start(invitation, "--data", hospital.data)
    assert (unsigned.code, unsigned.steps["policy"]["state"]) == (5, "waiting")
    assert "synofed site policy sign north --key officer.pem" in unsigned.steps["policy"]["todo"]
    assert (unsigned.steps["data"]["state"], unsigned.steps["data check"]["state"]) == ("done", "done")
    signed = hospital.start(invitation, *hospital.officer())
    states = dict.fromkeys(NAMES, "done") | {"centre": "waiting", "join": "waiting"}
    assert (signed.code, dict(zip(NAMES, signed.states, strict=True))) == (0, states), signed.steps
    hospital.accepted()
    invitation.unlink()
    ready = hospital.start(hospital.folder)
    assert (ready.code, ready.states) == (0, [*["done"] * 6, "waiting"])
    assert ready.steps["join"]["said"] == "ready to join"
    assert ready.steps["join"]["todo"].startswith("synofed site join")
    assert policy_file.check(Site.open(hospital.folder)).serial == 1
    assert (hospital.folder / "keys" / "node").read_bytes() == keys


def test_with_everything_at_hand_one_run_goes_until_ready_to_join(hospital: Hospital) -> None:
    make_site_folder(hospital.folder, name="north", patients=6, exams_per_patient=2, held_out_patients=2)
    done = hospital.start(hospital.invited(), "--yes", *hospital.officer())
    assert (done.code, done.states) == (0, ["done", "waiting", *["done"] * 4, "waiting"]), done.steps
    hospital.accepted()
    code, shown, _ = hospital.run(hospital.folder)
    assert code == 0
    lines = shown.splitlines()
    assert [line[:3] for line in lines[:7]] == [*["[x]"] * 6, "[ ]"]
    assert "ready to join" in lines[6]
    assert lines[-1] == f"Then, or at any time: synofed site start {hospital.folder}"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("broken", NAMES)
def test_interrupted_anywhere_it_goes_on(hospital: Hospital, broken: str, when: str) -> None:
    invitation = hospital.invited()
    hospital.start(invitation)
    hospital.permits()
    hospital.accepted()
    options = [invitation, "--data", hospital.data, *hospital.officer()]

    def interrupted(take: Callable[[Given], Step]) -> Callable[[Given], Step]:
        def taken(given: Given) -> Step:
            if when == "after":
                take(given)
            raise KeyboardInterrupt

        return taken

    with hospital.patch.context() as patched:
        steps = tuple((n, interrupted(t) if n == broken else t, needs) for n, t, needs in STEPS)
        patched.setattr(start_steps, "STEPS", steps)
        code, _, _ = hospital.run(*options)
        assert code == 130
        patched.undo()
    again = hospital.start(*options)
    assert (again.code, again.states) == (0, [*["done"] * 6, "waiting"]), again.steps
    assert policy_file.check(Site.open(hospital.folder)).serial == 1
    assert again.states == hospital.start(hospital.folder).states


def test_what_was_done_is_not_done_again(hospital: Hospital) -> None:
    invitation = hospital.invited()
    hospital.start(invitation)
    hospital.permits()
    options = ["--data", hospital.data, *hospital.officer()]
    hospital.start(invitation, *options)
    names = ("site.toml", "policy.sig", "request.json", "federation.json", "audit.jsonl", "keys/officer.pub")
    files = [*(hospital.folder / name for name in names), hospital.data / "check.csv"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    hospital.start(invitation, *options)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


def test_an_invitation_that_does_not_fit_is_refused(hospital: Hospital) -> None:
    hospital.start(hospital.invited())
    before = {path: path.read_bytes() for path in hospital.folder.rglob("*") if path.is_file()}
    other = hospital.start(hospital.invited("south"), "--folder", hospital.folder)
    assert (other.code, other.steps) == (3, {})
    assert "Expected the folder of site south" in other.said
    broken = hospital.base / "broken.json"
    broken.write_text("{}", encoding="utf-8")
    assert hospital.start(broken).code == 3
    nowhere = hospital.start(hospital.base / "nowhere.json")
    assert (nowhere.code, "Expected an invitation at" in nowhere.said) == (4, True)
    nothing = hospital.start(hospital.base / "home")
    assert (nothing.code, "no federation.json in" in nothing.said) == (4, True)
    assert {path: path.read_bytes() for path in hospital.folder.rglob("*") if path.is_file()} == before


def test_an_invitation_counts_until_it_expires_and_a_folder_made_with_it_longer(hospital: Hospital) -> None:
    invitation = hospital.invited()
    text = json.loads(invitation.read_text(encoding="utf-8"))
    expired = text | {"expires": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
    invitation.write_text(json.dumps(expired), encoding="utf-8")
    refused = hospital.start(invitation)
    assert (refused.code, "The invitation expired on" in refused.said) == (3, True)
    invitation.write_text(json.dumps(text), encoding="utf-8")
    hospital.start(invitation)
    invitation.write_text(json.dumps(expired), encoding="utf-8")
    assert hospital.start(invitation).steps["folder"]["state"] == "done"
    newer = hospital.start(hospital.invited())  # with another code
    assert newer.steps["folder"]["state"] == "done"
    (hospital.folder / "keys" / "node").unlink()
    assert "made keys/node" in hospital.start(hospital.invited()).steps["folder"]["said"]


def test_a_centre_that_cannot_be_reached_is_a_failure_and_the_rest_goes_on(hospital: Hospital) -> None:
    hospital.address = "127.0.0.1:9"
    done = hospital.start(hospital.invited(), "--data", hospital.data)
    assert (done.code, done.steps["centre"]["state"]) == (9, "failed")
    assert "Nothing listens at 127.0.0.1:9" in done.steps["centre"]["said"]
    assert "send north/request.json" in done.steps["centre"]["todo"]
    assert done.steps["data check"]["state"] == "done"


def test_data_are_checked_until_they_are_clean(hospital: Hospital) -> None:
    hospital.start(hospital.invited())
    empty = hospital.start(hospital.folder, "--data", hospital.base / "home")
    assert (empty.code, empty.steps["data"]["state"]) == (4, "failed")
    assert Site.open(hospital.folder).data_folder == hospital.folder
    rows = read_table(hospital.data / "manifest.csv")
    write_table(hospital.data / "manifest.csv", [*rows, rows[0]])
    twice = hospital.start(hospital.folder, "--data", hospital.data)
    assert (twice.code, twice.steps["data check"]["state"]) == (4, "waiting")
    assert str(hospital.data / "check.csv") in twice.steps["data check"]["todo"]
    assert hospital.start(hospital.folder).steps["data check"]["said"] == twice.steps["data check"]["said"]
    write_table(hospital.data / "manifest.csv", rows)
    lines = (hospital.data / "grades.csv").read_text(encoding="utf-8").splitlines()
    exam = lines[1].split(",")[0]
    contradiction = f"{exam},r1,1,0,3"  # flow without hypertrophy
    odd_grades = "\n".join([lines[0], contradiction, *lines[2:]]) + "\n"
    (hospital.data / "grades.csv").write_text(odd_grades, encoding="utf-8")
    hospital.permits()
    left = hospital.start(hospital.folder, *hospital.officer())
    assert left.code == 4
    assert left.steps["data check"]["state"] == "waiting"
    assert left.steps["check"]["state"] == "done"  # the site could take part: that is for people to say
    assert left.steps["join"]["said"] == "after data check"
    with join.locked(hospital.folder):  # by hand, as the guide says
        noted = {"state": "connected", "reason": "", "since": "today", "address": hospital.address}
        join.state_file(hospital.folder).write_text(json.dumps(noted), encoding="utf-8")
        by_hand = hospital.start(hospital.folder)
    assert (by_hand.code, by_hand.steps["join"]["said"]) == (4, "connected since today")
    (hospital.data / "grades.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert hospital.start(hospital.folder).steps["data check"]["state"] == "done"
    before = (hospital.data / "check.csv").stat().st_mtime_ns
    assert hospital.start(hospital.folder).steps["data check"]["state"] == "done"
    assert (hospital.data / "check.csv").stat().st_mtime_ns == before
    (hospital.data / "check.csv").write_text("something else\n1\n", encoding="utf-8")
    odd = hospital.start(hospital.folder).steps["data check"]
    assert (odd["state"], odd["exit_code"]) == ("failed", 4)


def test_a_policy_is_signed_by_its_officer_alone(hospital: Hospital) -> None:
    hospital.start(hospital.invited())
    nothing = hospital.start(hospital.folder, *hospital.officer())  # nobody signs what permits nothing
    assert (nothing.steps["policy"]["state"], nothing.steps["policy"]["exit_code"]) == ("waiting", 5)
    assert not (hospital.folder / "policy.sig").exists()
    hospital.permits()
    assert hospital.start(hospital.folder, *hospital.officer()).steps["policy"]["state"] == "done"
    toml = hospital.folder / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("minimum_cohort = 2", "minimum_cohort = 3"))
    changed = hospital.start(hospital.folder).steps["policy"]
    assert (changed["state"], "is not the one that was signed" in changed["said"]) == ("waiting", True)
    officer.make(hospital.base / "other.pem", passphrase=PASSPHRASE)
    other = ["--officer-key", hospital.base / "other.pem", "--passphrase-file", hospital.base / "passphrase"]
    refused = hospital.start(hospital.folder, *other).steps["policy"]
    assert (refused["state"], refused["exit_code"]) == ("failed", 5)
    (hospital.base / "passphrase").write_text("another passphrase\n")
    wrong = hospital.start(hospital.folder, *hospital.officer()).steps["policy"]
    assert (wrong["state"], wrong["exit_code"]) == ("failed", 8)


def test_a_site_that_runs_says_so(hospital: Hospital) -> None:
    make_site_folder(hospital.folder, name="north", patients=6, exams_per_patient=2, held_out_patients=2)
    hospital.start(hospital.invited(), *hospital.officer())
    with join.locked(hospital.folder):
        noted = {"state": "waiting", "reason": "The centre does not let this site in", "since": "today"}
        join.state_file(hospital.folder).write_text(json.dumps(noted), encoding="utf-8")
        waits = hospital.start(hospital.folder)
        assert (waits.code, waits.states) == (0, ["done", "waiting", *["done"] * 5])
        assert "does not let this site in" in waits.steps["centre"]["said"]
        federation = hospital.folder / "federation.json"
        moved = federation.read_text(encoding="utf-8")
        federation.write_text(moved.replace(hospital.address, "127.0.0.1:9"), encoding="utf-8")
        away = hospital.start(hospital.folder)  # it is more than the centre that is waited for
        assert (away.code, away.steps["centre"]["state"]) == (9, "failed")
        federation.write_text(moved, encoding="utf-8")
        noted |= {"state": "connected", "reason": "", "address": hospital.address}
        join.state_file(hospital.folder).write_text(json.dumps(noted), encoding="utf-8")
        code, shown, _ = hospital.run(hospital.folder)
    assert (code, [line[:3] for line in shown.splitlines()[:7]]) == (0, ["[x]"] * 7)
    assert "Nothing is left to do here but to decide about campaigns" in shown


def test_the_service_is_set_up_at_the_end_and_not_before(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hospital.base / "bin").mkdir()
    machine = Machine(hospital.base / "bin", monkeypatch)
    machine.has_crontab()
    hospital.start(hospital.invited(), "--cron", "--data", hospital.data)
    assert machine.table.read_text() == ""
    hospital.permits()
    done = hospital.start(hospital.folder, "--cron", *hospital.officer())
    assert (done.code, done.states) == (0, ["done", "waiting", *["done"] * 5])
    assert "The site starts within 5 minutes" in done.steps["join"]["todo"]
    assert f"site join {hospital.folder.resolve()}" in machine.table.read_text()


@pytest.mark.parametrize(
    "options", [["--systemd", "--cron"], ["--officer-key", "officer.pem"]], ids=lambda given: given[0]
)
def test_options_that_do_not_go_together_are_refused(hospital: Hospital, options: list[str]) -> None:
    assert hospital.run(hospital.invited(), *options)[0] == 2
    assert not hospital.folder.exists()


def test_on_a_terminal_it_asks(hospital: Hospital) -> None:
    hospital.start(hospital.invited())
    hospital.permits()
    hospital.officer()
    given = Given(
        folder=hospital.folder, invitation=None, data=None, officer_key=None, passphrase_file=None,
        service=None, rehearse=False, ask=True, quiet=True,
    )  # fmt: skip
    questions: list[str] = []
    answers = {
        "Data folder": str(hospital.data),
        "The privacy officer's key file": str(hospital.base / "officer.pem"),
        "Passphrase": PASSPHRASE,
    }

    def answered(question: str, **named: object) -> str:
        questions.append(question)
        return next((answer for start, answer in answers.items() if question.startswith(start)), "")

    def agreed(question: str, **named: object) -> bool:
        questions.append(question)
        return "Sign" in question

    hospital.patch.setattr(typer, "prompt", answered)
    hospital.patch.setattr(typer, "confirm", agreed)
    steps = {step.name: step for step in start_steps.walk(given)}
    assert [step.state for step in steps.values()] == ["done", "waiting", *["done"] * 4, "waiting"]
    assert len(questions) == 5  # data, key, consent to what is signed, passphrase, start at boot
    assert "Permits rating" in questions[2]
    questions.clear()
    later = [step.state for step in start_steps.walk(replace(given, ask=False))]
    assert (later, questions) == ([step.state for step in steps.values()], [])
    assert start_cli.MARKS.keys() == {"done", "waiting", "failed"}


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ('name = "n"\n', 'name = "n"\n\n[data]\nfolder = "/d"\n'),
        ('name = "n"\n[data]\ngrades = "g.csv"\n', 'name = "n"\n[data]\nfolder = "/d"\ngrades = "g.csv"\n'),
        (
            'name = "n"\n[data]\nfolder = "."  # here\n[policy]\n',
            'name = "n"\n[data]\nfolder = "/d"  # here\n[policy]\n',
        ),
        ("name = 'n'\n[data]\nfolder='x'\n", "name = 'n'\n[data]\nfolder = \"/d\"\n"),
    ],
)
def test_a_text_of_site_toml_is_set_where_it_stands(tmp_path: Path, text: str, becomes: str) -> None:
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    site = Site.open(tmp_path)
    data = site.file.data.model_copy(update={"folder": Path("/d")})
    expected = site.file.model_copy(update={"data": data})
    assert site_toml.set_text(site, "data", "folder", "/d", expected=expected).data_folder == Path("/d")
    assert (tmp_path / "site.toml").read_text(encoding="utf-8") == becomes


def test_what_cannot_be_set_alone_stays(tmp_path: Path) -> None:
    text = 'name = "n"\ndata = { folder = "x" }\n'
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    site = Site.open(tmp_path)
    data = site.file.data.model_copy(update={"folder": Path("/d")})
    with pytest.raises(ConfigurationError, match="by hand"):
        site_toml.set_text(site, "data", "folder", "/d", expected=site.file.model_copy(update={"data": data}))
    assert (tmp_path / "site.toml").read_text(encoding="utf-8") == text


def test_the_list_of_the_doctor_is_read_as_it_is_written(hospital: Hospital) -> None:
    rows = read_table(hospital.data / "manifest.csv")
    write_table(hospital.data / "manifest.csv", [*rows, rows[0]])
    report = doctor.check(hospital.data)
    doctor.write(report, hospital.data / "check.csv")
    assert start_steps._listed(hospital.data / "check.csv").count("problem") == report.problems > 0
