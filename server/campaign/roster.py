"""Who may take part in a campaign."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The sites of a campaign.

    Attributes:
        count: how many take part.
        keys: registered site -> Ed25519 key of its receipts, in hex; empty in a simulation, where whoever is
            connected takes part under the name that it gives itself.
        gone: sites of the campaign that are no longer registered: they count as missing.
    """

    count: int
    keys: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()

    @classmethod
    def anyone(cls, count: int) -> Roster:
        """A simulation's sites."""
        return cls(count=count)

    @classmethod
    def of(cls, keys: Mapping[str, str], *, gone: Iterable[str] = ()) -> Roster:
        """Registered sites and their keys, and sites that were registered."""
        left = tuple(gone)
        return cls(count=len(keys) + len(left), keys=dict(keys), gone=left)

    @property
    def registered(self) -> bool:
        """Whether the sites are known by name: real hospitals, which may be away for a while."""
        return bool(self.keys)
