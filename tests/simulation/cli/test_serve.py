"""``synofed serve`` as a user runs it: a link, pages, and an end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.command_lines import command
from tests.site_folders import make_site_folder

SYNOFED = (sys.executable, "-c", "import synofed; synofed.main()", "serve")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_a_site_is_served_until_it_is_interrupted(tmp_path: Path) -> None:
    site = make_site_folder(tmp_path / "site", patients=2, exams_per_patient=1)
    with subprocess.Popen([*SYNOFED, str(site), "--json"], stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        link = json.loads(served.stdout.readline())["url"]
        with httpx.Client(trust_env=False, timeout=60) as browser:
            assert browser.get(link).status_code == 200
            origin = link.partition("/enter")[0]
            assert browser.get(f"{origin}/").text.startswith("<!doctype html>")
            named = browser.post(f"{origin}/api/reader", json={"name": "Anna"}, headers={"origin": origin})
            assert named.status_code == 200
            exams = browser.get(f"{origin}/api/exams").json()
            assert len(exams) == 2
            answer = browser.post(
                f"{origin}/api/exams/{exams[0]['token']}/answer", headers={"origin": origin}
            )
            assert "name a run's with --ensemble" in answer.json()["error"]
        assert json.loads(served.stdout.readline())["url"] != link
        served.send_signal(signal.SIGINT)
        assert served.wait() == 0


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("nothere",), 3, "Expected the folder of a site, of a run or of a centre"),
        (("site", "--port", "99999"), 2, "0<=x<=65535"),
        (("site", "--behind", "http://pages.example"), 3, "https://HOST"),
        (("site", "--study", "nothere.toml"), 4, "study's file"),
        (("site", "--ensemble", "nothere"), 3, "run's folder"),
        ((".", "--ensemble", "x"), 3, "a site's folder with --ensemble"),
        (("site", "--reader", "Anna", "--reader", "Anna"), 3, "each reader once"),
        (("site", "--reader", " "), 3, "a name of 1 to 80 letters"),
        (("site", "--reader", "Anna", "--study", "x.toml"), 3, "without --study"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    make_site_folder(tmp_path / "site", patients=2, exams_per_patient=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    ended = command(monkeypatch, "serve", *words)
    said = capsys.readouterr()
    assert (ended, expected in " ".join((said.out + said.err).split())) == (code, True), said.err
