"""Another process that holds a file's lock as versions before ``common.machine.file_lock`` did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, sys.argv[2].encode())
print("held", flush=True)
time.sleep(300)
"""


@contextmanager
def held_elsewhere(place: Path, *, says: str = "") -> Iterator[Callable[[], None]]:
    """A process that holds the lock of a file, until what is yielded is called: that kills it with SIGKILL.

    Args:
        place: the file, made where there is none.
        says: what it writes there.
    """
    command = [sys.executable, "-S", "-c", _HOLD, str(place), says]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"

        def kill() -> None:
            process.kill()
            process.wait()

        try:
            yield kill
        finally:
            kill()
