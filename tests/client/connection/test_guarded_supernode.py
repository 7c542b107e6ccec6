"""What the guard relies on in Flower, tried on Flower's own functions: a change there fails here."""

import hashlib
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.nodestate import NodeStateFactory

from client.connection import guarded_supernode as guard
from client.connection.supernode import SITE_VARIABLE
from common.fab import CAMPAIGN, fab, fab_hash, refusal, refused_by
from common.version import VERSION
from tests.flower_package import package

LOOP = "flwr.supernode.start_client_internal"
START = "flwr.supernode.cli.flower_supernode"
CLIENTAPP = "flwr.supernode.runtime.run_clientapp"
RUN_ID, NODE_ID = 7, 11


def project(version: str = VERSION, clientapp: str = "client.app:app") -> str:
    return (
        f'[project]\nname = "synofed"\nversion = "{version}"\n[tool.flwr.app]\npublisher = "synofed"\n'
        f'[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "{clientapp}"\n'
        f'[tool.flwr.app.config]\n{CAMPAIGN} = ""\n'
    )


WITH_CODE = package({"pyproject.toml": project(clientapp="evil:app"), "evil.py": "raise SystemExit"})
NOT_LISTED = package({"pyproject.toml": project(version="0.0.0")})


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Flower's loop with its guard, which is taken off again after the test."""
    module, start = import_module(LOOP), import_module(START)
    for name in (
        "http_request_response",
        "_verify_fab",
        "_pull_and_store_message",
        "time",
        "FAB_VERIFICATION_ERROR",
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(start, "start_client_internal", start.__dict__["start_client_internal"])
    return module


def received(loop: ModuleType, run: Run, content: bytes, *, told_hash: str | None = None) -> tuple[Any, Any]:
    """Let the guarded loop take one message of a run whose package the centre sends; its state, and its reply."""
    metadata = Metadata(RUN_ID, "", 1, NODE_ID, "", "1/1", time.time(), 60.0, "train")
    message = make_message(metadata, RecordDict())
    metadata.__dict__["_message_id"] = message.object_id
    objects = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    sent = Fab(told_hash or hashlib.sha256(content).hexdigest(), content, {"valid_license": "Valid"})

    @contextmanager
    def centre(*_arguments: Any) -> Iterator[tuple[Any, ...]]:
        yield (
            NODE_ID,
            lambda: (message, get_object_tree(message)),
            None,
            lambda run_id: run,
            lambda fab_hash, run_id: sent,
            lambda run_id, object_id: objects[object_id],
            None,
            lambda run_id, message_id: None,
        )

    vars(loop)["http_request_response"] = centre
    guard.guard_node()
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    state = factory.state()
    state.set_node_id(NODE_ID)
    with loop.http_request_response("address", False) as connection:
        node_id, receive, _send, get_run, get_fab, pull_object, _push, confirm = connection
        assert node_id == NODE_ID
        loop._pull_and_store_message(
            state=state,
            object_store=factory.objectstore_factory.store(),
            node_config={},
            receive=receive,
            get_run=get_run,
            get_fab=get_fab,
            pull_object=pull_object,
            confirm_message_received=confirm,
            trusted_entities={"installed": fab_hash()},
        )
    replies = state.get_messages_legacy(is_reply=True)
    return state, replies[0] if replies else None


def run_of(**changes: Any) -> Run:
    run = Run.create_empty(run_id=RUN_ID)
    named = {
        "fab_id": "synofed/synofed",
        "fab_version": VERSION,
        "fab_hash": fab_hash(),
        "primary_task_type": TaskType.SERVER_APP,
        "override_config": {CAMPAIGN: "demo"},
    }
    for name, value in {**named, **changes}.items():
        assert hasattr(run, name), name
        setattr(run, name, value)
    return run


def test_a_reply_that_was_overtaken_is_sent_without_waiting_for_another_message(loop: ModuleType) -> None:
    guard.guard_node()
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    state = factory.state()

    def look() -> object:
        unused = dict.fromkeys(("get_run", "get_fab", "pull_object", "confirm_message_received"))
        store = factory.objectstore_factory.store()
        return loop._pull_and_store_message(
            state=state,
            object_store=store,
            node_config={},
            receive=lambda: None,
            trusted_entities={},
            **unused,
        )

    assert look() is None
    metadata = Metadata(RUN_ID, "", NODE_ID, 1, "asked before", "1/1", time.time(), 60.0, "train")
    reply = make_message(metadata, RecordDict())
    metadata.__dict__["_message_id"] = reply.object_id
    state.store_message(reply)
    assert look() is not None  # so the loop goes on to send
    assert len(state.get_messages_legacy(is_reply=True)) == 1
    assert look() is None


def test_the_package_of_the_installed_version_is_taken_up(loop: ModuleType) -> None:
    state, reply = received(loop, run_of(), fab())
    assert reply is None
    assert state.get_run(RUN_ID) is not None
    assert len(state.get_messages_legacy()) == 1


@pytest.mark.parametrize(
    ("run", "content", "told_hash"),
    [
        (run_of(fab_hash=hashlib.sha256(WITH_CODE).hexdigest()), WITH_CODE, None),
        (run_of(), WITH_CODE, fab_hash()),
        (run_of(fab_hash=hashlib.sha256(NOT_LISTED).hexdigest()), NOT_LISTED, None),
        (run_of(), fab(), "0" * 64),
        (run_of(fab_id="other/synofed"), fab(), None),
        (run_of(fab_version="../../../data"), fab(), None),
        (run_of(primary_task_type=TaskType.AGENT_APP), fab(), None),
        (run_of(override_config={CAMPAIGN: "demo", "other": 1}), fab(), None),
    ],
    ids=[
        "code",
        "code under our hash",
        "not listed",
        "another hash told",
        "publisher",
        "path",
        "agent",
        "setting",
    ],
)
def test_anything_else_is_answered_with_an_error_and_nothing_of_it_is_kept(
    loop: ModuleType, run: Run, content: bytes, told_hash: str | None
) -> None:
    state, reply = received(loop, run, content, told_hash=told_hash)
    assert isinstance(reply, Message)
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (ErrorCode.INVALID_FAB, refusal())
    assert refused_by(refusal()) == VERSION
    assert state.get_run(RUN_ID) is None


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (
            "9.9",
            f"Only the package of synofed {VERSION} runs here, the centre says that it runs '9.9': bring both",
        ),
        (VERSION, "what came under its name is something else"),
    ],
)
def test_a_refused_package_is_told_in_the_sites_log(
    loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, says: str
) -> None:
    monkeypatch.setenv(SITE_VARIABLE, str(tmp_path))
    received(loop, run_of(fab_version=version), NOT_LISTED)
    assert says in (tmp_path / "log.txt").read_text(encoding="utf-8")


