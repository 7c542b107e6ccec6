"""What a long run shows while it works: bars on a terminal, lines in a log."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from common.text.terminal import Console
from server.campaign.events import Event, StageStarted
from server.rounds.journal import RoundRecord


class Display:
    """A bar for each stage, a line for each round, all of it also in the run's ``log.txt``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description:<34}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lines: list[str] = []
        self._log: Path | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def log_to(self, path: Path) -> None:
        """Append every line to a file too, those that were shown already included."""
        with self._lock:
            self._log = path
            self._append("".join(self._lines))

    def line(self, text: str) -> None:
        """Show one line."""
        with self._lock:
            self.console.print(text)
            self._lines.append(text + "\n")
            self._append(text + "\n")

    def _append(self, text: str) -> None:
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(text)

    @contextmanager
    def step(self, description: str) -> Iterator[Bar]:
        """A bar for one step of known or growing length."""
        task = self._progress.add_task(description, total=None)
        yield Bar(self._progress, task)
        self._progress.update(task, total=self._progress.tasks[task].completed or 1)
        self._progress.stop_task(task)

    def event(self, system: str, event: Event) -> None:
        """Show what a campaign tells; ``system`` is ``federated``, ``alone:<site>`` or ``centralised``."""
        if isinstance(event, StageStarted):
            self._tasks[system] = self._progress.add_task(
                f"{system}: {event.stage}", total=event.total, completed=event.done
            )
            s = "" if event.groups == 1 else "s"
            self.line(f"{system}: stage {event.stage}, {event.networks} networks in {event.groups} group{s}")
            return
        if not isinstance(event, RoundRecord):
            return
        self._progress.advance(self._tasks[system])
        dropped = f"  without {', '.join(event.dropped)}" if event.dropped else ""
        dropped += f"  outlying: {', '.join(event.outlying)}" if event.outlying else ""
        self.line(
            f"{system}  {event.group} round {event.round:>3}  loss {_number(event.loss)}  "
            f"validation AUC {_number(event.auc)}  {event.seconds:5.1f} s{dropped}"
        )


class Bar:
    """One bar of a :class:`Display`."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)


def _number(value: float) -> str:
    return "    -" if math.isnan(value) else f"{value:.3f}"
