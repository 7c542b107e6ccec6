"""The grid of a simulation answers as Flower's does."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from common.errors import CampaignError
from server.campaign import waiting
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from simulation.engine.places import Place, in_order

LATE, BROKEN = 101, 102
late = threading.Event()
app = ClientApp()


@app.query()
def answer(message: Message, _context: Context) -> Message:
    if message.metadata.dst_node_id == LATE:
        late.wait(timeout=60)
    if message.metadata.dst_node_id == BROKEN:
        raise RuntimeError("a worker broke")
    return Message(RecordDict(), reply_to=message)


@pytest.fixture
def grid() -> Iterator[InProcessGrid]:
    late.clear()
    with Workers(["cpu", "cpu"], threads=1) as workers:
        yield InProcessGrid(app, [Path("north"), Path("south"), Path("west")], workers)
        late.set()


def asked(grid: InProcessGrid, nodes: list[int], *, timeout: float | None) -> list[int]:
    messages = [grid.create_message(RecordDict(), "query", node, "1") for node in nodes]
    return [reply.metadata.src_node_id for reply in grid.send_and_receive(messages, timeout=timeout)]


def test_replies_that_come_in_time_are_received(grid: InProcessGrid) -> None:
    assert asked(grid, [100, LATE], timeout=5.0) == [100]
    late.set()
    assert sorted(asked(grid, [100, LATE], timeout=None)) == [100, LATE]


def test_the_centre_is_told_of_replies_even_of_one_that_came_before_it_waited(grid: InProcessGrid) -> None:
    strict, never_s = StrictGrid(grid), 60.0
    (early,) = strict.push_messages([grid.create_message(RecordDict(), "query", 100, "1")])
    began = time.monotonic()
    while not (pulled := strict.pull_messages([early])):
        grid.wait(never_s)
    assert [reply.metadata.src_node_id for reply in pulled] == [100]
    (waited,) = strict.push_messages([grid.create_message(RecordDict(), "query", LATE, "1")])
    threading.Timer(0.05, late.set).start()
    while not strict.pull_messages([waited]):
        waiting.for_reply(strict, since=began)
    assert time.monotonic() - began < never_s
    assert isinstance(strict, waiting.Telling)
    assert not isinstance(StrictGrid(cast(Grid, object())), waiting.Telling)


def test_who_is_not_told_looks_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    for since in (100.0, 98.0, 0.0):
        waiting.for_reply(cast(Grid, object()), since=since)
    assert slept == [pytest.approx(0.02), pytest.approx(0.1), waiting.LONGEST_S]


def test_a_worker_that_broke_is_an_error_of_the_simulation(grid: InProcessGrid) -> None:
    strict = StrictGrid(grid)
    message = strict.create_message(RecordDict(), "query", BROKEN, "1")
    with pytest.raises(CampaignError, match=r"worker broke: RuntimeError"):
        strict.send_and_receive([message])


def test_pieces_come_in_order_and_open_once_what_they_share() -> None:
    opened: list[str] = []

    def piece(place: Place, number: int, shared: str) -> tuple[int, str]:
        if number == 0:
            second.wait(timeout=60)
        if number == 1:
            second.set()

        def make() -> str:
            opened.append(shared)
            return shared.upper()

        return number, place.kept.get(shared, make)

    second, told = threading.Event(), list[tuple[int, int]]()
    with Workers(["cpu", "cpu"], threads=1) as workers:
        pieces = [workers.submit(piece, number, "one") for number in range(4)]
        assert in_order(pieces, lambda done, total: told.append((done, total))) == [
            (n, "ONE") for n in range(4)
        ]
        assert workers.submit(piece, 4, "two").result() == (4, "TWO")
        assert workers.submit(piece, 5, "one").result() == (5, "ONE")
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert opened == ["one", "two", "one"]
