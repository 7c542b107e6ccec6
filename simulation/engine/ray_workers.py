"""The nodes of a Ray cluster as places for pieces of work; without an address, this machine's cores as Ray sees them.

A piece whose node or process dies is run again elsewhere, ``RETRIES`` times, and nothing but it: a site answers a
request that it has answered before with the same bytes.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, cast

from client.site import training_device
from common.errors import CampaignError, SynofedError
from common.sections.compute import ComputeSettings
from simulation.engine import ray_engine
from simulation.engine.places import Kept, P, Place, R

RETRIES = 3
_KEPT = Kept()
"""Of a node's process, which works for one driver and on one piece at a time."""


class RayWorkers:
    """Runs each piece wherever a node has a site's share of CPUs and GPUs free.

    Args:
        compute: threads of a piece, the cluster's address, a piece's share of a GPU.
        folders: that pieces read and write: the sites' and the run's.
        say: told at the end how many pieces each node did.
    """

    def __init__(self, compute: ComputeSettings, folders: Sequence[Path], say: Callable[[str], None]) -> None:
        self.stopped = threading.Event()
        self._say, self._done = say, Counter[str]()
        self._compute, self._folders = compute, tuple(folder.resolve() for folder in folders)
        self._needs = ray_engine.needs(compute)
        self._task: Any = None
        # In the main thread Ray would answer SIGTERM itself; its processes here die with the thread that began them.
        self._apart = ThreadPoolExecutor(1, thread_name_prefix="ray")

    def submit(
        self, work: Callable[Concatenate[Place, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """See :class:`simulation.engine.places.Places`.

        What is one of our errors at a node is the same error here, with its text; of any other the name alone.
        """
        answer: Future[R] = Future()

        def finish(done: Future[tuple[str, R]]) -> None:
            try:
                node, result = done.result()
                self._done[node] += 1
                answer.set_result(result)
            except Exception as error:
                answer.set_exception(_ours(error))

        asked = self._task.remote(self._compute, str(Path.cwd()), work, args, kwargs)
        asked.future().add_done_callback(finish)
        return answer

    def __enter__(self) -> RayWorkers:
        try:
            self._apart.submit(
                ray_engine.join, self._compute.ray.address, self._folders, self._needs
            ).result()
        except BaseException:
            self._apart.shutdown(wait=False)
            raise
        import ray  # noqa: PLC0415

        self._task = cast(Any, ray.remote)(**self._needs, max_retries=RETRIES)(_work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        if kind is not KeyboardInterrupt:  # then Ray must not be touched: its processes die with this one
            import ray  # noqa: PLC0415

            ray.shutdown()
            if self._done:
                nodes = ", ".join(f"{count} at {node}" for node, count in sorted(self._done.items()))
                self._say(f"Pieces of work on nodes of Ray: {nodes}")
        self._apart.shutdown(wait=False)


def _work(
    compute: ComputeSettings,
    folder: str,
    work: Callable[..., R],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> tuple[str, R]:
    """On a node: which it is, and the result; paths start from the same folder as here, where a node sees it."""
    import ray  # noqa: PLC0415
    import torch  # noqa: PLC0415

    with suppress(OSError):
        os.chdir(folder)
    torch.set_num_threads(compute.threads)
    device = str(training_device.found("auto"))
    place = Place(device=device, threads=compute.threads, stacked=compute.stacked, kept=_KEPT)
    node = f"{socket.gethostname()} ({ray.get_runtime_context().get_node_id()[:6]})"
    return node, work(place, *args, **kwargs)


def _ours(error: Exception) -> SynofedError:
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, SynofedError):
        return type(cause)(str(cause))
    found = CampaignError(
        f"A piece of work broke on a node of the Ray cluster: {type(cause).__name__}. Go on with --resume"
    )
    found.__cause__ = error
    return found
