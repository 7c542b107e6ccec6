"""Where pieces of work run that do not need each other: this machine's devices, or the nodes of a Ray cluster.

A piece is a function of a module and what it is asked, which may have to travel: paths that every node sees,
settings, small arrays. Who cuts work into pieces does not know where they run, so that the bits are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

P = ParamSpec("P")
R = TypeVar("R")


class Kept:
    """What was opened last at a place: pieces that need the same, one after the other, open it once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[object, object] = None, None

    def get(self, key: object, make: Callable[[], R]) -> R:
        """What ``make`` gives for this key; whatever was kept before goes first."""
        with self._lock:
            if self._last[0] != key:
                self._last = None, None
                self._last = key, make()
            return self._last[1]  # type: ignore[return-value]  # of the same key


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a piece of work has where it runs.

    Attributes:
        device: a name of torch's.
        threads: CPU threads, set already.
        stacked: whether networks of one shape train at once.
        kept: what pieces before it opened on this device.
    """

    device: str
    threads: int
    stacked: bool
    kept: Kept = field(default_factory=Kept)


@runtime_checkable
class Places(Protocol):
    """Runs pieces of work, each as soon as there is a place for it.

    Attributes:
        stopped: set once nobody waits for their work any more: campaigns over them end.
    """

    stopped: threading.Event

    def submit(
        self, work: Callable[Concatenate[Place, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Have a piece of work done; its result, or what was raised at it, comes with the future."""

    def __enter__(self) -> Places: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def in_order(
    pieces: Sequence[Future[R]], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[R]:
    """The results of pieces, in the order in which they were asked for.

    Args:
        pieces: as :meth:`Places.submit` gave them.
        progress: told of pieces done, out of all.
    """
    results = []
    for piece in pieces:
        results.append(piece.result())
        progress(len(results), len(pieces))
    return results
