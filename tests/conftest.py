"""What all tests share: property tests draw the same examples each time, and time never decides."""

import pytest
from hypothesis import settings

settings.register_profile("synofed", deadline=None, derandomize=True)
settings.load_profile("synofed")

FIRST = ("deployment", "federation", "simulation")
"""Folders whose tests take longest; those of a real federation wait more than they work, so they begin."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests share a worker, and so their fixtures; those of the one real federation too."""
    for item in items:
        folder = item.path.parent.name
        group = folder if folder == "deployment" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: FIRST.index(name) if (name := item.path.parent.name) in FIRST else len(FIRST))
