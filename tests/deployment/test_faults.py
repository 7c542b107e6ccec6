"""A real federation whose processes are killed and whose link is cut ends with the bits of an undisturbed one."""

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from common.machine import file_lock
from server.rounds import journal
from server.runs import submit
from server.runs.runs import Run
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation, simulated_sites
from tests.deployment.processes import descendants, find, send, tasks
from tests.deployment.test_end_to_end import assert_same_bits, configured, in_process
from tests.federation.faults import replay

Cause = Callable[[Federation, Run], None]

TABLE = os.environ.get("SYNOFED_FAULT_TABLE")
"""Where recovery times are written, one JSON line a fault; ``docs/results/faults.md`` is made of them."""


def campaign_killed(federation: Federation, run: Run) -> None:
    holder = file_lock.holder(run.path)
    assert holder
    os.kill(holder, signal.SIGKILL)


def superlink_killed(federation: Federation, run: Run) -> None:
    found = find(federation, "up", "waiting_superlink")
    assert found
    send(found, signal.SIGKILL)


def executor_killed(federation: Federation, run: Run) -> None:
    found = find(federation, SITES[2], "guarded_supernode executor")
    assert found
    send(found, signal.SIGKILL)


def centre_killed(federation: Federation, run: Run) -> None:
    federation.end("up", signal.SIGKILL)
    federation.up()


def site_killed(federation: Federation, run: Run) -> None:
    federation.end(SITES[1], signal.SIGKILL)
    federation.join(SITES[1])


def task_killed(federation: Federation, run: Run) -> None:
    federation.wait(lambda: bool(tasks(federation, SITES[0])), what="a site that answers a message")
    send(tasks(federation, SITES[0]), signal.SIGKILL)


def link_cut(federation: Federation, run: Run, seconds: float = 5.0) -> None:
    proxies = find(federation, "up", "server.service.proxy")
    assert proxies
    send(proxies, signal.SIGSTOP)
    time.sleep(seconds)
    send(proxies, signal.SIGCONT)


def link_slow(federation: Federation, run: Run) -> None:
    for _ in range(20):
        link_cut(federation, run, seconds=1.0)
        time.sleep(0.2)


def disk_full(federation: Federation, run: Run) -> None:
    """No file of the site's tasks grows until the centre knows that the site is in trouble."""
    name = SITES[2]
    executors = find(federation, name, "guarded_supernode executor")
    writers = {
        pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for one in executors for pid in descendants(one)
    }
    assert writers
    try:
        for pid, (_, hard) in writers.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        federation.wait(lambda: run.status().sites[name].state == "waiting", what="a site that is waited for")
    finally:
        for pid, limits in writers.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def disturb(federation: Federation, folder: Path, name: str, faults: Mapping[str, Cause]) -> None:
    """A campaign with one fault after each of its first rounds."""
    settings = configured(name, rounds=len(faults) + 1)
    sites = simulated_sites(federation, SITES, folder)
    run = submit.submit(federation.home, settings)
    federation.wait(lambda: len(run.rounds()) >= 1, what="the first round")
    for fault, cause in faults.items():
        done, began = len(run.rounds()), time.monotonic()
        cause(federation, run)
        federation.wait(lambda done=done: len(run.rounds()) > done, what=f"a round after: {fault}")  # type: ignore[misc]
        if TABLE:
            with Path(TABLE).open("a", encoding="utf-8") as file:
                seconds = round(time.monotonic() - began, 1)
                file.write(json.dumps({"fault": fault, "seconds": seconds}) + "\n")
    federation.ended(run)
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert_same_bits(run.path, in_process(settings, sites, folder / "alone"))


@pytest.mark.soak
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_four_outages_in_one_campaign_change_no_bit(federation: Federation, tmp_path: Path) -> None:
    disturb(
        federation,
        tmp_path,
        "outages",
        {
            "a site killed": site_killed,
            "the campaign's process killed": campaign_killed,
            "the SuperLink killed": superlink_killed,
            "the link cut for 5 s": link_cut,
        },
    )


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_six_more_outages_change_no_bit(federation: Federation, tmp_path: Path) -> None:
    disturb(
        federation,
        tmp_path,
        "more-outages",
        {
            "a site's task killed while it answers": task_killed,
            "a site's executor killed": executor_killed,
            "a site's disk full, then free": disk_full,
            "the whole centre killed": centre_killed,
            "the link cut for 90 s": lambda federation, run: link_cut(federation, run, seconds=90.0),
            "the link stalling for 20 s": link_slow,
        },
    )


def participants(run: Run) -> Sequence[str]:
    """Of the last round that ended."""
    return cast(Sequence[str], run.rounds()[-1]["participants"])


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_site_away_past_its_deadline_is_named_and_used_again(
    federation: Federation, tmp_path: Path
) -> None:
    away = SITES[1]
    settings = configured("away", rounds=12, federation="quorum = 2\ndeadline_s = 60.0\n")
    sites = simulated_sites(federation, SITES, tmp_path)
    run = submit.submit(federation.home, settings)
    federation.wait(lambda: len(run.rounds()) >= 1, what="the first round")
    federation.end(away, signal.SIGKILL)
    federation.wait(lambda: away not in participants(run), what="a round without the site")
    federation.join(away)
    federation.ended(run)
    status = run.status()
    rounds = journal.records(run.path / "journal", plan_hash=settings.plan_hash())
    assert status.state == "COMPLETE_SUBSET", run.log.read_text()
    assert {name: site.used for name, site in status.sites.items() if site.used < status.total}.keys() == {
        away
    }
    (first, *_) = [record for record in rounds if away not in record.participants]
    assert first.dropped.keys() == {away}
    assert list(rounds[-1].participants) == list(SITES)
    took_part = replay((record.group, record.round, record.participants) for record in rounds)
    assert_same_bits(run.path, in_process(settings, sites, tmp_path / "replay", app=took_part))
