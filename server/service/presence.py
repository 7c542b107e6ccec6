"""Which sites are connected, as the service last saw it; written for commands that must not ask the SuperLink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from common.machine import atomic, file_lock
from common.sections.section import Section
from server.federation.home import Home
from server.runs.runs import now

if TYPE_CHECKING:
    from server.service.control import Node

NAME = "nodes.json"


class Presence(Section):
    """One site's connection."""

    online: bool
    """Whether it sent a sign of life within the last minute."""
    last_seen: str
    """When it last was there, ISO 8601; empty if never."""


class _File(Section):
    nodes: Mapping[str, Presence]


def write(home: Home, nodes: Iterable[Node]) -> None:
    """Keep what the SuperLink said."""
    present = now()
    seen = {
        node.name: Presence(online=node.online, last_seen=present if node.online else node.last_seen)
        for node in nodes
    }
    atomic.write(home.superlink / NAME, _File(nodes=seen).model_dump_json(indent=1).encode() + b"\n")


def read(home: Home) -> Mapping[str, Presence]:
    """The sites as they were last seen; nobody is online where no service runs."""
    try:
        found = _File.model_validate_json((home.superlink / NAME).read_bytes()).nodes
    except (OSError, ValidationError):
        return {}
    if up_by(home) is not None:
        return found
    return {name: one.model_copy(update={"online": False}) for name, one in found.items()}


def up_by(home: Home) -> int | None:
    """The process that serves a home, if one does."""
    return file_lock.holder(home.superlink) if home.superlink.is_dir() else None
