"""Runs benchmarks one after another, each in a process and a time box of its own, into one JSON file.

The file is written anew after each part: a machine that is taken away in the middle leaves what was measured. A part
that fails, or does not end within its box, says so there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import facts

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One script, or one function of a script.

    Attributes:
        name: of its result.
        script: in ``benchmarks/``.
        full: its arguments.
        small: those of a dry run.
        seconds: its box; one that does not end in it has no result.
    """

    name: str
    script: str
    full: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    seconds: int


def add_arguments(parser: argparse.ArgumentParser, parts: Sequence[Part], *, minutes: float) -> None:
    """The command line of a script that runs parts, in so many minutes unless told otherwise."""
    parser.set_defaults(usual_minutes=minutes)
    parser.add_argument("out", type=Path, help="file for the JSON")
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="for all parts together; their boxes grow with it"
    )
    parser.add_argument("--dry", action="store_true", help="every part in small, to see that it runs")
    parser.add_argument(
        "--only", nargs="+", choices=[part.name for part in parts], help="leave the others as they are in OUT"
    )


def run(parts: Sequence[Part], given: argparse.Namespace, *, arguments: Sequence[str] = ()) -> None:
    """Run parts in their order until the time is over.

    Args:
        parts: what there is.
        given: of a command line with :func:`add_arguments`.
        arguments: given to every part.
    """
    given.out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    found: dict[str, object] = {}
    if given.only and given.out.exists():
        found |= json.loads(given.out.read_text(encoding="utf-8"))["parts"]
    machine = facts.machine()
    result = {"command": facts.command(), **machine, "parts": found}
    for part in parts:
        if given.only and part.name not in given.only:
            continue
        left = 60 * given.minutes - (time.monotonic() - started)
        chosen = part.small if given.dry else part.full
        box = part.seconds * max(1.0, given.minutes / given.usual_minutes)
        one = _run([part.script, *chosen, *arguments], seconds=min(box, left))
        found[part.name] = {"date": machine["date"], "commit": machine["commit"]} | one
        told = one.get("failed") or f"{one['seconds']} s"
        print(f"{part.name}: {told}", file=sys.stderr, flush=True)
        result["minutes"] = round((time.monotonic() - started) / 60, 1)
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _run(command: Sequence[str], *, seconds: float) -> dict[str, object]:
    """What a part found, or what became of it; the load of the machine before it and after."""
    told: dict[str, object] = {"command": " ".join(["python", f"benchmarks/{command[0]}", *command[1:]])}
    if seconds < 1:
        return told | {"failed": "no time left"}
    started, before = time.monotonic(), facts.load()
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=HERE.parent,
        )
    except subprocess.TimeoutExpired:
        return told | {"failed": f"not done after {seconds:.0f} s"}
    told |= {"seconds": round(time.monotonic() - started, 1), "load": [before, facts.load()]}
    if done.returncode:
        return told | {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return told | {"result": json.loads(done.stdout)}
