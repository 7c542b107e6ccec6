"""Who may take part in a campaign."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The sites of a campaign.

    Attributes:
        count: how many are expected from the start.
        keys: registered site -> Ed25519 key of its receipts, in hex; empty in a simulation, where whoever is
            connected takes part under the name that it gives itself.
        gone: sites of the campaign that are no longer registered: they count as missing.
        late: of the registered ones, those that were admitted later: nobody waits for them, and they train once they
            have agreed.
        judges: of the registered ones, those that are asked to agree, and train nothing.
    """

    count: int
    keys: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    late: frozenset[str] = frozenset()
    judges: frozenset[str] = frozenset()

    @classmethod
    def anyone(cls, count: int) -> Roster:
        """A simulation's sites."""
        return cls(count=count)

    @classmethod
    def of(
        cls,
        keys: Mapping[str, str],
        *,
        gone: Iterable[str] = (),
        late: Iterable[str] = (),
        judges: Iterable[str] = (),
    ) -> Roster:
        """Registered sites and their keys, and sites that were registered."""
        left, beside = tuple(gone), (frozenset(late), frozenset(judges))
        count = len(keys.keys() - beside[0] - beside[1]) + len(left)
        return cls(count=count, keys=dict(keys), gone=left, late=beside[0], judges=beside[1])

    @property
    def expected(self) -> frozenset[str]:
        """The registered sites that a campaign begins with."""
        return frozenset(self.keys) - self.late - self.judges

    @property
    def registered(self) -> bool:
        """Whether the sites are known by name: real hospitals, which may be away for a while."""
        return bool(self.keys)
