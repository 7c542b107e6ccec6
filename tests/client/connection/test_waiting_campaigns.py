"""Campaigns that wait are said once and told once, and nothing of that stops the site or leaves it."""

import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.connection import enrolment as site_enrolment
from client.connection.looking import Looking
from client.connection.waiting_campaigns import WaitingCampaigns
from client.consent import campaigns
from client.site.site import Site
from client.state.decisions import Status
from common.errors import ConfigurationError
from common.machine.processes import Backoff
from common.messages import Refusal
from server.federation import enrolment
from tests import asking
from tests.asking import Centre
from tests.enrolling import make_home
from tests.patience import PATIENCE_S, wait_for

TELL = """\
import json, os, sys
given = {name: value for name, value in os.environ.items() if name.startswith("SYNOFED_")}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(given) + chr(10))
print("told", sys.argv[2:])
"""


@pytest.fixture
def asked(tmp_path: Path) -> Centre:
    """A site that was asked about a campaign on which nobody has decided."""
    centre = Centre(asking.site(tmp_path / "north"))
    assert isinstance(centre.plan(centre.plan_request()), Refusal)
    return centre


def notify(folder: Path, command: Sequence[object]) -> None:
    toml = folder / "site.toml"
    text = toml.read_text(encoding="utf-8").partition("\n[notify]")[0]
    listed = json.dumps([str(word) for word in command])
    toml.write_text(f"{text}\n[notify]\ncommand = {listed}\n", encoding="utf-8")


def looking(folder: Path, said: list[str], *, limit_s: float = PATIENCE_S) -> Looking:
    soon = Backoff(first_s=1e-3, longest_s=1e-3)
    return Looking(folder, WaitingCampaigns(folder, said.append, backoff=soon, every_s=0.0, limit_s=limit_s))


def until(looks: Looking, said: list[str], text: str, *, times: int = 1) -> None:
    def found() -> bool:
        looks.look()
        return sum(text in line for line in said) >= times

    wait_for(found, told=lambda: f"{text!r} in {said}")


def mark(centre: Centre) -> Path:
    return centre.folder / "campaigns" / centre.settings.plan_hash() / "notified"


def test_a_campaign_that_waits_is_said_once_a_start(asked: Centre) -> None:
    for _ in range(2):
        said: list[str] = []
        looks = looking(asked.folder, said)
        for _ in range(3):
            looks.look()
        short = asked.settings.plan_hash()[:12]
        assert said == [
            f"campaign test waits for a decision: synofed site campaigns show {asked.folder} {short}"
        ]
        assert not mark(asked).exists()


def test_a_campaign_that_was_decided_on_is_not_said(asked: Centre, tmp_path: Path) -> None:
    told = tmp_path / "told"
    notify(asked.folder, [sys.executable, "-c", TELL, told])
    campaigns.decide(Site.open(asked.folder), asked.settings.plan_hash(), Status.LEFT, by="officer")
    said: list[str] = []
    looks = looking(asked.folder, said)
    for _ in range(3):
        looks.look()
    assert (said, told.exists(), looks._running) == ([], False, None)


def test_the_command_runs_once_a_campaign_over_all_starts(asked: Centre, tmp_path: Path) -> None:
    told = tmp_path / "told"
    notify(asked.folder, [sys.executable, "-c", TELL, told, "$HOME", "; false", "*"])
    before = asked.log()
    said: list[str] = []
    looks = looking(asked.folder, said)
    until(looks, said, "has told of campaign")
    assert mark(asked).exists()
    again: list[str] = []
    restarted = looking(asked.folder, again)
    for one in (looks, restarted):
        for _ in range(3):
            one.look()
            assert one._running is None
    assert len(again) == 1
    (line,) = told.read_text(encoding="utf-8").splitlines()
    mine = {name: value for name, value in os.environ.items() if name.startswith("SYNOFED_")}
    assert json.loads(line) == {
        **mine,
        "SYNOFED_CAMPAIGN": "test",
        "SYNOFED_PLAN_HASH": asked.settings.plan_hash(),
        "SYNOFED_SITE": "north",
        "SYNOFED_SITE_FOLDER": str(asked.folder.resolve()),
    }
    printed = (asked.folder / "flower" / "notify.log").read_text(encoding="utf-8")
    assert printed == "told ['$HOME', '; false', '*']\n"  # no shell has read them
    assert asked.log() == before
    assert isinstance(asked.plan(asked.plan_request()), Refusal)  # still waits: telling decides nothing


