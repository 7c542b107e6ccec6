"""What ``docs/architecture.md`` says of the house is found in the code."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`((?:client|server|simulation|common)(?:\.\w+){2,})`", PAGE)


def found(name: str) -> object:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], module)
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_in_the_code(name: str) -> None:
    assert callable(found(name))


@pytest.mark.parametrize("package", ["client", "server", "simulation", "common"])
def test_every_room_is_on_the_page_and_none_is_crowded(package: str) -> None:
    rooms = [path.parent for path in (ROOT / package).glob("*/__init__.py")]
    assert len(rooms) >= 5
    assert [room.name for room in rooms if f"`{room.name}`" not in PAGE] == []
    for room in (ROOT / package).rglob("__init__.py"):
        assert len(list(room.parent.glob("*.py"))) <= 21, room.parent


def test_shapes_are_checked_wherever_arrays_have_them(pytestconfig: pytest.Config) -> None:
    checked = tuple(pytestconfig.getoption("--jaxtyping-packages").split(",")[:-1])
    annotated = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("client", "server", "simulation", "common")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^from jaxtyping import", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(annotated) > 100
    assert [
        name for name in annotated if not f"{name}.".startswith(tuple(f"{room}." for room in checked))
    ] == []
