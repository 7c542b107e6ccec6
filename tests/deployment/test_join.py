"""How a site stays joined, and what it says when it is not let in."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.connection import enrolment as site_enrolment
from client.connection.join import explain, joining, locked, state_file
from common.enrolment import Invitation
from common.errors import ConfigurationError, DataError
from server.federation import enrolment
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation
from tests.site_folders import make_site_folder

pytestmark = pytest.mark.slow


def synofed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(sys.executable).parent / "synofed"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def state(site: Path) -> str:
    return str(json.loads(state_file(site).read_text())["state"]) if state_file(site).exists() else ""


@pytest.mark.soak
@pytest.mark.ci
def test_a_site_is_let_in_when_it_is_accepted_and_shut_out_when_it_is_revoked(
    federation: Federation,
) -> None:
    site = make_site_folder(federation.site("dublin"), name="dublin", patients=3, exams_per_patient=1)
    now = datetime.now(UTC)
    invitation = enrolment.invite(federation.home.path, "dublin", now=now)
    request = site_enrolment.enrol(site, Invitation.parse(invitation.dump()), now=now).request
    early = synofed("site", "join", str(site), "--once")
    assert early.returncode == 9, early.stdout + early.stderr
    assert "does not let this site in" in early.stderr
    enrolment.accept(federation.home.path, request.dump(), now=now)
    federation.wait(lambda: "dublin may connect" in federation.said("up"), what="dublin at the SuperLink")
    federation.join("dublin", "--once")
    federation.wait(lambda: state(site) == "connected", what="a connected dublin")
    second = synofed("site", "join", str(site))
    assert second.returncode == 3
    assert "joined already" in second.stderr
    enrolment.revoke(federation.home.path, "dublin", now=datetime.now(UTC))
    federation.wait(
        lambda: federation.processes["dublin"].poll() is not None, what="the end of a revoked site"
    )
    assert federation.processes.pop("dublin").returncode == 9
    assert "revoked" in federation.said("dublin")
    again = synofed("site", "join", str(site), "--once")
    assert again.returncode == 9
    assert "has revoked the site" in again.stderr
    assert set(SITES) <= federation.online()


@pytest.mark.soak
@pytest.mark.ci
def test_a_killed_join_takes_its_processes_along_and_can_be_started_again(federation: Federation) -> None:
    name = SITES[0]
    process = federation.processes[name]
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    federation.end(name, signal.SIGKILL)
    federation.wait(lambda: not any(alive(int(child)) for child in children), what="the end of its processes")
    federation.join(name)
    federation.wait(lambda: state(federation.site(name)) == "connected", what="a site that is back")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.soak
@pytest.mark.ci
def test_a_site_that_is_not_enrolled_or_whose_keys_are_open_does_not_join(
    federation: Federation, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="enrolled"):
        joining(make_site_folder(tmp_path / "new", name="new", patients=2, exams_per_patient=1))
    key = federation.site(SITES[1]) / "keys" / "node"
    key.chmod(0o640)
    try:
        with pytest.raises(DataError, match="chmod 600"):
            joining(federation.site(SITES[1]))
    finally:
        key.chmod(0o600)


def test_one_process_a_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ConfigurationError, match=f"process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "Exit Code: 305\nFailed.\n[code: 2004] The SuperNode could not be activated.",
            "does not let this site in",
        ),
        (
            "Exit Code: 305\n[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed",
            "authority",
        ),
        ("Exit Code: 305\ncertificate verify failed: certificate has expired", "has expired"),
        ("Exit Code: 305\nClient error '401 Unauthorized'", "clock"),
        ("SuperNode terminated gracefully.", "clock"),
        ("Exit Code: 606\nIncompatible", "another version"),
        ("Traceback\nMemoryError: out of memory", "out of memory"),
    ],
)
def test_each_end_is_explained_in_one_line(printed: str, said: str) -> None:
    text = str(explain(printed, address="centre:8443", was_connected=False))
    assert said in text
    assert "\n" not in text
