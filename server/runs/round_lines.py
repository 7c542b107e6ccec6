"""A run's ``rounds.jsonl`` as it grows: each line is read once, however long the file is."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from common.machine.following import Following

NAME = "rounds.jsonl"
SYSTEM = "federated"
PACE_ROUNDS = 50
"""The newest rounds, from which the pace is taken."""

Record: TypeAlias = Mapping[str, Any]
"""A line: :class:`server.rounds.journal.RoundRecord`, and the system that was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedRounds:
    """What a look found.

    Attributes:
        records: in their order.
        afresh: whether they are all that there are, and those before no longer count.
    """

    records: Sequence[Record]
    afresh: bool


@dataclass(slots=True)
class RoundLines:
    """The rounds of a run.

    Attributes:
        last: system, then group -> its last round.
        used: site -> rounds of the federation in which its update was used.
        last_used: site -> when that was last.
    """

    run: Path
    last: dict[str, dict[str, Record]] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    last_used: dict[str, str] = field(default_factory=dict)
    _file: Following = field(init=False)
    _times: deque[str] = field(default_factory=lambda: deque(maxlen=PACE_ROUNDS))

    def __post_init__(self) -> None:
        self._file = Following(self.run / NAME)

    def look(self) -> AddedRounds:
        """The rounds since the last look; a line that a crash cut short is left out.

        Raises:
            OSError: if the file is there and cannot be read.
        """
        added = self._file.look()
        if added.afresh:
            for known in (self.last, self.used, self.last_used, self._times):
                known.clear()
        records = [record for line in added.lines if (record := _record(line)) is not None]
        for record in records:
            self._note(record)
        return AddedRounds(records=records, afresh=added.afresh)

    def of_stage(self, stage: str) -> list[Record]:
        """The last round of each of the federation's groups of a stage, by name."""
        groups = self.last.get(SYSTEM, {})
        return [record for _, record in sorted(groups.items()) if record.get("stage") == stage]

    def rounds_per_hour(self) -> float | None:
        """Rounds of all groups, by when the newest ended; ``None`` where that cannot be told."""
        if len(self._times) < 2:
            return None
        try:
            took = datetime.fromisoformat(self._times[-1]) - datetime.fromisoformat(self._times[0])
        except ValueError:  # of an older version, whose lines had no time
            return None
        return 3600.0 * (len(self._times) - 1) / took.total_seconds() if took.total_seconds() > 0 else None

    def _note(self, record: Record) -> None:
        system = system_of(record)
        groups = self.last.setdefault(system, {})
        groups.pop(record["group"], None)  # the newest stands last
        groups[record["group"]] = record
        self._times.append(record["time"])
        if system == SYSTEM:
            self.used.update(record["participants"])
            self.last_used |= dict.fromkeys(record["participants"], record["time"])


def system_of(record: Record) -> str:
    """``federated``, ``alone:SITE`` or ``centralised``."""
    return str(record.get("system", SYSTEM))


def _record(line: bytes) -> Record | None:
    """What a line says; ``None``: it is none of a round."""
    try:
        found = json.loads(line)
        known = {"stage": str(found["stage"]), "group": str(found["group"]), "round": int(found["round"])}
        ended = {"participants": list(found.get("participants", ())), "time": str(found.get("time", ""))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return {**found, **known, **ended}
