"""Flower's SuperNode and its executor, so guarded that nothing runs but the synofed installed here.

``python -P -m client.connection.guarded_supernode node ...`` and ``... executor ...`` take the arguments of
``flower-supernode`` and ``flower-superexec``. The one module at a site that touches Flower's internal names;
``tests/client/connection/test_guarded_supernode.py`` fails when they change.

Guarantees, each of which fails closed:

* A run is taken up only if its package is, byte for byte, the one of the installed version, and the run names it
  as that: name, version and hash are what Flower derives paths from. Else every message of the run is answered
  with an error, and nothing of the package is unpacked or imported.
* The executor checks the package again, works on nothing but ClientApps, and never installs dependencies.
* Only an executor that knows the node's secret gets work, and it only takes work from a node that has the
  certificate that was made for it. A task's token passes through a pipe, not through arguments that other accounts
  can see.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from flwr.app import Error
from flwr.common.constant import ErrorCode
from flwr.supercore.constant import TaskType

from client.connection.supernode import SITE_VARIABLE
from client.log.log import site_log
from common import fab
from common.version import VERSION

POLL_S = 0.5
"""Between two looks for a message while there is work."""
IDLE_POLL_S = 3.0
"""Between two looks for a message while there is none: Flower's own."""
BUSY_S = 60.0
"""So long after a message there is taken to be work."""
REPLY_POLL_S = 0.05
"""Between two looks for the reply of the ClientApp."""
PRELOADED = (
    "client.app",
    "client.rounds.memory",
    "client.rounds.node",
    "client.data.store",
    "flwr.supernode.runtime.run_clientapp",
    "torch._dynamo",  # the first optimiser of a process imports it, which takes a second
)
"""Imported once by the process that tasks are forked from."""


def is_permitted(package: bytes) -> bool:
    """Whether a package is that of the installed version."""
    return hashlib.sha256(package).hexdigest() == fab.fab_hash()


def is_expected(run: Any) -> bool:
    """Whether a run names the package as what it is."""
    return bool(
        (run.fab_id, run.fab_version, run.fab_hash)
        == (f"{fab.PUBLISHER}/{fab.NAME}", VERSION, fab.fab_hash())
        and run.primary_task_type != TaskType.AGENT_APP
        and set(run.override_config) <= {fab.CAMPAIGN}
    )


def guard_node() -> None:
    """Make this process's SuperNode check every package, and poll faster while there is work."""
    cli = import_module(
        "flwr.supernode.cli.flower_supernode"
    )  # packages show functions of these names instead
    loop = import_module("flwr.supernode.start_client_internal")
    connect, start = _found(loop, "http_request_response"), _found(loop, "start_client_internal")
    pace = _Pace()

    @contextmanager
    def guarded_connection(*arguments: Any, **named: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*arguments, **named) as connection:
            node_id, receive, send, get_run, get_fab, *others = connection
            runs: dict[int, Any] = {}

            def checked_run(run_id: int) -> Any:
                runs[run_id] = get_run(run_id)
                return runs[run_id]

            def checked_fab(fab_hash: str, run_id: int) -> Any:
                package, run = get_fab(fab_hash, run_id), runs.pop(run_id)
                expected = is_expected(run) and package.hash_str == fab.fab_hash()
                if not (expected and is_permitted(package.content)):
                    _tell_refused(str(run.fab_version))
                # without this entry the loop refuses; with it, it asks `_verify_fab`
                package.verifications = {"valid_license": "installed"} if expected else {}
                return package

            yield (node_id, pace.watched(receive), send, checked_run, checked_fab, *others)

    def guarded_start(**named: Any) -> None:
        if named["isolation"] != "process" or not named["superexec_auth_secret"]:
            sys.exit(
                "Expected --isolation process with a secret: anybody here could take over this site's tasks"
            )
        if named["runtime_certificates"] is None or named["authentication_keys"] is None:
            sys.exit("Expected certificates of the local port and the site's key")
        start(
            **{
                **named,
                "trusted_entities": {"installed": fab.fab_hash()},
                "runtime_dependency_install": False,
            }
        )
        os._exit(
            1
        )  # the loop never ends but by an error, after which other threads would keep the process alive

    pull = _found(loop, "_pull_and_store_message")

    def pulled(*, state: Any, **named: Any) -> Any:
        run_id = pull(state=state, **named)
        # else a reply that was overtaken by one of a run that has ended stays until the next message comes
        return 0 if run_id is None and _reply_waits(state) else run_id

    _replace(loop, "_pull_and_store_message", pulled)
    _replace(loop, "http_request_response", guarded_connection)
    _replace(loop, "FAB_VERIFICATION_ERROR", Error(ErrorCode.INVALID_FAB, fab.refusal()))
    _replace(loop, "_verify_fab", lambda package, _entities: is_permitted(package.content))
    _replace(loop, "time", SimpleNamespace(sleep=pace.sleep))
    _replace(cli, "start_client_internal", guarded_start)


