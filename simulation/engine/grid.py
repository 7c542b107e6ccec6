"""A Flower Grid whose messages are pieces of work: here direct calls, without a server, a network or spare copies."""

from __future__ import annotations

import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Concatenate

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.errors import CampaignError
from server.campaign import waiting
from simulation.engine.places import Kept, P, Place, Places, R

App = Callable[[Message, Context], Message]
"""A ClientApp, or something that answers like one."""

CRASHED = 0
POLL_S = 0.01


class Workers:
    """One thread per device of this machine; each works on one piece at a time."""

    def __init__(self, devices: Sequence[str], *, threads: int, stacked: bool = False) -> None:
        torch.set_num_threads(threads)
        self.stopped = threading.Event()
        self._free: queue.SimpleQueue[Place] = queue.SimpleQueue()
        kept = {device: Kept() for device in devices}
        for device in devices:
            self._free.put(Place(device=device, threads=threads, stacked=stacked, kept=kept[device]))
        self._pool = ThreadPoolExecutor(max_workers=len(devices), thread_name_prefix="site")

    def submit(
        self, work: Callable[Concatenate[Place, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """See :class:`simulation.engine.places.Places`."""

        def run() -> R:
            place = self._free.get()
            try:
                torch.set_num_threads(place.threads)  # each thread has its own number
                return work(place, *args, **kwargs)
            finally:
                self._free.put(place)

        return self._pool.submit(run)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._pool.shutdown(wait=kind is not KeyboardInterrupt, cancel_futures=True)


def answer(place: Place, app: App, message: Message, folder: Path) -> Message:
    """A piece of work: answer a message at a site."""
    try:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={
                "site-folder": str(folder),
                "device": place.device,
                "threads": place.threads,
                "stacked": place.stacked,
            },
            state=RecordDict(),
            run_config={},
        )
        return app(message, context)
    except Exception as error:
        # the app answers its own errors; what is raised here is a defect of the engine
        return Message(Error(code=CRASHED, reason=type(error).__name__), reply_to=message)


class LocalGrid(Grid):
    """What a grid whose sites are on this machine has in common: its run, its messages and waiting for replies."""

    def __init__(self) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self._run = Run.create_empty(run_id=1)

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        ends = time.monotonic() + timeout if timeout is not None else math.inf
        waited = set(self.push_messages(messages))
        replies: list[Message] = []
        while waited and time.monotonic() < ends:
            arrived = list(self.pull_messages(waited))
            replies += arrived
            waited -= {reply.metadata.reply_to_message_id for reply in arrived}
            if not arrived:
                time.sleep(POLL_S)
        return replies


def arrive(message: Message) -> str:
    """Give a message its id, as the SuperLink does on arrival."""
    message_id = uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


class InProcessGrid(LocalGrid):
    """Sites that answer wherever the workers are, through the same ClientApp that a hospital runs."""

    def __init__(self, app: App, folders: Sequence[Path], workers: Places) -> None:
        super().__init__()
        self._app = app
        self._workers = workers
        self._folders: Mapping[int, Path] = {100 + index: folder for index, folder in enumerate(folders)}
        self._replies: dict[str, Future[Message]] = {}
        self._arrived = threading.Event()

    def get_node_ids(self) -> list[int]:
        """See :class:`flwr.serverapp.Grid`."""
        return list(self._folders)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """See :class:`flwr.serverapp.Grid`."""
        ids = []
        for message in messages:
            ids.append(arrive(message))
            folder = self._folders[message.metadata.dst_node_id]
            reply = self._replies[ids[-1]] = self._workers.submit(answer, self._app, message, folder)
            reply.add_done_callback(lambda _: self._arrived.set())
        return ids

    def wait(self, seconds: float) -> None:
        """See :class:`server.campaign.waiting.Telling`."""
        self._arrived.wait(seconds)
        self._arrived.clear()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        done = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [self._replies.pop(i).result() for i in done]


class StrictGrid(Grid):
    """A simulation's grid, on which a broken worker is an error of the run.

    Sites answer their own errors; an error reply therefore says that the engine broke (a worker died, a message
    could not be delivered), and a simulation never goes on without a site because of that.
    """

    def __init__(self, grid: Grid, stopped: threading.Event | None = None) -> None:
        self._grid = grid
        self._stopped = stopped or threading.Event()
        if isinstance(grid, waiting.Telling):  # else this one does not tell either
            self.wait = grid.wait

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See :meth:`pull_messages`."""
        self._check()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """See :class:`flwr.serverapp.Grid`.

        Raises:
            CampaignError: if a worker broke, or the run was interrupted.
        """
        self._check()
        return [_intact(message) for message in self._grid.pull_messages(message_ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """See :meth:`pull_messages`."""
        return [_intact(message) for message in self._grid.send_and_receive(messages, timeout=timeout)]

    def _check(self) -> None:
        if self._stopped.is_set():
            raise CampaignError("The run was interrupted")


def _intact(message: Message) -> Message:
    if message.has_error():
        raise CampaignError(
            f"A simulated site's worker broke: {(message.error.reason or 'no reason given')[:200]}"
        )
    return message
