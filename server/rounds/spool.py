"""Replies on disk until their round is complete, so that the centre's memory does not grow with the sites."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from common.messages import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledUpdate:
    """One network's update in a spool file."""

    path: Path
    offset_bytes: int

    def read(self, start: int, stop: int) -> Float32[np.ndarray, " chunk"]:
        """Parameters ``start`` to ``stop``."""
        return np.fromfile(self.path, dtype="<f4", count=stop - start, offset=self.offset_bytes + 4 * start)


class Spool:
    """The replies of one group's current round, one file per site."""

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder / group
        self.clear()

    def write(
        self, site_index: int, arrays: Mapping[str, Mapping[str, Weights]]
    ) -> dict[str, dict[str, SpooledUpdate]]:
        """Put one site's arrays, by kind and network, on disk; nothing of them stays in memory."""
        path = self._folder / f"{site_index:05d}.f32"
        spooled: dict[str, dict[str, SpooledUpdate]] = {}
        with path.open("wb") as file:
            for kind, updates in arrays.items():
                spooled[kind] = {}
                for name, update in updates.items():
                    spooled[kind][name] = SpooledUpdate(path=path, offset_bytes=file.tell())
                    file.write(np.ascontiguousarray(update, dtype="<f4").data)  # tofile hides why it fails
        return spooled

    def clear(self) -> None:
        """Forget all replies."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
