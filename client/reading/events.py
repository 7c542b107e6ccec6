"""What happened in a reading room, one event after the other, each on the disk before it is answered.

A chain as the site's log is (:mod:`client.log.chain`): who changes or drops a line of it later is found out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from client.log import chain
from common.errors import VerificationError


class Events:
    """A file of events, read on from where it was read to: several processes may write it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_bytes = 0

    def add(self, event: str, facts: Mapping[str, object]) -> None:
        """Add an event.

        Raises:
            StorageError: if it cannot be kept.
            VerificationError: if the file's end is none of ours.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        chain.append(self.path, event, facts)

    def new(self) -> Iterator[Mapping[str, Any]]:
        """Events that were not read yet; a line that is being written waits.

        Raises:
            VerificationError: for a line that is no event.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                raise VerificationError(f"Expected events of a reading room in {self.path}") from None
