"""How a campaign is shown: a page on a terminal, a line in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from common.text.terminal import Table
from server.report.content import Json
from server.report.tables import Rows
from server.runs.round_lines import RoundLines
from server.runs.runs import CampaignStatus, Run
from server.service import presence
from server.service.campaign_facts import eta, progress, summary
from server.service.presence import Presence

STYLES = {
    "COMPLETE_ALL_SITES": "bold green",
    "COMPLETE_SUBSET": "bold yellow",
    "FAILED": "bold red",
    "INTERRUPTED": "yellow",
    "present": "green",
    "waiting": "yellow",
    "away": "red",
    "declined": "red",
}
MOST_GROUPS = 12
"""Groups that a page names; the others are counted."""


def line(run: Run) -> str:
    """How a campaign stands, in one line."""
    status = run.status()
    sites = ", ".join(
        f"{name} {site.state}{f' ({site.reason})' if site.reason else ''}"
        for name, site in status.sites.items()
    )
    parts = [f"{run.name}: {status.state}", progress(status), sites, status.waits, status.reason]
    return "; ".join(part for part in parts if part)


def overview(runs: Sequence[Run]) -> RenderableType:
    """A table with one row per campaign."""
    if not runs:
        return Text("No campaign yet: synofed run submit CONFIG")
    table = Table(box=box.SIMPLE)
    for column in ("campaign", "state", "rounds", "sites", "submitted", ""):
        table.add_column(column)
    for found in map(summary, runs):
        state = str(found["state"])
        table.add_row(
            str(found["campaign"]),
            Text(state, style=STYLES.get(state, "")),
            str(found["progress"]),
            str(found["sites"]),
            str(found["submitted"])[:16].replace("T", " "),
            str(found["reason"]),
        )
    return table


def page(run: Run, rounds: RoundLines) -> RenderableType:
    """The whole of one campaign; of its rounds only what was added is read."""
    status = run.status()
    rounds.look()
    head = Text.assemble(
        (run.name, "bold"),
        "  ",
        (status.state, STYLES.get(status.state, "")),
        "  ",
        progress(status),
        f", {left} to the end of the stage" if (left := eta(status)) else "",
    )
    parts: list[RenderableType] = [head]
    parts += [Text(text) for text in (status.reason, status.waits and f"waits: {status.waits}") if text]
    return Group(*parts, _sites(status, presence.read(run.home)), _groups(rounds, status))


def _sites(status: CampaignStatus, seen: Mapping[str, Presence]) -> Table:
    table = Table(box=box.SIMPLE, title="sites", title_justify="left")
    for column in (
        "site",
        "last seen",
        "state",
        "waits for",
        "rounds used",
        "last used",
        "missed",
        "networks",
        "tables",
    ):
        table.add_column(column)
    for name, site in status.sites.items():
        table.add_row(
            name,
            last_seen(seen.get(name)),
            Text(site.state, style=STYLES.get(site.state, "")),
            site.reason,
            str(site.used),
            _ago(site.last_used),
            str(status.missing.get(name, "")),
            status.ensemble.get(name, ""),
            status.evaluation.get(name, ""),
        )
    return table


def judged(found: Json) -> RenderableType:
    """Accuracy and linear kappa by site and machine, what sets of grades promise, and what sites keep back."""
    from server.report import inside_tables  # noqa: PLC0415  NumPy

    table = Table(box=box.SIMPLE, title="as the sites judged it, on held-out patients", title_justify="left")
    for column in ("", "score", "exams", "patients", "accuracy", "linear kappa"):
        table.add_column(column, justify="left" if column in ("", "score") else "right")
    sites = {f"{s} (trained nothing)" if s in found["strangers"] else s: e for s, e in found["sites"].items()}
    for place, scores in {"all sites": found["pooled"], **sites, **found["devices"]}.items():
        for number, (score, entry) in enumerate(scores.items()):
            table.add_row(
                "" if number else place,
                score,
                str(entry["exams"]),
                str(entry["patients"]),
                _with_interval(entry["accuracy"]),
                _with_interval(entry["kappa_linear"]),
            )
    gains = Table(
        box=box.SIMPLE, title="alone against together, on own patients: accuracy", title_justify="left"
    )
    for column in ("", "score", "alone", "together", "gain"):
        gains.add_column(column, justify="left" if column in ("", "score") else "right")
    for score, of in found["gains"].items():
        for place, entry in {"mean of sites": of["mean"], **of["sites"]}.items():
            shown = [_with_interval(entry["accuracy"][system]) for system in ("alone", "together", "gain")]
            gains.add_row(place, score, *shown)
    said = (*inside_tables.promises(found, {}), *inside_tables.kept_back(found))
    return Group(table, *([gains] if found["gains"] else []), *map(Text, said))


def matrix(score: str, header: Sequence[str], rows: Rows) -> Table:
    """Accuracy of campaigns by where they are judged, of :func:`server.report.inside_tables.matrix`."""
    table = Table(box=box.SIMPLE, title=f"accuracy, {score}, on held-out patients of", title_justify="left")
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for label, cells in rows:
        table.add_row(label.replace("\n", " · "), *(f"{value} {small}".strip() for value, small in cells))
    return table


def _with_interval(entry: Json) -> str:
    value, (low, high) = entry["value"], entry["ci95"]
    return "n/a" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _groups(rounds: RoundLines, status: CampaignStatus) -> RenderableType:
    if not status.groups:
        return Text("")
    table = Table(box=box.SIMPLE, title=f"groups of stage {status.stage}", title_justify="left")
    for column in ("group", "round", "loss", "AUC", "seconds"):
        table.add_column(column)
    last = rounds.of_stage(status.stage)
    for record in last[:MOST_GROUPS]:
        cells = (_number(record[key]) for key in ("loss", "auc", "seconds"))
        table.add_row(str(record["group"]), str(record["round"]), *cells)
    if len(last) > MOST_GROUPS:
        table.add_row(f"and {len(last) - MOST_GROUPS} more", "", "", "", "")
    return table


def last_seen(site: Presence | None) -> str:
    """When a site was last connected, in words."""
    if site is None:
        return "never"
    return "connected" if site.online else _ago(site.last_seen)


def _ago(time: str) -> str:
    if not time:
        return "never"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    return f"{timedelta(seconds=max(0, round(seconds)))} ago"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""