def _tell_refused(version: str) -> None:
    """Enter a refused package in the site's log."""
    folder = os.environ.get(SITE_VARIABLE)
    if folder:
        other = f", the centre says that it runs {version!r:.40}: bring both to one version"
        why = other if version != VERSION else ": what came under its name is something else"
        site_log(Path(folder), logging.WARNING, f"A run was refused. {fab.refusal()}{why}")


def _reply_waits(state: Any) -> bool:
    """Whether a reply lies in the node's state that was not taken for sending yet."""
    with state.lock_msg_store:
        entries = list(state.msg_store.values())
    return any(entry.message.metadata.reply_to_message_id and not entry.is_retrieved for entry in entries)


class _Pace:
    """How long the SuperNode's loop sleeps."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_message = -BUSY_S

    def watched(self, receive: Callable[[], Any]) -> Callable[[], Any]:
        """A function that looks for a message, and remembers when there was one."""

        def watching() -> Any:
            message = receive()
            if message is not None:
                self._last_message = self._clock()
            return message

        return watching

    def sleep(self, seconds: float | int) -> None:
        """Sleep for less than the loop asks for."""
        time.sleep(min(seconds, self._wait(seconds)))

    def _wait(self, seconds: float | int) -> float:
        if seconds < 1:
            return REPLY_POLL_S
        return POLL_S if self._clock() - self._last_message < BUSY_S else IDLE_POLL_S


def guard_executor() -> None:
    """Make this process's executor fork its tasks from a process that has imported all they need."""
    superexec = import_module("flwr.supercore.superexec.run_superexec")
    _replace(superexec, "get_executor", lambda *_arguments, **_named: ForkingExecutor())


class ForkingExecutor:
    """Runs each ClientApp in a process of its own, forked from one that is ready; no other tasks."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._tasks: list[Any] = []
        self._fork(_nothing, ())  # starts the server, so that its imports cost no message any time

    def get_eligible_capacity(
        self, supported: set[TaskType], **_named: Any
    ) -> tuple[set[TaskType], set[str]]:
        """The tasks that are taken on: while none is running, a ClientApp."""
        return supported & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: Any) -> Any:
        """Start a task."""
        from flwr.supercore.superexec.executor import LaunchResult  # noqa: PLC0415

        if spec.task_type != TaskType.CLIENT_APP or spec.insecure or spec.runtime_dependency_install:
            return LaunchResult.failed("Only ClientApps run here, over TLS, with what is installed")
        certificates = Path(spec.root_certificates_path).read_bytes()
        self._fork(_run_task, (spec.runtime_api_address, spec.token, certificates, os.getpid()))
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Take leave of tasks that have ended."""
        self._tasks = [task for task in self._tasks if task.is_alive()]

    def close(self) -> None:
        """Tasks watch this process and end with it."""

    def _fork(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        task = self._context.Process(target=target, args=arguments, daemon=True)
        task.start()
        self._tasks.append(task)


def _nothing() -> None:
    """The first task: its only use is that the server is up."""


def _run_task(address: str, token: str, certificates: bytes, parent: int) -> None:
    """One message's ClientApp, in a process of its own."""
    clientapp = import_module("flwr.supernode.runtime.run_clientapp")
    install = _found(clientapp, "install_from_fab")

    def checked_install(package: bytes, **named: Any) -> Any:
        if not is_permitted(package):
            raise ValueError("The package is not that of the installed version")
        return install(package, **named)

    _replace(clientapp, "install_from_fab", checked_install)
    clientapp.run_clientapp(
        runtime_api_address=address,
        token=token,
        insecure=False,
        certificates=certificates,
        parent_pid=parent,
        runtime_dependency_install=False,
    )


def _found(module: ModuleType, name: str) -> Any:
    """Something of Flower's own; without it nothing is guarded, so nothing starts."""
    if not hasattr(module, name):
        sys.exit(f"Expected {module.__name__}.{name} in Flower: this version of it cannot be guarded")
    return getattr(module, name)


def _replace(module: ModuleType, name: str, replacement: object) -> None:
    _found(module, name)
    setattr(module, name, replacement)


def main(arguments: Sequence[str]) -> None:
    """Run the node or the executor until it ends."""
    role, *rest = arguments
    if role == "node":
        guard_node()
        from flwr.supernode.cli.flower_supernode import flower_supernode as run  # noqa: PLC0415
    elif role == "executor":
        guard_executor()
        from flwr.supercore.cli.flower_superexec import flower_superexec as run  # noqa: PLC0415
    else:
        sys.exit(f"Expected node or executor, got {role!r}")
    sys.argv = [f"synofed-{role}", *rest]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
