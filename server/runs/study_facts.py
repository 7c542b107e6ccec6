"""How a simulated run stands, by what its folder says; the centre's campaigns have a status of their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from common.errors import SynofedError
from common.methods.rounds import rounds_by_stage
from server.runs.round_lines import RoundLines
from server.runs.run_folder import RunFolder

RUNNING = "RUNNING"
INTERRUPTED = "INTERRUPTED"
GONE = "its process is gone: go on with --resume"


def planned(run: Path) -> Mapping[str, int]:
    """Stage -> rounds of each of its groups, with the one that scores; empty where its method is not known here."""
    try:
        return {stage: rounds + 1 for stage, rounds in rounds_by_stage(RunFolder(run).settings()).items()}
    except SynofedError:
        return {}


def facts(run: Path, rounds: RoundLines, plan: Mapping[str, int]) -> dict[str, object]:
    """All that is known.

    Args:
        run: the run's folder.
        rounds: of the run, as they were looked at last.
        plan: as of :func:`planned`.

    Raises:
        ConfigurationError: if it is no run's folder.
    """
    folder = RunFolder(run)
    manifest = folder.manifest()
    state, reason = str(manifest.get("status", "")), str(manifest.get("error", ""))
    if state == RUNNING and not folder.is_written:
        state, reason = INTERRUPTED, GONE
    systems = [_system(name, rounds, plan) for name in rounds.last]
    return {
        "campaign": str(manifest.get("name") or run.name),
        "folder": str(run.resolve()),
        "state": state,
        "reason": reason,
        "submitted": manifest.get("started", ""),
        "ended": manifest.get("ended", ""),
        "systems": systems,
        "rounds_per_hour": rounds.rounds_per_hour() if state == RUNNING else None,
        "sites": _sites(manifest, rounds),
        **{name: manifest.get(name) for name in ("engine", "seed", "plan_hash", "privacy_statement")},
        "eta": _eta(rounds, systems) if state == RUNNING else "",
    }


def _system(name: str, rounds: RoundLines, plan: Mapping[str, int]) -> dict[str, object]:
    """How far a system is in the stage that it is in."""
    stage = str(next(reversed(rounds.last[name].values()))["stage"])
    numbers = [int(one["round"]) for one in rounds.last[name].values() if one["stage"] == stage]
    of = plan.get(stage, 0) * len(numbers)
    done = sum(numbers)
    return {"system": name, "stage": stage, "groups": len(numbers), "done": done, "total": max(of, done)}


def _eta(rounds: RoundLines, systems: list[dict[str, object]]) -> str:
    """How long the stages that are under way will last at the pace of the newest rounds."""
    pace = rounds.rounds_per_hour()
    left = sum(int(str(one["total"])) - int(str(one["done"])) for one in systems)
    return (
        f"{timedelta(hours=left / pace) // timedelta(seconds=1) * timedelta(seconds=1)}"
        if pace and left
        else ""
    )


def _sites(manifest: Mapping[str, object], rounds: RoundLines) -> dict[str, dict[str, object]]:
    usable, quarantined, missing = (
        found if isinstance(found := manifest.get(name), dict) else {}
        for name in ("usable", "quarantined", "missing")
    )
    names = dict.fromkeys((*usable, *sorted(rounds.used)))
    return {
        name: {
            "usable": usable.get(name) or {},
            "quarantined": quarantined.get(name),
            "missing": missing.get(name),
            "used": rounds.used[name],
            "last_used": rounds.last_used.get(name, ""),
        }
        for name in names
    }
