"""What a result says of the place that it was taken in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command() -> str:
    """The command line of this process, as one would write it in the project's root."""
    script = Path(sys.argv[0]).resolve()
    named = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    given = [str(Path(part).name) if Path(part).is_absolute() else part for part in sys.argv[1:]]
    return " ".join(["python", str(named), *given])


def machine() -> dict[str, object]:
    """Date, commit, cores, processor, Python, torch."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _said(["git", "rev-parse", "--short", "HEAD"]),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": version(Path(sys.executable), "torch"),
    }


def load() -> float:
    """Processes that ran or wanted to, over the last minute."""
    return round(os.getloadavg()[0], 1)


def version(python: Path, package: str) -> str:
    """Of a package in another environment; ``""``: it is not there."""
    return _said([str(python), "-c", f"from importlib.metadata import version; print(version({package!r}))"])


def _said(asked: list[str]) -> str:
    done = subprocess.run(asked, check=False, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
