"""What a network is fed: the exams it learns from, their classes, and batches of pictures or puzzles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from common.exam import MISSING
from common.imaging import augment, jigsaw
from common.imaging.prepare import picture
from common.networks.spec import COMBINED, NetworkSpec
from common.training.data import ExamTensors
from common.training.local_settings import LocalSettings


def labels(data: ExamTensors, spec: NetworkSpec) -> Int[Tensor, " exams"]:
    """The class of each exam for a network's target, ``MISSING`` where it takes no part; for puzzles 0.

    Of a number it is the stratum.
    """
    target = spec.target
    if target.kind == "permutation":
        return torch.zeros(len(data), dtype=torch.long)
    if target.kind == "regression":
        shares = data.numbers[target.measurement]
        strata = torch.bucketize(shares, torch.tensor(target.edges), right=True)
        return torch.where(shares.isnan(), MISSING, strata)
    grades = _grades(data, target.measurement)
    grades = torch.where(grades < target.at_least, MISSING, grades)
    if target.kind in ("nominal", "ordinal"):
        return grades
    assert target.threshold is not None, "a binary target has a threshold"
    return torch.where(grades == MISSING, MISSING, (grades > target.threshold).long())


def wanted(data: ExamTensors, spec: NetworkSpec) -> Shaped[Tensor, " exams"]:
    """What a network learns of each exam: the class, or a number's share of its range."""
    target = spec.target
    return data.numbers[target.measurement] if target.kind == "regression" else labels(data, spec)


def _grades(data: ExamTensors, measurement: str) -> Tensor:
    if measurement != COMBINED or COMBINED in data.grades:
        return data.grades[measurement].long()
    hypertrophy, vascularity = data.grades["hypertrophy"].long(), data.grades["vascularity"].long()
    graded = (hypertrophy != MISSING) & (vascularity != MISSING)
    return torch.where(graded, torch.maximum(hypertrophy, vascularity), MISSING)


def training_exams(data: ExamTensors, spec: NetworkSpec) -> Int[Tensor, " training"]:
    """Indices of the usable exams of all folds but the network's own."""
    usable = (data.fold != MISSING) & (data.fold != spec.fold) & (labels(data, spec) != MISSING)
    return torch.nonzero(usable).flatten()


def validation_exams(data: ExamTensors, spec: NetworkSpec) -> Int[Tensor, " validation"]:
    """Indices of the usable exams of the network's fold."""
    usable = (data.fold == spec.fold) & (data.fold != MISSING) & (labels(data, spec) != MISSING)
    return torch.nonzero(usable).flatten()


def inputs(
    data: ExamTensors,
    exams: Int[Tensor, " n"],
    classes: Shaped[Tensor, " n"],
    settings: LocalSettings,
    generator: torch.Generator | None,
) -> tuple[list[Tensor], Shaped[Tensor, " n"]]:
    """A batch: pictures (or one sequence of tiles), and the classes to be learnt.

    Args:
        data: the site's exams.
        exams: which of them.
        classes: what is wanted of them (:func:`wanted`); of a puzzle it is its permutation instead.
        settings: what to train and where.
        generator: draws augmentation and puzzles; ``None``: pictures as they are, and puzzle i for exam i.
    """
    pictures = list(_pictures(data, exams, settings, generator))
    if settings.spec.jigsaw is None:
        return pictures, classes.to(settings.device)
    (whole,) = pictures
    count = settings.spec.target.classes
    if generator is None:
        chosen, offsets = exams % count, jigsaw.central_offsets(len(exams), settings.spec.jigsaw)
    else:
        chosen = torch.randint(0, count, (len(exams),), generator=generator)
        offsets = jigsaw.draw_offsets(len(exams), settings.spec.jigsaw, generator)
    order = jigsaw.permutations(count)[chosen]
    tiles = jigsaw.tiles(whole, settings.spec.jigsaw, offsets=offsets, order=order)
    return [tiles], chosen.to(settings.device)


def _pictures(
    data: ExamTensors, exams: Tensor, settings: LocalSettings, generator: torch.Generator | None
) -> Iterator[Tensor]:
    image_px = settings.network.image_px
    ranges = settings.training.augmentation
    for name in settings.spec.images:
        stored = data.images[name].index_select(0, exams).to(settings.device, non_blocking=True)
        parameters = None
        if generator is not None and ranges is not None:
            parameters = augment.draw(
                len(exams),
                image=settings.images[name],
                settings=ranges,
                image_px=image_px,
                stored_px=stored.shape[-1],
                generator=generator,
            )
        yield picture(stored, settings.images[name], image_px=image_px, parameters=parameters)
