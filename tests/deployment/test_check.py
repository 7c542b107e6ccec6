"""The check of a site against a real centre, and a join that cannot reach one."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client import chain, enrolment
from common.enrolment import Invitation
from server.enrolment import invite
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation, free_port
from tests.site_folders import make_site_folder

pytestmark = pytest.mark.slow


def test_a_joined_site_is_checked_and_nothing_is_sent(federation: Federation) -> None:
    site = federation.site(SITES[1])
    log = site / chain.NAME
    before, outbox = log.read_bytes(), sorted((site / "outbox").glob("*"))
    command = [
        sys.executable,
        str(Path(sys.executable).parent / "synofed"),
        "site",
        "check",
        str(site),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    said = {finding["found"]: finding for finding in document["findings"]}
    connection = [finding for finding in document["findings"] if finding["section"] == "connection"]
    assert [finding["state"] for finding in connection] == ["ok"] * 5, connection
    (clock,) = [finding for text, finding in said.items() if "clock agrees" in text]
    assert abs(clock["facts"]["ahead_s"]) < 5
    assert [text for text in said if text.startswith("Signed at")]
    assert [text for text in said if text.startswith("Keys, enrolment and settings are in order")]
    dry = document["dry_round"]
    assert dry["up_bytes_a_round"] > 0 and dry["shapes"][0]["sent"]
    assert log.read_bytes() == before and sorted((site / "outbox").glob("*")) == outbox


def test_a_site_that_cannot_reach_its_centre_says_so_while_it_tries(federation: Federation) -> None:
    name = "ennis"
    site = make_site_folder(federation.site(name), name=name, patients=2, exams_per_patient=1)
    now = datetime.now(UTC)
    invitation = invite(federation.home.path, name, now=now)
    enrolment.enrol(site, Invitation.parse(invitation.dump()), now=now)
    place = site / "federation.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"address": f"localhost:{free_port()}"}))
    federation.join(name)
    try:
        federation.wait(lambda: "Nothing listens at localhost" in federation.said(name), what="a reason")
        state = json.loads((site / "flower" / "state.json").read_text())
        assert state["state"] == "connecting" and "Nothing listens" in state["reason"]
        assert federation.said(name).count("Nothing listens") == 1
    finally:
        federation.end(name)
