"""A site and its officer in two accounts: ``python -m tests.officer_accounts``, as root.

Everything that either needs is imported before accounts are changed: Python itself may lie where only root can read.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import synofed
from client.cli import officer_cli
from client.consent import deciding
from client.consent.deciding import Decision
from client.officer import asking
from client.site.site import Site
from tests import officers
from tests.patience import PATIENCE_S

SITE, OFFICER, STRANGER, GROUP = 61_001, 61_002, 61_003, 61_100
"""Accounts that need no entry in the system's list."""


def started(uid: int, work: Callable[[], object], groups: tuple[int, ...] = (GROUP,)) -> int:
    """Do something in another account; the process that does."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
        os.umask(0o022)
        work()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except PermissionError:
        code = 13
    except BaseException as error:
        sys.stderr.write(f"{uid}: {error!r}\n")
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def did(uid: int, work: Callable[[], object], groups: tuple[int, ...] = (GROUP,)) -> int:
    return ended(started(uid, work, groups))


def give(place: Path, uid: int, gid: int) -> None:
    for one in (place, *place.rglob("*")):
        os.chown(one, uid, gid)


def sign(place: Path, key: tuple[object, ...], typed: int) -> None:
    """The officer's command; what is typed comes from a pipe."""
    os.dup2(typed, 0)
    sys.stdin = os.fdopen(0, "r")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["synofed", "site", "officer", str(place), *map(str, key)]
    synofed.main()


def pipe(text: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading


def whole_way(base: Path) -> tuple[Path, str, tuple[object, ...]]:
    """A site with a question, which has gone its whole way once before, so that all is imported."""
    site, key = officers.keyed(base)
    first, second = officers.waiting(site, rounds=2), officers.waiting(site)
    asking.about_campaign(Site.open(site), first, Decision.APPROVE)
    officer_cli.TAKEN_S = 0.0
    child = started(0, lambda: sign(site, key, pipe("n\n")))
    assert ended(child) == 0
    asking.settle(site)
    asking.about_campaign(Site.open(site), first, Decision.APPROVE)
    from client.site import officer

    opened = officer.load(Path(str(key[1])), passphrase=officers.PASSPHRASE)
    officers.answered(site, opened)
    asking.settle(site)
    assert officers.became(site)[0] == "signed"
    officer_cli.TAKEN_S = PATIENCE_S
    return site, second, key


def main() -> None:
    """Ask in one account, sign in another, settle in the first; what each may not do fails."""
    base = Path(tempfile.mkdtemp(prefix="synofed-accounts-"))
    base.chmod(0o755)
    try:
        _both(base)
    finally:
        shutil.rmtree(base)


def _both(base: Path) -> None:
    (base / "site").mkdir()
    (base / "officer").mkdir()
    site, plan_hash, _ = whole_way(base / "site")
    spool = base / "spool"
    with (site / "site.toml").open("a", encoding="utf-8") as file:
        file.write(f'[officer]\nfolder = "{spool}"\n')
    spool.mkdir()
    os.chown(spool, SITE, GROUP)
    spool.chmod(0o2750)
    for name in ("officer.pem", "passphrase"):
        (base / "site" / name).rename(base / "officer" / name)
    give(base / "officer", OFFICER, OFFICER)
    give(base / "site", SITE, SITE)
    for name in ("site", "officer"):
        (base / name).chmod(0o700)
    key = base / "officer" / "officer.pem"

    assert did(SITE, lambda: asking.about_campaign(Site.open(site), plan_hash, Decision.APPROVE)) == 0
    (question,) = (spool / "questions").glob("*.json")
    assert (question.stat().st_gid, question.stat().st_mode & 0o777) == (GROUP, 0o640)
    refused = 13
    assert did(SITE, key.read_bytes) == refused
    assert did(OFFICER, (site / "site.toml").read_bytes) == refused
    assert did(OFFICER, lambda: question.open("a").close()) == refused
    assert did(OFFICER, (spool / "questions" / "mine.json").touch) == refused
    assert did(OFFICER, (spool / "done" / "mine.json").touch) == refused
    assert did(STRANGER, question.read_bytes, ()) == refused
    assert did(STRANGER, (spool / "answers" / "mine.json").touch, ()) == refused

    words = ("--key", key, "--passphrase-file", base / "officer" / "passphrase")
    signing = started(OFFICER, lambda: sign(spool, words, pipe("y\n")))
    until = time.monotonic() + PATIENCE_S
    while not list((spool / "answers").glob("*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    (answer,) = (spool / "answers").glob("*.json")
    assert answer.stat().st_uid == OFFICER
    assert did(SITE, lambda: asking.settle(site)) == 0
    assert ended(signing) == 0
    state = deciding.known(Site.open(site), plan_hash)
    assert "the privacy officer (signed" in state.by, state
    assert list((spool / "answers").glob("*.json")) == []
    sys.stdout.write(f"{state.status} by two accounts\n")


if __name__ == "__main__":
    main()