def started(monkeypatch: pytest.MonkeyPatch, loop: ModuleType, **changes: Any) -> dict[str, Any]:
    """With what Flower's own start is called, by the guarded one."""
    called: dict[str, Any] = {}
    monkeypatch.setattr(loop, "start_client_internal", lambda **named: called.update(named))
    monkeypatch.setattr("os._exit", lambda code: called.update(exit_code=code))
    guard.guard_node()
    fitting = {
        "isolation": "process",
        "superexec_auth_secret": b"secret",
        "runtime_certificates": (b"", b"", b""),
        "authentication_keys": (None, None),
        "trusted_entities": None,
        "runtime_dependency_install": True,
    }
    import_module(START).__dict__["start_client_internal"](**{**fitting, **changes})
    return called


def test_the_check_is_on_whatever_the_arguments_and_a_loop_that_ends_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, loop: ModuleType
) -> None:
    real = inspect.signature(loop.start_client_internal).parameters
    called = started(monkeypatch, loop)
    assert called.pop("exit_code") == 1
    assert called["trusted_entities"] == {"installed": fab_hash()}
    assert called["runtime_dependency_install"] is False
    assert set(called) <= set(real)


@pytest.mark.parametrize(
    "changes",
    [
        {"isolation": "subprocess"},
        {"superexec_auth_secret": None},
        {"runtime_certificates": None},
        {"authentication_keys": None},
    ],
)
def test_a_node_whose_tasks_others_could_take_does_not_start(
    monkeypatch: pytest.MonkeyPatch, loop: ModuleType, changes: dict[str, Any]
) -> None:
    with pytest.raises(SystemExit, match="Expected"):
        started(monkeypatch, loop, **changes)


