"""Weights that a campaign refers to by their hash: sent to a site once, kept in its folder.

``<site folder>/cache/<plan hash>/<run>/<hash>.f32``. Whatever is missing is asked for again, so the folder may be
removed between two requests; a run that ends removes its own alone, for another of the same plan may be at work.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from client.state.site_state import RUN
from common.errors import UpdateError
from common.messages import Weights, WeightsRef


class WeightsCache:
    """One run's frozen weights at a site.

    Raises:
        UpdateError: if the run has a name that is not 32 hexadecimal digits.
    """

    def __init__(self, site_folder: Path, *, plan_hash: str, run: str) -> None:
        self._folder = folder(site_folder, plan_hash=plan_hash, run=run)

    def add(self, attached: Mapping[str, Weights]) -> None:
        """Keep weights that came with a request.

        Raises:
            UpdateError: if weights are not what their hash says.
        """
        for name, weights in attached.items():
            if WeightsRef.of(weights).hash != name:
                raise UpdateError("Expected attached weights that match their hash, got different ones")
            path = self._path(WeightsRef(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{name}-{secrets.token_hex(4)}")
            np.ascontiguousarray(weights, dtype="<f4").tofile(draft)
            draft.replace(path)

    def missing(self, refs: Iterable[WeightsRef]) -> tuple[str, ...]:
        """Hashes of those that are not here."""
        return tuple(sorted({ref.hash for ref in refs if not self._path(ref).is_file()}))

    def get(self, ref: WeightsRef) -> Float32[Tensor, " _"]:
        """Weights that are here.

        Raises:
            UpdateError: if they were damaged; they are removed, so that the next request brings them anew.
        """
        path = self._path(ref)
        weights = np.fromfile(path, dtype="<f4")
        if WeightsRef.of(weights) != ref:
            path.unlink(missing_ok=True)
            raise UpdateError("Expected cached weights that match their hash, got damaged ones")
        return torch.from_numpy(weights)

    def _path(self, ref: WeightsRef) -> Path:
        if len(ref.hash) != 64 or not set(ref.hash) <= set("0123456789abcdef"):
            raise UpdateError("Expected a SHA-256 in hex as a reference to weights, got something else")
        return self._folder / f"{ref.hash}.f32"


def folder(site_folder: Path, *, plan_hash: str, run: str = "") -> Path:
    """Where a campaign's weights lie, or those of one of its runs."""
    if run and not RUN.fullmatch(run):
        raise UpdateError("Expected a run of 32 hexadecimal digits, got something else")
    return site_folder / "cache" / plan_hash / run


def forget(site_folder: Path, *, plan_hash: str, run: str = "") -> None:
    """Remove the weights of a finished run, or of a campaign that is left."""
    shutil.rmtree(folder(site_folder, plan_hash=plan_hash, run=run), ignore_errors=True)
