"""The check of a site against a real centre, and a join that cannot reach one."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.connection import enrolment
from client.log import chain
from client.site import policy_file
from client.site.site import Site
from common.enrolment import Invitation
from server.federation.enrolment import invite
from tests.deployment.federation import Federation, free_port
from tests.site_folders import make_site_folder

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.ci]


@pytest.fixture(scope="module")
def site(federation: Federation) -> Path:
    """A site that is enrolled and signed, but never accepted: no campaign of other tests waits for it."""
    made = make_site_folder(
        federation.site("ennis"), name="ennis", patients=8, exams_per_patient=2, held_out_patients=2
    )
    now = datetime.now(UTC)
    invitation = invite(federation.home.path, "ennis", now=now)
    enrolment.enrol(made, Invitation.parse(invitation.dump()), now=now)
    policy_file.sign(Site.open(made), Ed25519PrivateKey.generate())
    return made


def test_a_site_is_checked_against_its_centre_and_nothing_is_sent(site: Path) -> None:
    before = (site / chain.NAME).read_bytes()
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
    assert dry["up_bytes_per_round"] > 0 and dry["shapes"][0]["sent"]
    assert (site / chain.NAME).read_bytes() == before
    assert not any((site / name).exists() for name in ("outbox", "state", "cache", "campaigns"))


def test_a_site_that_cannot_reach_its_centre_says_so_while_it_tries(
    federation: Federation, site: Path
) -> None:
    place = site / "federation.json"
    reached = place.read_text()
    place.write_text(json.dumps(json.loads(reached) | {"address": f"localhost:{free_port()}"}))
    federation.join(site.name)
    try:
        said = "Nothing listens at localhost"
        federation.wait(lambda: said in federation.said(site.name), what="a reason")
        state = json.loads((site / "flower" / "state.json").read_text())
        assert state["state"] == "connecting" and said in state["reason"]
        assert federation.said(site.name).count(said) == 1
    finally:
        federation.end(site.name)
        place.write_text(reached)