def test_flower_without_what_is_guarded_does_not_start(
    monkeypatch: pytest.MonkeyPatch, loop: ModuleType
) -> None:
    monkeypatch.delattr(loop, "_verify_fab")
    with pytest.raises(SystemExit, match="_verify_fab"):
        guard.guard_node()


@pytest.mark.parametrize(("content", "permitted"), [(fab(), True), (WITH_CODE, False), (NOT_LISTED, False)])
def test_a_task_unpacks_nothing_but_the_package_of_the_installed_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, permitted: bool
) -> None:
    clientapp = import_module(CLIENTAPP)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setattr(clientapp, "install_from_fab", clientapp.__dict__["install_from_fab"])
    named: dict[str, Any] = {}

    def run_clientapp(**arguments: Any) -> None:
        named.update(arguments)
        clientapp.__dict__["install_from_fab"](content, skip_prompt=True)

    expected = set(inspect.signature(clientapp.__dict__["run_clientapp"]).parameters)
    monkeypatch.setattr(clientapp, "run_clientapp", run_clientapp)
    run: Callable[[], None] = lambda: guard._run_task("127.0.0.1:1", "token", b"", 1)  # noqa: E731
    if permitted:
        run()
        assert [path.name for path in (tmp_path / "apps").glob("*/*")] == ["pyproject.toml"]
    else:
        with pytest.raises(ValueError, match="not that of the installed version"):
            run()
        assert not list(tmp_path.iterdir())
    assert set(named) == expected
    assert named["runtime_dependency_install"] is False


def spec(**changes: Any) -> SimpleNamespace:
    fitting = {
        "task_type": TaskType.CLIENT_APP,
        "runtime_api_address": "127.0.0.1:1",
        "token": "token",
        "insecure": False,
        "root_certificates_path": __file__,
        "runtime_dependency_install": False,
    }
    return SimpleNamespace(**{**fitting, **changes})


def test_the_executor_works_on_client_apps_alone_and_never_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        guard.ForkingExecutor, "_fork", lambda self, target, arguments: forked.append((target, arguments))
    )
    executor = guard.ForkingExecutor()
    assert executor.get_eligible_capacity(set(TaskType), insecure=False)[0] == {TaskType.CLIENT_APP}
    forked.clear()
    for changes in (
        {"task_type": TaskType.AGENT_APP},
        {"task_type": TaskType.SERVER_APP},
        {"insecure": True},
        {"runtime_dependency_install": True},
    ):
        assert executor.launch(spec(**changes)).status == "failed"
    assert not forked
    assert executor.launch(spec()).status == "accepted"
    assert forked[0][0] is guard._run_task


def test_flower_asks_the_executor_for_what_it_has() -> None:
    types = import_module("flwr.supercore.superexec.executor.types")
    wanted = {name for name in vars(types.Executor) if not name.startswith("_")}
    assert {"launch", "reconcile", "close", "get_eligible_capacity"} <= wanted
    main = inspect.getsource(import_module("flwr.supercore.superexec.run_superexec").run_superexec)
    used = {name for name in wanted if f"executor.{name}(" in main}
    assert used <= {name for name in vars(guard.ForkingExecutor) if not name.startswith("_")}
    assert "get_executor(" in main


def test_the_loop_sleeps_by_the_clock_that_the_guard_sets() -> None:
    source = inspect.getsource(import_module(LOOP))
    assert {part.split(")")[0] for part in source.split("time.")[1:] if part.startswith("sleep")} == {
        "sleep(3",
        "sleep(0.5",
    }
    now = [0.0]
    pace = guard._Pace(clock=lambda: now[0])
    assert pace._wait(3) == guard.IDLE_POLL_S
    now[0] = 100.0
    assert pace.watched(lambda: "message")() == "message"
    assert (pace._wait(3), pace._wait(0.5)) == (guard.POLL_S, guard.REPLY_POLL_S)
    now[0] += guard.BUSY_S
    assert pace._wait(3) == guard.IDLE_POLL_S
