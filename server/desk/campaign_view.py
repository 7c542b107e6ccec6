"""What a page sees of one run, again and again: of a centre's campaign, or of a simulated run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import SynofedError
from common.machine.desk_live import PROBLEM, Seen
from common.machine.following import Following, Remembered
from server.desk import results
from server.desk.curves import Curves
from server.runs import study_facts
from server.runs.round_lines import SYSTEM, Record, RoundLines
from server.runs.runs import Run
from server.service import campaign_facts, presence

LOG_BYTES = 40_000
LOG_LINES = 300
"""Of the log, as much of its end as a page begins with."""
GROUP = ("stage", "group", "round", "loss", "auc", "seconds", "time", "dropped", "outlying")


@dataclass(slots=True)
class RunView:
    """One page that looks at one run.

    Args:
        run: the run's folder.
        facts: how the run stands, given its rounds.
    """

    run: Path
    facts: Callable[[RoundLines], Mapping[str, object]]
    _rounds: RoundLines = field(init=False)
    _curves: Curves = field(init=False)
    _log: Following = field(init=False)
    _results: Remembered[dict[str, object]] = field(init=False)
    _begun: bool = False

    def __post_init__(self) -> None:
        self._rounds = RoundLines(self.run)
        self._curves = Curves(self._rounds)
        self._log = Following(self.run / "log.txt", last_bytes=LOG_BYTES)
        ends = ("manifest.json", "metrics.json", "status.json")
        self._results = Remembered([self.run / name for name in ends], lambda: results.of(self.run))

    def look(self) -> Seen:
        """What is new.

        Raises:
            SynofedError: if a file of the run is damaged.
            OSError: if one cannot be read.
        """
        rounds = self._curves.look()
        try:
            now = {"facts": self.facts(self._rounds), **self._ended()}
            lines = self._lines()
        except BaseException:
            self._curves.tell_again()
            raise
        now["groups"] = [_group(record) for record in self._groups()]
        added = {"rounds": rounds, "log": lines}
        return Seen(now=now, added={name: one for name, one in added.items() if one is not None})

    def _ended(self) -> dict[str, object]:
        """Results and report; results that cannot be read are a problem, and all else is shown."""
        report = (self.run / results.REPORT).is_file()
        try:
            return {"results": self._results.look(), "report": report}
        except SynofedError as error:
            return {PROBLEM: str(error), "report": report}

    def _groups(self) -> list[Record]:
        """The last round of each of the federation's groups of the stage that it is in."""
        last = list(self._rounds.last.get(SYSTEM, {}).values())
        return self._rounds.of_stage(last[-1]["stage"]) if last else []

    def _lines(self) -> dict[str, object] | None:
        added = self._log.look()
        afresh = added.afresh or not self._begun
        self._begun = True
        if not (added.lines or afresh):
            return None
        lines = [line.decode(errors="replace") for line in added.lines[-LOG_LINES:]]
        return {"afresh": afresh, "lines": lines}


def of_campaign(run: Run) -> RunView:
    """A page that looks at a campaign of a centre."""

    def facts(rounds: RoundLines) -> Mapping[str, object]:
        status = run.status()
        words = {"progress": campaign_facts.progress(status), "eta": campaign_facts.eta(status)}
        return {**campaign_facts.facts(run), **words, "up": presence.up_by(run.home) is not None}

    return RunView(run.path, facts)


def of_study(run: Path) -> RunView:
    """A page that looks at a simulated run."""
    plan = Remembered([run / "config.toml"], lambda: study_facts.planned(run))
    return RunView(run, lambda rounds: study_facts.facts(run, rounds, plan.look()))


def _group(record: Record) -> dict[str, object]:
    return {name: record.get(name) for name in GROUP}
