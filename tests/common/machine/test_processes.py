import os
import signal
import subprocess
import sys
from pathlib import Path

from common.machine.processes import Backoff, Service, until_signalled
from tests.patience import wait_for


def service(tmp_path: Path, script: str) -> Service:
    command = [sys.executable, "-c", script]
    return Service(
        name="one",
        command=lambda: command,
        environment=os.environ,
        log=tmp_path / "one.log",
        backoff=Backoff(first_s=0.01, longest_s=0.01),
    )


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_waits_double_are_jittered_and_begin_anew_after_a_long_life() -> None:
    backoff = Backoff(first_s=5.0, longest_s=300.0, settled_s=120.0, jitter=lambda: 1.0)
    assert [backoff.next_s(lived_s=1.0) for _ in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.next_s(lived_s=121.0) == 5
    low = Backoff(first_s=5.0, longest_s=300.0, jitter=lambda: 0.0)
    assert low.next_s(lived_s=1.0) == 2.5
    assert Backoff(first_s=5.0, longest_s=300.0, tries=10_000, jitter=lambda: 1.0).next_s(lived_s=1.0) == 300


def test_a_child_that_ends_is_found_with_what_it_printed_and_started_again(tmp_path: Path) -> None:
    one = service(tmp_path, "print('the reason')")
    one.tend()
    wait_for(lambda: not one.running)
    assert one.tend() == "the reason\n"
    assert one.process is None
    wait_for(lambda: one.tend() is None and one.process is not None)
    one.stop()
    assert (tmp_path / "one.log").stat().st_mode & 0o777 == 0o600


def test_stopping_ends_the_whole_group_even_if_it_does_not_listen(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    script = (
        "import os, subprocess, sys, pathlib, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {deaf!r}])\n"
        f"pathlib.Path({str(pids)!r} + '.tmp').write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '.tmp', {str(pids)!r})\n"
        f"{deaf}"
    )
    one = service(tmp_path, script)
    one.start()
    wait_for(pids.exists)
    one.stop(grace_s=0.1)
    wait_for(lambda: all(gone(int(pid)) for pid in pids.read_text().split()))


def test_a_child_does_not_outlive_its_parent_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from common.machine.processes import Service\n"
        "one = Service(name='one', command=lambda: [sys.executable, '-c', 'import time; time.sleep(600)'],\n"
        f"              environment=os.environ, log=Path({str(tmp_path / 'log')!r}))\n"
        "one.start(); print(one.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: gone(child))


def test_a_signal_is_noted_and_the_former_handler_comes_back() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with until_signalled() as ended:
        assert not ended()
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended()
    assert signal.getsignal(signal.SIGTERM) is former