def test_a_second_campaign_is_told_after_the_first(asked: Centre, tmp_path: Path) -> None:
    told = tmp_path / "told"
    notify(asked.folder, [sys.executable, "-c", TELL, told])
    other = asking.settings("quorum = 1\n")
    asked.plan(asked.plan_request(other))
    said: list[str] = []
    until(looking(asked.folder, said), said, "has told of campaign", times=2)
    hashes = {json.loads(line)["SYNOFED_PLAN_HASH"] for line in told.read_text().splitlines()}
    assert hashes == {asked.settings.plan_hash(), other.plan_hash()}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([sys.executable, "-c", "import sys; print('no mail today'); sys.exit(3)"], "ended with code 3"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"], "ended with code -15"),
        (["/nowhere/tell"], "could not be started"),
    ],
)
def test_a_command_that_fails_is_said_and_tried_again(
    asked: Centre, command: list[str], says: str, tmp_path: Path
) -> None:
    notify(asked.folder, command)
    said: list[str] = []
    looks = looking(asked.folder, said)
    until(looks, said, says, times=2)
    assert not mark(asked).exists()
    assert not any("no mail today" in line for line in said)
    notify(asked.folder, [sys.executable, "-c", TELL, tmp_path / "told"])  # put right while the site runs
    until(looks, said, "has told of campaign")
    assert mark(asked).exists()


def test_a_command_that_does_not_end_is_stopped(asked: Centre) -> None:
    notify(asked.folder, ["sleep", "100000"])
    said: list[str] = []
    looks = looking(asked.folder, said, limit_s=0.0)
    looks.look()
    assert looks._running is not None
    process = looks._running[1].process
    assert process is not None
    until(looks, said, "had not ended after 0 s and was stopped")
    looks.stop()  # the next try
    assert process.poll() is not None
    assert not mark(asked).exists()


def test_a_site_that_ends_takes_its_command_along(asked: Centre) -> None:
    notify(asked.folder, ["sleep", "100000"])
    looks = looking(asked.folder, [])
    looks.look()
    assert looks._running is not None
    process = looks._running[1].process
    looks.stop()
    assert process is not None
    assert process.poll() is not None


def test_files_that_cannot_be_read_stop_nothing(asked: Centre) -> None:
    said: list[str] = []
    state = asked.folder / "campaigns" / asked.settings.plan_hash() / "state.json"
    state.write_text("{", encoding="utf-8")
    looking(asked.folder, said).look()
    (asked.folder / "site.toml").write_text("[", encoding="utf-8")
    looking(asked.folder, said).look()
    assert said == []


@pytest.mark.parametrize("command", ['"mail"', '[""]', '["a\\u0000b"]', "[1]"])
def test_what_is_no_command_is_refused(asked: Centre, command: str) -> None:
    with (asked.folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[notify]\ncommand = {command}\n")
    with pytest.raises(ConfigurationError, match="notify"):
        Site.open(asked.folder)


def test_the_documented_script_sends_a_mail(asked: Centre, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "hospital.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(import os, smtplib.*?)```", text, re.DOTALL)
    came.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OneMail) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        local = script.replace('"mail.hospital.example", 25', f'"127.0.0.1", {server.server_address[1]}')
        (tmp_path / "tell.py").write_text(local, encoding="utf-8")
        notify(asked.folder, [sys.executable, tmp_path / "tell.py", "privacy@hospital.example"])
        said: list[str] = []
        until(looking(asked.folder, said), said, "the command of [notify]")
        server.shutdown()
    assert "has told of campaign" in said[-1], (asked.folder / "flower" / "notify.log").read_text()
    mail = "\n".join(came)
    assert "Subject: Campaign test waits at north" in mail
    assert "To: privacy@hospital.example" in mail
    assert f"site campaigns show {asked.folder} {asked.settings.plan_hash()[:12]}" in mail.replace("=\n", "")


came: list[str] = []
"""Lines of the mail."""


class OneMail(socketserver.StreamRequestHandler):
    """What a mail server says while a mail comes."""

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        in_mail = False
        for line in self.rfile:
            word = line.strip().lower()
            came.append(line.decode().rstrip())
            if not in_mail or word == b".":
                in_mail = word == b"data"
                self.wfile.write(
                    {b"data": b"354 go on\r\n", b"quit": b"221 bye\r\n"}.get(word, b"250 ok\r\n")
                )


@pytest.mark.slow
def test_join_tells_while_it_tries_to_connect(asked: Centre, tmp_path: Path) -> None:
    told = tmp_path / "told"
    notify(asked.folder, [sys.executable, "-c", TELL, told])
    now = datetime.now(UTC)
    home = make_home(tmp_path / "home", address="127.0.0.1:9", now=now)
    site_enrolment.enrol(asked.folder, enrolment.invite(home.path, "north", now=now), now=now)
    command = [sys.executable, "-m", "synofed", "site", "join", str(asked.folder)]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as join:
        try:
            wait_for(mark(asked).exists, told=(tmp_path / "out").read_text)
        finally:
            join.send_signal(signal.SIGTERM)
            join.wait(timeout=PATIENCE_S)
    printed = (tmp_path / "out").read_text(encoding="utf-8")
    assert printed.count("campaign test waits for a decision: synofed site campaigns show") == 1
    assert "has told of campaign" in printed
    assert "waits for a decision" in asked.text_log()
    assert len(told.read_text(encoding="utf-8").splitlines()) == 1
