"""The command line as a user runs it, in this process."""

import pytest

import synofed


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run it with these words; its exit code."""
    monkeypatch.setattr("sys.argv", ["synofed", *arguments])
    with pytest.raises(SystemExit) as raised:
        synofed.main()
    return int(raised.value.code or 0)
