"""Against whom an epsilon holds where sites share out the noise of one sum (:mod:`common.secure_aggregation`).

Each of U survivors adds 1 / (U - t) of the variance that is booked. Whoever knows some of these shares takes them
away; what is left decides. With the fewest survivors, and so at most:

===========================================  ===================  =======================================
onlooker                                     shares it knows      noise left, over what is booked
===========================================  ===================  =======================================
the centre together with t of the sites      t                    1
one site that takes part, by itself          its own              sqrt((U - 1) / (U - t))
whoever has the networks and no site         none                 sqrt(U / (U - t))
===========================================  ===================  =======================================

So without colluders (t = 0) a site that takes part sees less noise than is booked: sigma 10.78 over 60 steps costs
2.997, and 4.46, 3.78 or 3.40 against a fellow site at 2, 3 or 5 survivors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from common.privacy.accounting import accounting
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.mechanism.noise_shares import actual_multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class Onlookers:
    """Epsilon of the same sums against each.

    Attributes:
        centre: which works with ``colluders`` of the sites; what is booked.
        fellow: another site that takes part, by itself.
        outsider: who has the networks, and knows no share.
        survivors: of each sum, at least.
        colluders: t.
    """

    centre: float
    fellow: float
    outsider: float
    survivors: int
    colluders: int

    @property
    def sentence(self) -> str:
        """All of it, in words."""
        sites = "no site" if self.colluders == 0 else f"at most {self.colluders} of the sites"
        return (
            f"Against the centre, which opens sums over {self.survivors} sites or more and works with {sites}: "
            f"epsilon {self.centre:.3f}; against another site that takes part, by itself: {self.fellow:.3f}; against "
            f"whoever has the networks alone: {self.outsider:.3f}. A patient's own site knows everything; more sites "
            f"that work together know more."
        )


def onlookers(
    steps: Sequence[PrivateSteps], *, survivors: int, colluders: int, delta: float | int
) -> Onlookers:
    """Epsilon of a campaign's sums for each onlooker.

    Args:
        steps: as they are booked.
        survivors: the fewest sites of a sum (U), at least ``colluders + 1``.
        colluders: of them, how many may work with the centre (t).
        delta: in (0, 1).
    """
    return _onlookers(tuple(steps), survivors, colluders, delta)


@lru_cache(maxsize=64)
def _onlookers(
    steps: tuple[PrivateSteps, ...], survivors: int, colluders: int, delta: float | int
) -> Onlookers:
    def against(honest: int) -> float:
        seen = [
            PrivateSteps(
                sample_rate=one.sample_rate,
                noise_multiplier=actual_multiplier(
                    one.noise_multiplier, made_for=survivors - colluders, honest=honest
                ),
                count=one.count,
            )
            for one in steps
        ]
        return accounting.epsilon(seen, delta=delta)

    return Onlookers(
        centre=against(survivors - colluders),
        fellow=against(survivors - 1),
        outsider=against(survivors),
        survivors=survivors,
        colluders=colluders,
    )
