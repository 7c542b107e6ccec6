"""What all tests share: property tests draw the same examples each time, and time never decides."""

import os

# Workers share the cores: OpenMP's threads would wait for each other at work, ten times as long where cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import shapes

shapes.install()  # before anything of the product is imported
settings.register_profile("synofed", deadline=None, derandomize=True)
settings.load_profile("synofed")

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


def _room(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """A file's tests share a worker, and so their fixtures; those of the one real federation too."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder = path.rpartition("/")[0]
        return folder if folder.endswith("deployment") else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileByFile:
    """See :class:`FileByFile`."""
    return FileByFile(config, log)
