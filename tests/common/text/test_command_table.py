"""Groups of commands: what a mistyped one is told."""

import pytest

from tests.command_lines import command


@pytest.mark.parametrize("words", [["simulat"], ["cohort", "mak"], ["site", "chek"]], ids=" ".join)
def test_a_mistyped_command_is_told_once_what_may_be_meant(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *words) == 2
    assert capsys.readouterr().err.count("Did you mean") == 1
