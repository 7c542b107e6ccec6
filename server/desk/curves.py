"""Loss and validation AUC over rounds, as a page draws them: what was added, never more points than fit on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from server.runs.round_lines import Record, RoundLines, system_of

MOST_POINTS = 500
"""Of a group; of more every second is left out, then every fourth, and so on."""

Key: TypeAlias = tuple[str, str, str]
"""System, stage, group."""
Point: TypeAlias = tuple[int, float | None, float | None]
"""Round, loss, AUC."""


@dataclass(slots=True)
class Curves:
    """The curves of one run, as one page knows them."""

    rounds: RoundLines
    _points: dict[Key, list[Point]] = field(default_factory=dict)
    _every: dict[Key, int] = field(default_factory=dict)
    _told: bool = False

    def look(self) -> dict[str, object] | None:
        """``afresh``, and the curves' new points; ``None``: there are none."""
        found = self.rounds.look()
        afresh = found.afresh or not self._told
        if found.afresh:
            self._points.clear()
            self._every.clear()
        added: dict[Key, list[Point]] = {}
        for record in found.records:
            key = (system_of(record), str(record["stage"]), str(record["group"]))
            if int(record["round"]) % self._every.get(key, 1) == 0:
                self._points.setdefault(key, []).append(_point(record))
                added.setdefault(key, []).append(_point(record))
        for key in added:
            afresh |= self._thinned(key)
        self._told = True
        if not (added or afresh):
            return None
        shown = self._points if afresh else added
        return {"afresh": afresh, "curves": [_curve(key, points) for key, points in shown.items()]}

    def tell_again(self) -> None:
        """The next look gives everything: what the last one found was not told."""
        self._told = False

    def _thinned(self, key: Key) -> bool:
        thinned = False
        while len(self._points[key]) > MOST_POINTS:
            self._every[key] = every = 2 * self._every.get(key, 1)
            kept = [point for point in self._points[key] if point[0] % every == 0]
            thinned |= len(kept) < len(self._points[key])
            self._points[key] = kept[-MOST_POINTS:] if len(kept) == len(self._points[key]) else kept
        return thinned


def _point(record: Record) -> Point:
    return int(record["round"]), record.get("loss"), record.get("auc")


def _curve(key: Key, points: Iterable[Point]) -> dict[str, object]:
    system, stage, group = key
    return {"system": system, "stage": stage, "group": group, "points": list(points)}
