"""How much of files is read, by the call that reads them."""

import os

import pytest


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each ``os.pread`` from now on."""
    read: list[int] = []
    real = os.pread

    def pread(file: int, length: int, place: int) -> bytes:
        found = real(file, length, place)
        read.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", pread)
    return read
