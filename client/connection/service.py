"""Starting a site when its machine starts, as an ordinary user.

A systemd *user* unit where there is systemd, cron's ``@reboot`` elsewhere. Both run ``synofed site join FOLDER`` with
the program that wrote them; no secret stands in either, for other accounts can read command lines.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.site.site import Site
from common.errors import ConfigurationError

Kind = Literal["systemd", "cron"]

RESTART_S = 15
STOP_S = 60
WATCH_MINUTES = 5
"""How often cron starts a site that has ended; one that runs holds a lock, and the second start ends at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was set up.

    Attributes:
        site: its name.
        kind: by what it starts.
        place: the unit's file, or ``crontab``.
        running: whether it was started now.
        todo: what is left to do by hand, one command or sentence each; empty: nothing.
    """

    site: str
    kind: Kind
    place: str
    running: bool
    todo: tuple[str, ...]


def install(folder: Path, kind: Kind) -> Installed:
    """Make a site start with its machine; again, after a change of the program or folder, writes it anew.

    Raises:
        DataError: if there is no such site.
        ConfigurationError: if a path cannot be written there, another folder's site of that name is set up
            already, or there is no such service on this machine.
    """
    folder = folder.resolve()
    name = Site.open(folder).name
    return (_install_unit if kind == "systemd" else _install_cron)(folder, name)


def remove(folder: Path) -> tuple[str, ...]:
    """Undo :func:`install`, for both kinds.

    Returns:
        What was removed.

    Raises:
        DataError: if there is no such site.
    """
    folder = folder.resolve()
    name = Site.open(folder).name
    removed: list[str] = []
    path = unit_path(name)
    if path.exists() and _is_of(path, folder):
        _run(["systemctl", "--user", "disable", "--now", path.name])
        path.unlink()
        _run(["systemctl", "--user", "daemon-reload"])
        removed.append(str(path))
    table = _crontab() if shutil.which("crontab") else ()
    kept = tuple(line for line in table if not line.endswith(_cron_mark(folder)))
    if kept != table:
        _write_crontab(kept)
        removed.append("crontab")
    return tuple(removed)


def unit(folder: Path, name: str, program: Path) -> str:
    """The systemd user unit of a site.

    Args:
        folder: of the site, absolute.
        name: of the site.
        program: ``synofed``, absolute.
    """
    search = os.pathsep.join([str(program.parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return "\n".join(
        [
            "[Unit]",
            f"Description=synofed site {name}",
            _mark(folder),
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={_quoted(str(program), command=True)} site join {_quoted(str(folder), command=True)}",
            f"Environment={_quoted(f'PATH={search}')}",
            "Environment=PYTHONUNBUFFERED=1",
            "Restart=always",
            f"RestartSec={RESTART_S}",
            "KillMode=mixed",
            f"TimeoutStopSec={STOP_S}",
            "UMask=0077",
            "LimitCORE=0",
            "NoNewPrivileges=yes",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def cron_lines(folder: Path, program: Path) -> tuple[str, ...]:
    """The lines of a site in its user's crontab; arguments as for :func:`unit`."""
    command = f"umask 077; exec {shlex.quote(str(program))} site join {shlex.quote(str(folder))}"
    silent = f"{command} >/dev/null 2>&1".replace("%", r"\%")  # cron ends the command at a bare %
    return tuple(
        f"{when} {silent} {_cron_mark(folder)}" for when in ("@reboot", f"*/{WATCH_MINUTES} * * * *")
    )


def unit_path(name: str) -> Path:
    """Where the user's systemd looks for the unit of a site."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "systemd" / "user" / f"synofed-site-{name}.service"


def lingers() -> bool | None:
    """Whether this user's services run while nobody is logged in; ``None``: systemd does not say."""
    done = _run(["loginctl", "show-user", getpass.getuser(), "--property=Linger"])
    answer = done.stdout.strip() if done else ""
    return answer == "Linger=yes" if answer.startswith("Linger=") else None


def _install_unit(folder: Path, name: str) -> Installed:
    path = unit_path(name)
    if path.exists() and not _is_of(path, folder):
        raise ConfigurationError(
            f"Expected no unit of another folder at {path}: remove that with synofed site service --remove there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(unit(folder, name, _program()), encoding="utf-8")
    started = all(
        _run(["systemctl", "--user", *arguments])
        for arguments in (["daemon-reload"], ["enable", path.name], ["restart", path.name])
    )
    todo = [] if started else [f"systemctl --user daemon-reload && systemctl --user enable --now {path.name}"]
    if not lingers():
        user = getpass.getuser()
        todo.append(
            f"loginctl enable-linger {user}  (else the site ends when {user} logs out and does not start at boot; "
            f"where this is refused, an administrator runs it once with sudo)"
        )
    return Installed(site=name, kind="systemd", place=str(path), running=started, todo=tuple(todo))


def _install_cron(folder: Path, name: str) -> Installed:
    if not shutil.which("crontab"):
        raise ConfigurationError(
            "Expected crontab on this machine, found none: use --systemd, or let an administrator start "
            f"{shlex.join([str(_program()), 'site', 'join', str(folder)])} as {getpass.getuser()} at boot"
        )
    lines = cron_lines(folder, _program())
    _write_crontab((*(one for one in _crontab() if not one.endswith(_cron_mark(folder))), *lines))
    todo = (
        f"The site starts within {WATCH_MINUTES} minutes and after every reboot. If it does not, cron is not "
        f"running or does not permit {getpass.getuser()}: ask an administrator",
    )
    return Installed(site=name, kind="cron", place="crontab", running=False, todo=todo)


def _program() -> Path:
    """The ``synofed`` that runs now."""
    return Path(sys.executable).parent / "synofed"


def _mark(folder: Path) -> str:
    return f"# synofed {_one_line(str(folder))}"


def _cron_mark(folder: Path) -> str:
    return _mark(folder).replace("%", r"\%")


def _is_of(path: Path, folder: Path) -> bool:
    return _mark(folder) in path.read_text(encoding="utf-8").splitlines()


def _quoted(text: str, *, command: bool = False) -> str:
    """A word of a unit: systemd expands ``%`` everywhere, and ``$`` in commands."""
    escaped = _one_line(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if command else escaped}"'


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ConfigurationError(
            f"Expected a path without control characters, got {text!r}: rename the folder"
        )
    return text


def _crontab() -> tuple[str, ...]:
    done = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    if done.returncode and "no crontab" not in done.stderr.lower():  # writing then would lose what is there
        raise ConfigurationError(f"crontab does not show what it has: {done.stderr.strip()}")
    return tuple(done.stdout.splitlines())


def _write_crontab(lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(["crontab", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"crontab refused the site's lines: {done.stderr.strip()}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A finished command; ``None`` if it is not there or failed."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done if done.returncode == 0 else None
