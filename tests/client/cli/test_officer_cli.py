"""The command by which the officer signs, alone and from an account of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import synofed
from client.cli import officer_cli
from client.consent import deciding
from client.consent.deciding import Decision
from client.officer import asking
from client.officer.spool import Spool
from client.site.site import Site
from tests import officers
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setattr(officer_cli, "TAKEN_S", 0.0)

    def run(*arguments: object, typed: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["synofed", "site", "officer", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return run


def status(site: Path, plan_hash: str) -> str:
    return str(deciding.known(Site.open(site), plan_hash).status)


def test_what_is_agreed_to_is_signed_and_the_rest_is_not(tmp_path: Path, command: Command) -> None:
    site, key = officers.keyed(tmp_path)
    code, said = command(site, *key)
    assert (code, "Nothing waits for a signature" in said) == (0, True)
    first, second = officers.waiting(site), officers.waiting(site, rounds=2, name="autumn")
    for plan_hash in (first, second):
        asking.about_campaign(Site.open(site), plan_hash, Decision.APPROVE)
    code, said = command(site, *key, typed="y\nn\n")
    assert code == 0
    assert said.index("Score synovitis") < said.index("Sign this with key")
    assert said.count("It counts once the site has taken it") == 2
    assert status(site, first) == "waiting"
    asking.settle(site)
    assert sorted([status(site, first), status(site, second)]) == ["approved", "waiting"]
    assert sorted(one.outcome for one in Spool.of(Site.open(site)).settled()) == ["refused", "signed"]


def test_nothing_is_signed_where_nobody_answers(tmp_path: Path, command: Command) -> None:
    site, key = officers.keyed(tmp_path)
    plan_hash = officers.waiting(site)
    asking.about_campaign(Site.open(site), plan_hash, Decision.APPROVE)
    assert command(site, *key, typed="")[0] != 0
    asking.settle(site)
    assert status(site, plan_hash) == "waiting"
    assert len(Spool.of(Site.open(site)).questions()) == 1


def test_another_key_signs_nothing(tmp_path: Path, command: Command) -> None:
    site, _ = officers.keyed(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = officers.keyed(tmp_path / "other")
    plan_hash = officers.waiting(site)
    asking.about_campaign(Site.open(site), plan_hash, Decision.APPROVE)
    code, said = command(site, *other, "--json", typed="n\n")
    assert (code, "This cannot be signed: The site's officer has the key" in said) == (0, True)
    asking.settle(site)
    assert status(site, plan_hash) == "waiting"


def test_a_folder_without_questions_is_refused(tmp_path: Path, command: Command) -> None:
    _, key = officers.keyed(tmp_path)
    code, said = command(tmp_path, *key)
    assert (code, "Expected a site's folder" in said) == (4, True)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_two_accounts_share_questions_and_answers_and_nothing_else() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs to be root, to be two accounts")
    done = subprocess.run(
        [sys.executable, "-m", "tests.officer_accounts"],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "approved by two accounts\n"), done.stderr
