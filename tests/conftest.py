"""What all tests share: property tests draw the same examples each time, and time never decides."""

import gc
import os
import re
import shutil

# Workers share the cores: OpenMP's threads would wait for each other at work, ten times as long where cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import shapes

gc.disable()  # nearly all that importing makes stays: a seventh of the time goes into looking for what does not
shapes.install()  # before anything of the product is imported
settings.register_profile("synofed", deadline=None, derandomize=True)
settings.load_profile("synofed")


def _free_bytes() -> int:
    """Of the machine's memory."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


MEMORY, ROOM_BYTES = Path("/dev/shm"), 12 << 30
"""Folders in memory, where there is room: a campaign's files are forced to a disk hundreds of times."""
if (
    os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and min(shutil.disk_usage(MEMORY).free, _free_bytes()) >= ROOM_BYTES
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

FIRST = ("deployment", "federation", "simulation")
"""Folders whose tests take longest; those of a real federation wait more than they work, so they begin."""


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """A site's commands close what they write to others, for the rest of their process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins."""
    items.sort(key=lambda item: FIRST.index(room) if (room := _room(item)) in FIRST else len(FIRST))


def pytest_collection_finish() -> None:
    """What was imported is not looked at again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What all tests passed over leaves nothing, least of all in memory."""
    if exitstatus == 0 and not hasattr(session.config, "workerinput") and not session.config.option.basetemp:
        factory: pytest.TempPathFactory = vars(session.config)["_tmp_path_factory"]
        shutil.rmtree(factory.getbasetemp(), ignore_errors=True)


def _room(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """A file's tests share a worker, and so their fixtures; files that ask for the one real federation too."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder = path.rpartition("/")[0]
        return folder if folder.endswith("deployment") and _asks_for_the_federation(path) else path


@cache
def _asks_for_the_federation(path: str) -> bool:
    text = (Path(__file__).parents[1] / path).read_text(encoding="utf-8")
    return re.search(r"^def test_\w+\([^)]*\bfederation: Federation", text, re.MULTILINE) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileByFile:
    """See :class:`FileByFile`."""
    return FileByFile(config, log)
