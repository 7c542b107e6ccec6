"""Scores exams whose pictures lie in files, with an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from client.data.pictures.pictures import Cut, read_cut
from common.ensemble.committee import Committee, Scores
from common.errors import ConfigurationError, DataError
from common.exam import ImageRef
from common.imaging.prepare import picture
from common.privacy.planning import notice
from common.settings import Settings
from common.text.notices import RESEARCH_ONLY

Pictures = Mapping[str, ImageRef]
"""Image name -> where it lies."""


def score_exam(committee: Committee, pictures: Pictures) -> Scores:
    """Score one exam from its picture files.

    Args:
        committee: the ensemble.
        pictures: one for each image of the run's settings; without ROI the whole picture is taken.

    Raises:
        ConfigurationError: if the images are not those of the run.
        DataError: if a picture cannot be used.
    """
    images = committee.settings.images
    if set(pictures) != set(images):
        raise ConfigurationError(
            f"Expected a picture for each of {', '.join(images)}, got {', '.join(pictures) or 'none'}"
        )
    return scores(committee, [[_read(name, pictures[name], committee.settings) for name in images]])


def prepared(pictures: Pictures, images: Sequence[str], settings: Settings) -> list[Tensor]:
    """An exam's pictures, ready for a network that reads some of a run's images.

    Args:
        pictures: of the exam.
        images: those that the network reads, in its order.
        settings: of the run.

    Returns:
        ``float32 (1, 3, side, side)`` each, of a clip ``(1, frames, 3, side, side)``.

    Raises:
        ConfigurationError: if a picture is missing.
        DataError: if one cannot be used.
    """
    missing = [name for name in images if name not in pictures]
    if missing:
        raise ConfigurationError(
            f"Expected a picture for each of {', '.join(images)}, got {', '.join(pictures) or 'none'}"
        )
    cuts = [_read(name, pictures[name], settings) for name in images]
    return [
        picture(
            torch.from_numpy(cut.pixels[None].copy()),
            settings.images[name],
            image_px=settings.network.image_px,
        )
        for name, cut in zip(images, cuts, strict=True)
    ]


def guesses(committee: Committee, pictures: Pictures) -> str:
    """What is guessed of an exam's picture files when they are read, empty if nothing is."""
    settings = committee.settings
    return guesses_of([_read(name, pictures[name], settings) for name in settings.images], committee)


def scores(committee: Committee, exams: Sequence[Sequence[Cut]]) -> Scores:
    """Scores of exams whose pictures are in the order of the settings' images."""
    stored: dict[str, UInt8[Tensor, "exams ... _ side side"]] = {
        name: torch.from_numpy(np.stack([cuts[index].pixels for cuts in exams]))
        for index, name in enumerate(committee.settings.images)
    }
    return committee.score(stored, torch.arange(len(exams)))


def guesses_of(cuts: Sequence[Cut], committee: Committee) -> str:
    """What is guessed of an exam's pictures, in the order of the settings' images."""
    named = zip(committee.settings.images, cuts, strict=True)
    return "; ".join(f"{name} with {note}" for name, cut in named for note in cut.notes)


def _read(name: str, ref: ImageRef, settings: Settings) -> Cut:
    try:
        return read_cut(Path(), ref, settings.images[name], image_px=settings.network.image_px)
    except DataError as error:
        raise DataError(f"The picture {name} at {ref.path} cannot be scored: {error}") from None


def as_read(
    committee: Committee, pictures: Pictures, images: Sequence[str]
) -> list[Float[Tensor, "1 ... 3 px px"]]:
    """An exam's pictures as the networks read them, in the order of ``images``."""
    settings = committee.settings
    stored = {
        name: torch.from_numpy(_read(name, pictures[name], settings).pixels[None].copy())
        for name in settings.images
    }
    prepared = committee.pictures(stored, torch.tensor([0]))
    return [prepared[name] for name in images]


def sets(scores: Scores, thresholds: Mapping[str, float]) -> dict[str, list[int]]:
    """Measurement -> the grades in the first exam's set."""
    return {name: np.flatnonzero(shown[0]).tolist() for name, shown in scores.sets(thresholds).items()}


def answer(scores: Scores, settings: Settings, thresholds: Mapping[str, float]) -> dict[str, object]:
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
