"""A finished run's ensemble, and the exam that it is asked about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from common.ensemble.committee import Committee
from common.errors import ConfigurationError
from common.exam import ImageRef, Roi
from simulation.evaluation import score


def open_on(run: Path, device: str | None) -> Committee:
    """The ensemble that a run trained, where and how it answers fastest.

    Args:
        run: the run's folder.
        device: ``auto``, ``cpu`` or a GPU's number; ``None``: the run's setting.

    Raises:
        ConfigurationError: if it is no run's folder, or the device is not there.
        DataError: if its networks are not all there.
    """
    committee = score.open_committee(run)
    return committee.on(score.choose_device(committee.settings.compute, device)).fastest()


def pictures(paths: Mapping[str, str | Path], regions: Mapping[str, str]) -> dict[str, ImageRef]:
    """An exam's picture files.

    Args:
        paths: image -> its file.
        regions: image -> "x y width height" of its region of interest in pixels; the whole picture where not given.

    Raises:
        ConfigurationError: for a region that is none, or of no picture.
    """
    stray = sorted(set(regions) - set(paths))
    if stray:
        raise ConfigurationError(
            f"Expected a region (--roi) for one of {', '.join(paths)}, got {', '.join(stray)}"
        )
    try:
        boxes = {name: Roi.parse(text) for name, text in regions.items()}
    except ValueError as error:
        raise ConfigurationError(f"Expected a region (--roi) 'x y width height' in pixels: {error}") from None
    return {name: ImageRef(path=str(path), roi=boxes.get(name)) for name, path in paths.items()}


def machines(run: Path) -> frozenset[str] | None:
    """The machines that a run's networks were trained on; ``None``: it does not say."""
    try:
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        return frozenset(metrics["seen"]["devices_used"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
