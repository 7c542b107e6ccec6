"""Sums for stacked regression as they come from sites: looked at, and added up in the order of the sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.ensemble.stacked_regression import NormalSums
from common.errors import UpdateError
from common.messages import TrainReply
from common.methods.groups import Group
from common.methods.stages import stacked
from common.settings import Settings
from server.rounds.journal import SitesSums


def read(reply: TrainReply, group: Group, settings: Settings, *, scores: bool) -> dict[str, NormalSums]:
    """What a site's reply has.

    Args:
        reply: of the site.
        group: that was asked.
        settings: of the campaign.
        scores: whether the round scores the final weights.

    Raises:
        UpdateError: if they are of no networks of the group, come in another round, or cannot be such sums.
    """
    expected = stacked(group.networks, settings) if scores else {}
    if not set(reply.stacking) <= set(expected):
        raise UpdateError(
            f"Expected sums for stacking of {sorted(expected)} only, got {sorted(reply.stacking)!s:.200}"
        )
    return {
        name: NormalSums.read(matrix, networks=len(expected[name])) for name, matrix in reply.stacking.items()
    }


def added(replies: Iterable[tuple[str, Mapping[str, NormalSums]]]) -> dict[str, SitesSums]:
    """The sums of all sites.

    Args:
        replies: site and its sums, in the order of the sites.
    """
    found: dict[str, SitesSums] = {}
    for site, sums in replies:
        for name, of_site in sums.items():
            before = found.get(name)
            total = of_site if before is None else before.total + of_site
            sites = {**(before.sites if before is not None else {}), site: of_site.exams}
            found[name] = SitesSums(sites=sites, sums=tuple(map(tuple, total.matrix.tolist())))
    return found
