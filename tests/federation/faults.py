"""A grid that injects faults, and sites that are processes of their own, so that they can be killed.

Messages and replies are lost, late, or come twice; a node is away for a while; everything in flight is forgotten, as
when the SuperLink is restored; a site's process dies.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from client.app import app as client_app
from common import wire
from common.messages import Refusal
from simulation.engine.grid import App, LocalGrid, arrive

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["client.app", "server.campaign.campaign", "simulation.engine.grid"])


class Clock:
    """Stands in for a module's ``time``: flies ahead when it is told to."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        """Seconds since some instant."""
        return time.monotonic() + self.ahead_s

    def sleep(self, seconds: float) -> None:
        """Wait, really."""
        time.sleep(seconds)


class Fault(Protocol):
    """What goes wrong, and when; the default does nothing."""

    def sending(self, site: str, message: Message, number: int) -> bool:
        """Whether a message, the site's ``number``-th, arrives at the site."""
        return True

    def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
        """Delays in seconds after which copies of the reply arrive; none: it is lost."""
        return (0.0,)

    def pulled(self, site: str, reply: Message) -> None:
        """Told of every reply that the centre takes."""
        return

    def online(self, site: str) -> bool:
        """Whether the site is connected."""
        return True


class FaultyGrid(LocalGrid):
    """Registered sites in this process, behind a link that fails."""

    def __init__(
        self, folders: Sequence[Path], answer: Callable[[Path, Message], Message], fault: Fault
    ) -> None:
        super().__init__()
        self._folders: Mapping[int, Path] = {100 + i: folder for i, folder in enumerate(folders)}
        self._answer = answer
        self._fault = fault
        self._lock = threading.Lock()
        self._arrived: dict[str, list[tuple[float, Message]]] = {}
        self._delivering: list[threading.Thread] = []
        self._sent: dict[int, int] = dict.fromkeys(self._folders, 0)
        self.activated: dict[int, int] = dict.fromkeys(self._folders, 0)
        self.asked: list[tuple[str, str]] = []
        """Site and group of every message that was sent."""

    def get_node_ids(self) -> list[int]:
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=folder.name, last_activated_at=str(self.activated[node]))
            for node, folder in self._folders.items()
            if self._fault.online(folder.name)
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message_id = arrive(message)
            ids.append(message_id)
            self._arrived[message_id] = []
            thread = threading.Thread(target=self._deliver, args=(message_id, message), daemon=True)
            self._delivering.append(thread)
            thread.start()
        return ids

    def _deliver(self, message_id: str, message: Message) -> None:
        node = message.metadata.dst_node_id
        site = self._folders[node].name
        with self._lock:
            self._sent[node] += 1
            number = self._sent[node]
            self.asked.append((site, message.metadata.group_id))
        if not self._fault.online(site):
            unavailable = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="Node Unavailable")
            self._arrive(message_id, Message(unavailable, reply_to=message), 0.0)
            return
        if not self._fault.sending(site, message, number):
            return
        try:
            reply = self._answer(self._folders[node], message)
        except ConnectionError:  # the site's process died; its supervisor starts it again
            self.activated[node] += 1
            return
        for delay in self._fault.replying(site, reply, number):
            self._arrive(message_id, reply, delay)

    def _arrive(self, message_id: str, reply: Message, delay: float) -> None:
        with self._lock:
            if message_id in self._arrived:
                self._arrived[message_id].append((time.monotonic() + delay, reply))

    def settle(self) -> None:
        """Wait until no site has a message in hand: a thread that trains when Python ends aborts it."""
        for thread in self._delivering:
            thread.join()

    def forget(self) -> None:
        """Everything in flight is lost."""
        with self._lock:
            self._arrived.clear()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        pulled = []
        now = time.monotonic()
        with self._lock:
            for message_id in message_ids:
                waiting = self._arrived.get(message_id, [])
                pulled += [reply for at, reply in waiting if at <= now]
                if message_id in self._arrived:
                    self._arrived[message_id] = [(at, reply) for at, reply in waiting if at > now]
        for reply in pulled:
            self._fault.pulled(self._folders[reply.metadata.src_node_id].name, reply)
        return pulled


def in_process(app: App, *, threads: int = 1) -> Callable[[Path, Message], Message]:
    """Sites that answer in this process, one message at a time each."""
    locks: dict[Path, threading.Lock] = {}

    def answer(folder: Path, message: Message) -> Message:
        with locks.setdefault(folder, threading.Lock()):
            config: dict[str, bool | float | int | str] = {
                "site-folder": str(folder),
                "device": "cpu",
                "threads": threads,
            }
            return app(message, Context(1, message.metadata.dst_node_id, config, RecordDict(), {}))

    return answer


def replay(rounds: Iterable[tuple[str, int, Iterable[str]]]) -> App:
    """Sites of which each answers in the rounds of a group that it took part in, and in no other.

    Args:
        rounds: group, round, and the sites that took part.
    """
    took_part = {(group, number, site) for group, number, sites in rounds for site in sites}

    def app(message: Message, context: Context) -> Message:
        site = Path(str(context.node_config["site-folder"])).name
        group, _, number = message.metadata.group_id.rpartition("/")
        if message.metadata.message_type == wire.TRAIN and (group, int(number), site) not in took_part:
            return Message(wire.encode(Refusal(site=site, code="away")), reply_to=message)
        return client_app(message, context)

    return app


class Sites:
    """Sites that are processes; one that dies is started again by the next message, as its supervisor does.

    Args:
        serve: what a site's process does: it gets its folder, a connection of messages and replies, and ``plan``.
        plan: told to every process that is started: what it is to die of; ``None`` once it has died.
    """

    def __init__(
        self, serve: Callable[[Path, Connection, str | None], None], plan: Mapping[str, str]
    ) -> None:
        self._serve = serve
        self._plan = dict(plan)
        self._links: dict[Path, tuple[multiprocessing.process.BaseProcess, Connection]] = {}
        self._locks: dict[Path, threading.Lock] = {}
        self._processes = threading.Lock()  # two threads that ask for one exit code: the second gets another
        self._closed = False
        self.deaths: list[str] = []

    def answer(self, folder: Path, message: Message) -> Message:
        """A reply, or :class:`ConnectionError` if the site died of the message or all have been ended."""
        with self._locks.setdefault(folder, threading.Lock()):
            process, link = self._links.get(folder) or self._start(folder)
            try:
                link.send_bytes(pickle.dumps(message))
                reply: Message = pickle.loads(link.recv_bytes())
            except (EOFError, OSError):
                with self._processes:
                    if not self._closed:
                        process.join()
                        assert process.exitcode == -signal.SIGKILL
                        self.deaths.append(folder.name)
                        self._plan.pop(folder.name, None)
                        del self._links[folder]
                raise ConnectionError(folder.name) from None
            return reply

    def _start(self, folder: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        with self._processes:
            if self._closed:
                raise ConnectionError(folder.name)
            ours, theirs = processes.Pipe()
            process = processes.Process(
                target=self._serve, args=(folder, theirs, self._plan.get(folder.name)), daemon=True
            )
            process.start()
            theirs.close()
            self._links[folder] = (process, ours)
            return self._links[folder]

    def close(self) -> None:
        """End all processes."""
        with self._processes:
            self._closed = True
            for process, _ in self._links.values():
                process.kill()
                process.join()


def die() -> None:
    """As a machine that loses its power."""
    os.kill(os.getpid(), signal.SIGKILL)
