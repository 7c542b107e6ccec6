"""Whether a site is connected, and what waits for its people, by its own files."""

from __future__ import annotations

from dataclasses import dataclass

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
