"""How a campaign stands, for programs and in words: what commands and pages say of it."""

from __future__ import annotations

from datetime import timedelta

from server.runs.runs import ENDED, CampaignStatus, Run
from server.service import presence


def facts(run: Run) -> dict[str, object]:
    """All that is known, for programs."""
    status, wish = run.status(), run.wish()
    return {
        "campaign": run.name,
        "folder": str(run.path.resolve()),
        "submitted": wish.submitted,
        "wanted": wish.wanted,
        "asked": list(wish.sites),
        "late": list(wish.late),
        "judges": list(wish.judges),
        **status.model_dump(mode="json"),
        "eta_s": status.eta_s,
        "last_seen": {name: one.model_dump(mode="json") for name, one in presence.read(run.home).items()},
    }


def summary(run: Run) -> dict[str, object]:
    """A campaign in a list of all."""
    status, wish = run.status(), run.wish()
    return {
        "campaign": run.name,
        "state": status.state,
        "progress": progress(status),
        "sites": len(wish.sites),
        "submitted": wish.submitted,
        "reason": status.reason,
    }


def progress(status: CampaignStatus) -> str:
    """How far the stage is and at which pace; empty before the first."""
    if not status.total:
        return ""
    text = f"stage {status.stage}: {status.done}/{status.total} rounds of {status.networks} networks"
    pace = f", {status.rounds_per_hour:.0f} an hour" if status.rounds_per_hour else ""
    return text + pace


def eta(status: CampaignStatus) -> str:
    """How long the stage will last at this pace; empty where that is not known, or it has ended."""
    if status.eta_s is None or status.state in ENDED:
        return ""
    return str(timedelta(seconds=round(status.eta_s)))
