"""What simulated sites wrote into their own logs: whoever simulates owns them all, and nothing has to be hidden.

A site answers the centre with a fixed code and keeps the text. The client does not know that it is simulated; the
simulation, which has the folders, reads their logs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

ENTRY = re.compile(r"^\d{4}-\d\d-\d\dT\S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ", re.MULTILINE)
TROUBLE = ("ERROR", "CRITICAL")
SHOWN = 3
"""Different entries of a site that are shown, the last ones."""


class SiteLogs:
    """The logs of some sites from now on.

    Args:
        folders: of the sites.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._logs = {folder.name: folder / "log.txt" for folder in folders}
        self._sizes = {name: len(_content(path)) for name, path in self._logs.items()}

    def errors(self) -> str:
        """What went wrong at the sites since, with where their logs lie; empty if nothing did."""
        found = {name: self._new(name) for name in self._logs}
        return "\n".join(
            f"{name} says ({self._logs[name]}):\n" + "\n".join(f"  {entry}" for entry in entries)
            for name, entries in found.items()
            if entries
        )

    def _new(self, name: str) -> list[str]:
        content = _content(self._logs[name])
        new = content[self._sizes[name] :] if len(content) >= self._sizes[name] else content
        _, *parts = ENTRY.split(new)
        entries = [
            _shown(text) for level, text in zip(parts[::2], parts[1::2], strict=True) if level in TROUBLE
        ]
        return list(dict.fromkeys(entries))[-SHOWN:]


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _shown(text: str) -> str:
    """An entry's text; of a traceback the exception and the line that raised it."""
    said, _, traceback = text.strip().partition("\nTraceback (most recent call last):\n")
    if not traceback:
        return said.replace("\n", "\n  ")
    lines = traceback.splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith("  File ")), default=None)
    if last is None:
        return f"{said}: {lines[-1]}"
    raised = next((i for i in range(last, len(lines)) if not lines[i].startswith(" ")), len(lines) - 1)
    exception = "\n  ".join(lines[raised:])
    return f"{said}: {exception}\n    raised in {lines[last].strip()}"
