"""A researcher's commands are there on systems without what POSIX alone has, and say what they miss."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import refusal
from common.machine import file_lock

ROOT = Path(__file__).parents[1]
COMMANDS = ("simulate", "plan", "report", "score", "study", "readers", "cohort", "pretrain", "privacy")
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix", "syslog")
NAMES = {
    "os": (
        "fork", "forkpty", "killpg", "getpgid", "setsid", "geteuid", "getuid", "getgid", "chown", "pread", "pwrite",
        "sched_getaffinity", "getloadavg", "statvfs", "O_NOFOLLOW", "O_DIRECTORY", "WNOHANG", "register_at_fork",
    ),
    "signal": ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "pthread_sigmask", "setitimer"),
}  # fmt: skip
RUN = f"""
import builtins, contextlib, importlib, io, json, os, pkgutil, signal, sys
import simulation, synofed

OURS = ("common", "client", "server", "simulation", "synofed")
real = builtins.__import__

def everything():
    for found in pkgutil.walk_packages(simulation.__path__, "simulation."):
        importlib.import_module(found.name)

def guarded(name, globals=None, *rest, **named):
    if name in {MODULES} and str((globals or {{}}).get("__name__")).partition(".")[0] in OURS:
        raise ImportError(f"no module {{name}} on this system")
    return real(name, globals, *rest, **named)

everything()  # what others made may need all that there is
mine = [name for name in sys.modules if name.partition(".")[0] in OURS]
for name in mine:
    del sys.modules[name]
builtins.__import__ = guarded
for module, names in {NAMES}.items():
    for name in names:
        vars(sys.modules[module]).pop(name, None)
try:
    exec("import fcntl", {{"__name__": "common.probe"}})
except ImportError:
    print("guarded")
import simulation, synofed
everything()
for command in {COMMANDS}:
    sys.argv, said, code = ["synofed", command, "--help"], io.StringIO(), None
    with contextlib.redirect_stdout(said):
        try:
            synofed.main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([command, code or 0, "Usage" in said.getvalue()]))
"""


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_a_researchers_commands_need_nothing_at_import_that_posix_alone_has() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    guarded, *said = done.stdout.splitlines()
    assert guarded == "guarded"
    assert [json.loads(line) for line in said] == [[command, 0, True] for command in COMMANDS]


def test_a_lock_on_a_system_without_locks_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "fcntl", None)
    with pytest.raises(OSError, match="flock") as told, file_lock.alone(tmp_path):
        pass
    assert "on Windows use WSL" in refusal(told.value)
    with pytest.raises(OSError, match="flock"):
        file_lock.is_held(tmp_path / "x")
