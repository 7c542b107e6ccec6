"""What a command costs with every process that it starts: time, processor time, memory; from Linux's ``/proc``."""

from __future__ import annotations

import bisect
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of a command and all that it started.

    Attributes:
        wall_s: until the command itself ended.
        cpu_s: user and system time of all processes.
        peak_mb: most memory of all processes at once, sampled; a page that several share counts once.
        series: (Unix time, processor seconds so far), ascending.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    series: tuple[tuple[float, float], ...]

    def cpu_at(self, moment: float) -> float:
        """Processor seconds until a Unix time, between two samples in proportion."""
        after = bisect.bisect_left(self.series, (moment, 0.0))
        if after in (0, len(self.series)):
            return self.series[min(after, len(self.series) - 1)][1]
        (t0, c0), (t1, c1) = self.series[after - 1 : after + 1]
        return c0 + (c1 - c0) * (moment - t0) / (t1 - t0)


def measured(
    command: Sequence[str | Path], *, log: Path, cwd: Path, limit_s: float, every_s: float = 0.2
) -> Cost:
    """Run a command to its end and measure it.

    Processes that outlive it are given five seconds and killed. Nobody else may start children meanwhile.

    Args:
        command: the program and its arguments.
        log: file for all that it says.
        cwd: where it runs.
        limit_s: how long it may take.
        every_s: time between two samples of memory.

    Raises:
        RuntimeError: with the last line of its output, if it fails or takes longer than the limit.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans become ours
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, peak = time.time(), 0.0
    seen: dict[tuple[int, str], float] = {}
    series: list[tuple[float, float]] = []
    ours = set(_tree(os.getpid()))
    with log.open("wb") as output:
        child = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, cwd=cwd)
        while child.poll() is None and time.time() - started < limit_s:
            there = [pid for pid in _tree(os.getpid()) if pid not in ours]
            seen |= dict(filter(None, map(_cpu, there)))
            peak = max(peak, sum(map(_memory_mb, there)))
            series.append((time.time(), sum(seen.values())))
            time.sleep(every_s)
    wall, ended = time.time() - started, child.poll() is not None
    _reap(ours, patience_s=5.0 if ended else 0.0)
    child.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if child.returncode or not ended:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [
            f"ended with {child.returncode}"
        ]
        raise RuntimeError(lines[-1] if ended else f"not done after {limit_s:.0f} s: {lines[-1]}")
    # either misses a little: what ran since the last sample; what a parent did not wait for
    return Cost(wall_s=wall, cpu_s=max(waited, sum(seen.values())), peak_mb=peak, series=tuple(series))


def peak_bytes() -> int:
    """Most resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be the parent's: it survives fork and exec
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tree(root: int) -> Iterator[int]:
    """All descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())


def _stat(pid: int) -> list[str] | None:
    """State, parent ... of a process; ``None``: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _cpu(pid: int) -> tuple[tuple[int, str], float] | None:
    """(Process and when it started, which tells it from a later one of its number) and its processor seconds."""
    if not (fields := _stat(pid)):
        return None
    return (pid, fields[19]), (int(fields[11]) + int(fields[12])) * TICK_S


def _memory_mb(pid: int) -> float:
    """Proportional share of memory, or where the kernel does not tell it the resident one."""
    try:
        rolled = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(rolled.partition("\nPss:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        pass
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB
    except OSError:
        return 0.0


def _reap(ours: set[int], *, patience_s: float) -> None:
    """Wait for what is left of a command's processes, then kill it."""
    until = time.time() + patience_s
    while left := [pid for pid in _tree(os.getpid()) if pid not in ours]:
        if time.time() > until:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for pid in left:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        time.sleep(0.05)
