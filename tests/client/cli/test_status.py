import fcntl
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.site_cli import site as commands
from client.connection import join
from tests.site_folders import make_site_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_site_folder(tmp_path / "north", name="north", patients=2)


def told(folder: Path) -> dict[str, object]:
    result = CliRunner().invoke(commands, ["status", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    content: dict[str, object] = json.loads(result.output)
    return content


def test_a_site_that_nobody_joined_says_so(folder: Path) -> None:
    assert told(folder) == {
        "site": "north",
        "connection": "not joined",
        "reason": "",
        "since": "",
        "campaigns": {},
        "last": "",
        "last_time": "",
    }
    shown = CliRunner().invoke(commands, ["status", str(folder)]).output
    assert shown == "north: not joined\n  the log is empty\n"


def test_what_a_process_noted_counts_while_it_lives(folder: Path) -> None:
    with join.locked(folder):
        noted = {"state": "waiting", "reason": "nothing listens", "since": "2026-01-01T00:00:00+00:00"}
        join.state_file(folder).write_text(json.dumps(noted), encoding="utf-8")
        assert join.runs(folder)
        found = told(folder)
        assert (found["connection"], found["reason"]) == ("waiting", "nothing listens")
    assert not join.runs(folder)
    assert told(folder)["connection"] == "not joined"


def test_looking_keeps_nobody_from_joining(folder: Path) -> None:
    with join.locked(folder):
        pass
    assert not join.runs(folder)
    with (folder / "flower" / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
