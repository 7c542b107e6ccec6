"""Faults of a real centre at exact instants: a full disk, a process killed in a round, a reply that comes twice."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

from client.log import audit, chain
from common.machine import file_lock
from server.federation.home import Home
from server.runs import submit
from server.runs.runs import Run
from tests.deployment import instants
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation, simulated_sites
from tests.deployment.processes import send
from tests.deployment.test_end_to_end import assert_same_bits, configured, in_process
from tests.deployment.test_faults import TABLE
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

DISK = "48m"
OWN_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MOUNTED = f'mount -t tmpfs -o size={DISK},mode=700 tmpfs "$0" && exec "$@"'


def committed(run: Run) -> int:
    """The last round in the journal of the campaign's one group."""
    found = (run.path / "journal").glob("*/round_*.safetensors")
    return max((int(path.stem.removeprefix("round_")) for path in found), default=0)


def holder(federation: Federation, run: Run) -> int:
    """The campaign's process, once there is one."""
    federation.wait(lambda: bool(file_lock.holder(run.path)), what="the campaign's process")
    found = file_lock.holder(run.path)
    assert found
    return found


def recovered(federation: Federation, run: Run, fault: str, since: float, done: int) -> None:
    """Wait for a round after one; how long that took is written where it is asked for."""
    federation.wait(lambda: committed(run) > done, what=f"a round after: {fault}")
    if TABLE:
        with Path(TABLE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fault": fault, "seconds": round(time.monotonic() - since, 1)}) + "\n")


def messages(federation: Federation, query: str, *values: object) -> list[tuple[str, ...]]:
    """What the SuperLink's database holds."""
    database = f"file:{federation.home.superlink / 'link.db'}?mode=ro"
    with closing(sqlite3.connect(database, uri=True, timeout=30.0)) as link:
        return link.execute(query, values).fetchall()


@pytest.fixture
def small_disk(federation: Federation) -> Iterator[Home]:
    """The centre with its campaigns on a file system of their own; its home as its own processes see it."""
    home = federation.home
    home.runs.mkdir(mode=0o700, exist_ok=True)
    probe = shutil.which("unshare") and subprocess.run(
        [*OWN_DISK, MOUNTED, str(home.runs), "true"], capture_output=True, check=False
    )
    if not probe or probe.returncode:
        pytest.skip("needs a file system of its own (unshare --user --mount)")
    federation.end("up")
    federation.up(*OWN_DISK, MOUNTED, str(home.runs))
    try:
        place = Path(f"/proc/{federation.processes['up'].pid}/root") / home.path.relative_to("/")
        federation.wait(lambda: os.path.ismount(place / "runs"), what="the small disk")
        yield Home(place)
    finally:
        federation.end("up")
        federation.up()
        federation.wait(lambda: connected(federation), what="all sites connected again")


def connected(federation: Federation) -> bool:
    with suppress(Exception):  # the SuperLink starts
        return federation.online() == set(SITES)
    return False


def fill(home: Home, run: Run, pid: int) -> Path | None:
    """Leave room for the replies of the round under way, and not for its weights in the journal; what fills it."""
    send([pid], signal.SIGSTOP)
    try:
        journal = list((run.path / "journal").glob("*/*")) + list((run.path / "journal").glob("*/.*"))
        if not journal or any(path.name.startswith(".") for path in journal):
            return None  # it is being written
        size = max(path.stat().st_size for path in journal)
        spooled = sum(path.stat().st_size for path in (run.path / "spool").glob("*/*"))
        room = len(SITES) * size - spooled + size // 2
        free = os.statvfs(home.runs)
        filler = home.runs / ".filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room)
        return filler
    finally:
        send([pid], signal.SIGCONT)


def until_full(federation: Federation, home: Home, run: Run) -> tuple[Path, int]:
    """Fill the centre's disk until the campaign says so; what fills it, and the last round before."""
    federation.wait(lambda: committed(run) >= 1, what="the first round")
    fillers: list[Path] = []

    def filled() -> bool:
        fillers.extend(filter(None, [fill(home, run, holder(federation, run))]))
        return bool(fillers)

    federation.wait(filled, what="a disk that can be filled")
    federation.wait(
        lambda: "the disk is full" in run.status().waits, what="a campaign that waits for its disk"
    )
    spooled = [path.stat().st_size for path in (run.path / "spool").glob("*/*")]
    assert len(spooled) == len(SITES)
    assert min(spooled) > 0
    return fillers[0], committed(run)


def test_a_full_disk_of_the_centre_is_waited_for_while_the_journal_is_written(
    federation: Federation, small_disk: Home, tmp_path: Path
) -> None:
    settings = configured("full-disk", rounds=6)
    sites = simulated_sites(federation, SITES, tmp_path)
    run = submit.submit(small_disk, settings)
    filler, done = until_full(federation, small_disk, run)
    time.sleep(10.0)
    assert committed(run) == done
    began = time.monotonic()
    filler.unlink()
    recovered(federation, run, "the centre's disk full, then free", began, done)
    filler, done = until_full(federation, small_disk, run)
    began = time.monotonic()
    send([holder(federation, run)], signal.SIGKILL)
    filler.unlink()
    recovered(federation, run, "the campaign's process killed while its disk is full", began, done)
    federation.ended(run)
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert_same_bits(run.path, in_process(settings, sites, tmp_path / "alone"))


def replies(federation: Federation, name: str) -> Mapping[str, list[str]]:
    """Request -> the hash of each answer of a site to it, as its log has them."""
    found: dict[str, list[str]] = {}
    for line in (federation.site(name) / chain.NAME).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["event"] == audit.REPLY:
            found.setdefault(entry["request_id"], []).append(entry["reply_hash"])
    return found


TRAINING = """
    select 1 from message_ins as asked join node on node.node_id = asked.dst_node_id
    where node.name = ? and asked.message_type = 'train' and asked.delivered_at != ''
    and not exists (select 1 from message_res where reply_to_message_id = asked.message_id)
"""
STORED = """
    select asked.message_id, node.last_activated_at from message_ins as asked
    join node on node.node_id = asked.dst_node_id
    join message_res as reply on reply.reply_to_message_id = asked.message_id
    where node.name = ? and asked.message_type = 'train' and reply.delivered_at = ''
    and not exists (select 1 from objects where is_available = 0)
"""


def answered_twice(federation: Federation, run: Run, name: str) -> bool:
    """Start a site again while its reply lies at the SuperLink; whether the centre asked it again."""
    pid = holder(federation, run)
    federation.wait(lambda: bool(messages(federation, TRAINING, name)), what="a site that trains")
    send([pid], signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10.0
        while not (stored := messages(federation, STORED, name)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        federation.end(name, signal.SIGKILL)
        federation.join(name)
        now = "select last_activated_at from node where name = ?"
        federation.wait(lambda: stored[0][1:] not in messages(federation, now, name), what="the site again")
    finally:
        send([pid], signal.SIGCONT)
    done = committed(run)
    federation.wait(lambda: committed(run) > done, what="a round with the stored reply")
    federation.wait(lambda: committed(run) > done + 1, what="a round after it")
    return any(len(hashes) > 1 for hashes in replies(federation, name).values())


def test_a_reply_that_comes_twice_and_late_changes_no_bit(federation: Federation, tmp_path: Path) -> None:
    settings = configured("twice", rounds=12)
    sites = simulated_sites(federation, SITES, tmp_path)
    run = submit.submit(federation.home, settings)
    federation.wait(lambda: committed(run) >= 1, what="the first round")
    federation.wait(lambda: answered_twice(federation, run, SITES[1]), what="a reply that comes twice")
    assert all(len(set(hashes)) == 1 for hashes in replies(federation, SITES[1]).values())
    federation.ended(run)
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert_same_bits(run.path, in_process(settings, sites, tmp_path / "alone"))


def broadcast(federation: Federation, run: Run) -> instants.Instant:
    """Messages of a round lie at the SuperLink, their weights not yet."""
    query = """
        select 1 from message_ins where message_type = 'train' and delivered_at = '' and created_at > ?
        and exists (select 1 from objects where is_available = 0)
    """
    since = time.time()
    return lambda strings: bool(messages(federation, query, since))


def aggregation(federation: Federation, run: Run) -> instants.Instant:
    """All replies are on disk, the first is read."""

    def reached(strings: tuple[str, ...]) -> bool:
        if not any(text.endswith(".f32") for text in strings):
            return False
        spooled = [path.stat().st_size for path in (run.path / "spool").glob("*/*.f32")]
        return len(spooled) == len(SITES) and min(spooled) > 0

    return reached


def is_commit(strings: tuple[str, ...]) -> bool:
    """Whether a draft of the journal becomes a round's file."""
    names = [Path(text).name for text in strings]
    return any(name.startswith(".round_") for name in names) and any(
        name.startswith("round_") and name.endswith(".safetensors") for name in names
    )


def writing(federation: Federation, run: Run) -> instants.Instant:
    """The journal's new file is on disk, under no name yet."""
    return is_commit


def written(federation: Federation, run: Run) -> instants.Instant:
    """It has its name; nothing else has happened."""
    renaming = False

    def reached(strings: tuple[str, ...]) -> bool:
        nonlocal renaming
        was, renaming = renaming, is_commit(strings)
        return was

    return reached


INSTANTS: Mapping[str, Callable[[Federation, Run], instants.Instant]] = {
    "in broadcast": broadcast,
    "in aggregation": aggregation,
    "writing the journal": writing,
    "right after that": written,
}


def test_a_centre_killed_at_exact_instants_goes_on_with_the_same_bits(
    federation: Federation, tmp_path: Path
) -> None:
    if not instants.possible():
        pytest.skip("needs leave to trace processes (ptrace)")
    settings = configured("instants", rounds=3 * len(INSTANTS) + 1)
    sites = simulated_sites(federation, SITES, tmp_path)
    run = submit.submit(federation.home, settings)
    for name, instant in INSTANTS.items():
        before = committed(run)
        federation.wait(lambda before=before: committed(run) > before, what="a round")  # type: ignore[misc]
        pid = holder(federation, run)
        instants.kill_at(pid, instant(federation, run), patience_s=PATIENCE_S)
        recovered(federation, run, f"the campaign's process killed {name}", time.monotonic(), committed(run))
    federation.ended(run)
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert_same_bits(run.path, in_process(settings, sites, tmp_path / "alone"))
