"""How a campaign stands, for programs and in words: what commands and pages say of it."""

from __future__ import annotations

from datetime import timedelta

from common.text.notices import NO_TABLES
from server.runs.runs import COMPLETE, ENDED, CampaignStatus, Run
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


def tables(run: Run) -> str:
    """Where the tables of held-out patients stand, in a sentence; empty once nobody is asked for any more."""
    from server.rounds import site_results  # noqa: PLC0415  SciPy

    settings, status = run.settings(), run.status()
    if settings.private:
        return NO_TABLES
    if not settings.campaign.evaluation:
        return "No site was asked for tables of its held-out patients: a plan with campaign.evaluation = true asks."
    if status.state in COMPLETE:
        return ""
    stands = ", ".join(filter(None, (status.state, progress(status), status.reason)))
    if not status.evaluation:
        return (
            f"Its sites are asked for tables of their held-out patients once its networks are done; the campaign is "
            f"{stands}."
        )
    left = [
        f"{site} ({why})" for site, why in status.evaluation.items() if not site_results.has(run.path, site)
    ]
    return f"Its sites are being asked for their tables: {', '.join(left) or 'none'} not yet here; {stands}."


def eta(status: CampaignStatus) -> str:
    """How long the stage will last at this pace; empty where that is not known, or it has ended."""
    if status.eta_s is None or status.state in ENDED:
        return ""
    return str(timedelta(seconds=round(status.eta_s)))
