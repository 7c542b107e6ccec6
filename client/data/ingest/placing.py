"""Where an import goes: built beside its place, renamed there; the private folder apart."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError, refusal
from common.machine import file_lock
from common.text import csv_text


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A CSV file in UTF-8."""
    return csv_text.table(columns, rows).encode(
        "utf-8", "backslashreplace"
    )  # names of files may be in no encoding


def check(source: Path, out: Path, private: Path, *, replace: bool) -> None:
    """Refuse folders that lie in one another, and one that is there already unless it may be moved aside.

    Raises:
        DataError: saying which.
    """
    places = {"the export": source.resolve(), "--out": out.resolve(), "--private": private.resolve()}
    for one, other in (("--out", "the export"), ("the export", "--out"), ("--private", "--out")):
        if places[one].is_relative_to(places[other]):
            raise DataError(f"Expected {one} outside of {other}, got {places[one]} in {places[other]}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not replace:
        raise DataError(
            f"Expected a new folder, there is something at {out}: choose another --out, or --replace, which moves "
            f"it aside"
        )


@contextmanager
def private_folder(folder: Path) -> Iterator[None]:
    """The private folder, made for its owner only; one import at a time.

    Raises:
        DataError: if others can open it, or something cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise DataError(f"Expected {folder} to be open to its owner only: chmod 700 {folder}")
        with file_lock.hold(folder / file_lock.NAME):
            yield
    except OSError as error:
        raise DataError(f"The import cannot be written: {refusal(error)}") from None


@contextmanager
def building_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``; what an interrupted import left of it is cleared away, as is this one's."""
    building = out.with_name(f".{out.name}.building")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def put(building: Path, out: Path) -> None:
    """Rename to the place; everything is on the disk before, and a former folder is moved aside."""
    for path in (*building.rglob("*"), building):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if out.exists():
        if any(out.iterdir()):
            number = 1
            while (aside := out.with_name(f"{out.name}.before-{number}")).exists():
                number += 1
            out.rename(aside)
        else:
            out.rmdir()
    building.rename(out)
