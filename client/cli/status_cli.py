"""``synofed site status``: whether the site is connected, and what waits for its people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import typer

from client.cli.cli_options import AsJson, Folder
from client.connection import join
from client.log import chain
from client.site.site import Site
from client.state import decisions


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """Where a site stands.

    Attributes:
        connection: ``connected``, ``waiting``, ... as ``site join`` noted it last; ``not joined``: none runs.
        reason: why it waits; empty where it does not.
        since: when that began; empty if never.
        campaigns: short hash -> its status here.
        last: what the log's last entry tells of; empty in an empty log.
        last_time: of that entry.
    """

    site: str
    connection: str
    reason: str
    since: str
    campaigns: dict[str, str]
    last: str
    last_time: str


def find(site: Site) -> SiteStatus:
    """Where a site stands, from its own files.

    Raises:
        VerificationError: if its log or a decision is damaged.
    """
    noted = join.noted(site.folder)
    entry = chain.last(site.folder / chain.NAME)
    return SiteStatus(
        site=site.name,
        connection=noted.get("state", "not joined"),
        reason=noted.get("reason", ""),
        since=noted.get("since", ""),
        campaigns={h[:12]: str(state.status) for h, state in decisions.listed(site).items()},
        last=str(entry.content.get("event", "")) if entry is not None else "",
        last_time=str(entry.content.get("time", "")) if entry is not None else "",
    )


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show whether the site is connected, and which campaigns await a decision."""
    found = find(Site.open(folder))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    since = f" since {found.since}" if found.since else ""
    typer.echo(f"{found.site}: {found.connection}{since}{f': {found.reason}' if found.reason else ''}")
    for plan_hash, state in found.campaigns.items():
        waits = f": synofed site campaigns show {folder} {plan_hash}" if state == "waiting" else ""
        typer.echo(f"  campaign {plan_hash} is {state}{waits}")
    typer.echo(f"  last in the log: {found.last} {found.last_time}" if found.last else "  the log is empty")
