"""What a command shows while it works."""

import pytest

from client.cli import cli_options


def shown(capsys: pytest.CaptureFixture[str], *, quiet: bool = False) -> str:
    with cli_options.bar("pictures", quiet=quiet) as progress:
        for done in range(1, 4):
            progress(done, 3)
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((100.0, 104.0, 111.0, 112.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert shown(capsys) == "pictures: 2 of 3, 11 s\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes any stream for a terminal
    said = shown(capsys)
    assert "pictures" in said
    assert "3/3" in said
    assert "3 of 3" not in said


@pytest.mark.parametrize("terminal", ["", "1"])
def test_beside_json_there_is_nothing(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", terminal)
    monkeypatch.setattr(cli_options, "LINE_EVERY_S", 0.0)
    assert shown(capsys, quiet=True) == ""
