import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.utils import get_params_from_function

import synofed
from common.version import VERSION
from tests.failing_commands import PLANTED, every_command

ROOT = Path(__file__).parents[1]


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
    )


def printed_by_every_command(how: str, out: Path) -> dict[str, str]:
    done = run("-m", "tests.failing_commands", how, str(out))
    assert done.returncode == 0, done.stderr
    printed = {path.stem: path.read_text() for path in out.iterdir()}
    assert len(printed) == len(every_command()) > 40
    return printed


def test_no_command_that_fails_prints_a_secret_or_a_variable(tmp_path: Path) -> None:
    for name, text in printed_by_every_command("secrets", tmp_path).items():
        assert "RuntimeError: no way through http://***@proxy.example.org:3128" in text, name
        assert text.endswith("exit code 1\n"), name
        assert not [secret for secret in PLANTED if secret in text], name
        assert "locals" not in text, name


def test_what_the_system_refuses_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    for name, text in printed_by_every_command("disk", tmp_path).items():
        assert text == (
            "Error: /somewhere/[red]full[/red]: No space left on device: free some space there, then run the same "
            "command again\n\nexit code 1\n"
        ), name


def test_python_m_is_the_command(tmp_path: Path) -> None:
    done = run("-m", "synofed", "simulate", "nothere.toml", cwd=tmp_path)
    assert done.returncode == 3
    assert "nothere.toml" in done.stderr
    assert run("-m", "synofed", "simulate", "--nonsense").returncode == 2
    assert "simulate" in run("-m", "synofed", "--help").stdout


def test_it_says_its_version() -> None:
    done = run("-m", "synofed", "--version")
    assert (done.returncode, done.stdout) == (0, f"synofed {VERSION}\n")


def test_where_json_is_asked_for_errors_are_json_too(tmp_path: Path) -> None:
    done = run("-m", "synofed", "simulate", "nothere.toml", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    error = json.loads(done.stderr)["error"]
    assert (error["kind"], error["exit_code"]) == ("configuration", 3)
    assert "nothere.toml" in error["message"]


@pytest.mark.parametrize("path", [path for path, _ in every_command()], ids=" ".join)
def test_help_shows_what_was_written(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["synofed", *path, "--help"])
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)
    with pytest.raises(SystemExit) as raised:
        synofed.main()
    assert not raised.value.code
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    command = dict(every_command())[path]
    assert command.callback is not None
    written = get_params_from_function(inspect.unwrap(command.callback))
    for name, parameter in written.items():
        said = getattr(parameter.default, "help", None)
        if said:
            assert " ".join(said.split()) in shown, name
