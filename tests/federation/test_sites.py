"""Sites that are processes: one that the test itself ends has not died of a message."""

import threading
from pathlib import Path
from typing import cast

import pytest
from flwr.app import Message

from tests.federation import fault_processes
from tests.federation.faults import Sites
from tests.patience import wait_for


def test_a_site_that_is_ended_while_it_is_asked_is_no_death(tmp_path: Path) -> None:
    sites = Sites(fault_processes.never_answers, {})
    ends: list[str] = []

    def ask() -> None:
        with pytest.raises(ConnectionError):
            sites.answer(tmp_path, cast(Message, "a message"))
        ends.append("ended")

    asking = [threading.Thread(target=ask) for _ in range(2)]  # the second waits for the first
    for thread in asking:
        thread.start()
    wait_for((tmp_path / "asked").exists)
    sites.close()
    for thread in asking:
        thread.join()
    assert ends == ["ended"] * 2
    assert sites.deaths == []
