"""A finished run's ensemble and what it answers of one exam, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.ensemble.committee import Committee, Scores
from common.errors import ConfigurationError
from common.exam import ImageRef, Roi
from common.privacy.planning import notice
from common.settings import Settings
from common.text.notices import RESEARCH_ONLY
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


def sets(scores: Scores, thresholds: Mapping[str, float]) -> dict[str, list[int]]:
    """Measurement -> the grades in the first exam's set."""
    return {name: np.flatnonzero(shown[0]).tolist() for name, shown in scores.sets(thresholds).items()}


def as_json(scores: Scores, settings: Settings, thresholds: Mapping[str, float]) -> dict[str, object]:
    """One exam's answer as plain values.

    Args:
        scores: of one exam.
        settings: of the run.
        thresholds: measurement -> threshold of its sets of grades, as :func:`server.report.inside.thresholds` has it.

    Returns:
        ``measurements`` (for each: ``decision``, ``votes`` of the models, ``plurality``, ``above``, the probabilities
        of more than grade 0, 1 .., ``set``), ``combined``, ``weight``, ``runner_up_weight``, ``largest_weight``,
        ``contested``, ``tie``, ``networks``, ``notice``.
    """
    above, named = scores.above(), sets(scores, thresholds)
    measurements = {
        name: {
            "decision": int(scores.decision[0, index]),
            "votes": scores.votes[0, :, index].tolist(),
            "plurality": int(scores.majority[0, index]),
            "above": [round(float(p), 4) for p in above[name][0]] if name in above else None,
            "set": named.get(name),
        }
        for index, name in enumerate(scores.names)
    }
    return {
        "measurements": measurements,
        "combined": None if scores.combined is None else int(scores.combined[0]),
        "weight": int(scores.weight[0]),
        "runner_up_weight": int(scores.runner_up_weight[0]),
        "largest_weight": scores.votes.shape[1] ** len(scores.names),
        "contested": bool(scores.contested[0]),
        "tie": bool(scores.tie[0]),
        "networks": len(scores.outputs),
        "notice": [RESEARCH_ONLY, notice.sentence(settings)],
    }
