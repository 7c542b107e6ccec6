"""From an invitation to the first round; until a site joins, `synofed site start` is its only command."""

import functools
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.site import officer
from server.federation import enrolment
from server.runs import submit
from tests.deployment.federation import Federation
from tests.deployment.test_end_to_end import configured
from tests.marks import SOAK_CI
from tests.patience import PATIENCE_S
from tests.site_folders import make_site_folder

pytestmark = [pytest.mark.slow, *SOAK_CI]
SITES = ("espoo", "faro")


def start(federation: Federation, *arguments: object) -> tuple[int, dict[str, str]]:
    """Exit code, and the state of each step."""
    words = [Path(sys.executable).parent / "synofed", "site", "start", *arguments, "--json", "--no-rehearse"]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=federation.folder,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, {step["name"]: step["state"] for step in json.loads(done.stdout)["steps"]}


def said(federation: Federation, text: str) -> bool:
    """Whether the centre has said something."""
    return text in federation.said("up")


def test_from_an_invitation_to_the_first_round(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, ())
    key, passphrase = tmp_path / "officer.pem", tmp_path / "passphrase"
    passphrase.write_text("correct horse battery\n", encoding="utf-8")
    officer.make(key, passphrase="correct horse battery")
    signing = ("--officer-key", key, "--passphrase-file", passphrase)
    try:
        federation.up()
        federation.wait(lambda: said(federation, "the SuperLink answers"), what="a SuperLink")
        for seed, name in enumerate(SITES):
            make_site_folder(
                federation.site(name),
                name=name,
                patients=6,
                exams_per_patient=2,
                seed=seed,
                held_out_patients=2,
            )
            now = datetime.now(UTC)
            invitation = tmp_path / f"{name}.invitation.json"
            invitation.write_text(
                enrolment.invite(federation.home.path, name, now=now).dump(), encoding="utf-8"
            )
            code, steps = start(federation, invitation, *signing)
            waits = dict.fromkeys(("folder", "data", "data check", "policy", "check"), "done")
            assert (code, steps) == (0, {**waits, "centre": "waiting", "join": "waiting"})
            request = (federation.site(name) / "request.json").read_text(encoding="utf-8")
            enrolment.accept(federation.home.path, request, now=datetime.now(UTC))
            let_in = f"{name} may connect"
            federation.wait(functools.partial(said, federation, let_in), what=let_in)
            code, steps = start(federation, federation.site(name))
            assert (code, steps) == (0, {**waits, "centre": "done", "join": "waiting"})
            federation.join(name)  # right after the walk has connected and left
        federation.wait(lambda: federation.online() == set(SITES), what="both sites connected")
        assert all("does not let this site in" not in federation.said(name) for name in SITES)
        code, steps = start(federation, federation.site(SITES[0]))
        assert (code, set(steps.values())) == (0, {"done"})
        run = federation.ended(submit.submit(federation.home, configured("first", rounds=1)))
        assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    finally:
        federation.close()
