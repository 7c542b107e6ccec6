"""Holds a process from outside at an exact instant: a system call of its main thread (Linux, ``ptrace``)."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TRACE, SEIZE, INTERRUPT, DETACH, SYSCALL_INFO = 24, 0x4206, 0x4207, 17, 0x420E
MARK_SYSTEM_CALLS = 1  # PTRACE_O_TRACESYSGOOD: a stop of SIGTRAP | 0x80
WALL = 0x40000000  # __WALL
LONGEST_PATH = 4096
Instant = Callable[[tuple[str, ...]], bool]
"""Whether this is it, told the strings that a system call begins with; none at its end."""


def kill_at(pid: int, instant: Instant, *, patience_s: float) -> None:
    """Let a process run until its main thread begins or ends a system call at an instant, and kill it there.

    Raises:
        AssertionError: if the instant does not come; the process runs on then.
        OSError: if processes cannot be traced here.
    """
    _ask(SEIZE, pid, data=MARK_SYSTEM_CALLS)
    deadline = time.monotonic() + patience_s
    try:
        _ask(INTERRUPT, pid)
        while True:
            stop = _stopped(pid)
            if stop == signal.SIGTRAP | 0x80 and instant(_strings(pid)):
                os.kill(pid, signal.SIGKILL)
                return
            assert time.monotonic() < deadline, f"The instant did not come within {patience_s:g} s"
            known = stop in (signal.SIGTRAP, signal.SIGTRAP | 0x80)
            _ask(TRACE, pid, data=0 if known else stop)
    finally:
        with suppress(OSError):
            _ask(DETACH, pid)
        with suppress(ChildProcessError):
            os.waitpid(pid, WALL | os.WNOHANG)


def possible() -> bool:
    """Whether a process may be traced here."""
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        _ask(SEIZE, child)
    except OSError:
        return False
    else:
        return True
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, WALL)


def _stopped(pid: int) -> int:
    """Wait for the next stop; its signal."""
    _, status = os.waitpid(pid, WALL)
    assert os.WIFSTOPPED(status), f"The process ended by itself: {status:#x}"
    return os.WSTOPSIG(status)


def _strings(pid: int) -> tuple[str, ...]:
    """What the first four arguments of the system call that begins point to, as far as it is text."""
    info = ctypes.create_string_buffer(88)
    _ask(SYSCALL_INFO, pid, address=len(info), data=ctypes.addressof(info))
    if info.raw[0] != 1:  # PTRACE_SYSCALL_INFO_ENTRY
        return ()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return tuple(_string(memory.fileno(), address) for address in struct.unpack_from("4Q", info, 32))


def _string(memory: int, address: int) -> str:
    try:
        return os.pread(memory, LONGEST_PATH, address).partition(b"\0")[0].decode()
    except (OSError, OverflowError, UnicodeDecodeError):
        return ""


def _ask(request: int, pid: int, *, address: int = 0, data: int = 0) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    call.restype = ctypes.c_long
    if call(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
