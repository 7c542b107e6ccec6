"""How the centre waits for replies: told of them where it can be, else by looking ever more seldom."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from flwr.serverapp import Grid

LONGEST_S = 0.5
_SHORTEST_S, _SHARE = 0.02, 0.05


@runtime_checkable
class Telling(Protocol):
    """A grid that knows when a reply has come, as one whose sites are on this machine does."""

    def wait(self, seconds: float) -> None:
        """Wait until a reply has come since the last call, or so long."""


def for_reply(grid: Grid, *, since: float) -> None:
    """Wait until a reply may have come, at most :data:`LONGEST_S`.

    A grid that does not tell is asked after 5 % of the time waited so far: prompt when rounds are short, idle when
    they are long.

    Args:
        grid: from which replies are pulled.
        since: of the last that came, by ``time.monotonic``.
    """
    if isinstance(grid, Telling):
        grid.wait(LONGEST_S)
    else:
        time.sleep(min(LONGEST_S, max(_SHORTEST_S, _SHARE * (time.monotonic() - since))))
