"""What a network is fed: the exams it learns from, their classes, and batches of pictures or puzzles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int, Shaped
from torch import Tensor

from common.exam import MISSING
from common.imaging import augment, jigsaw
from common.imaging.augment import AugmentParameters
from common.imaging.prepare import picture
from common.imaging.transfer import sent
from common.networks.backbones import CONTIGUOUS
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What chance, or the rule for pictures as they are, says of a batch; on the CPU.

    Attributes:
        changes: of each image in its order, as :attr:`AugmentParameters.packed` has them; ``None``: none.
        puzzles: of each exam its permutation; ``None``: the network solves none.
        offsets: of each puzzle; see :func:`common.imaging.jigsaw.draw_offsets`.
    """

    changes: Float32[Tensor, "images n 8"] | None = None
    puzzles: Int[Tensor, " n"] | None = None
    offsets: Int[Tensor, "n 9 2"] | None = None

    @classmethod
    def together(cls, each: Sequence[Drawn]) -> Drawn:
        """Several batches as one, after one another; all have what the first has."""
        changes = [one.changes for one in each if one.changes is not None]
        puzzles = [one.puzzles for one in each if one.puzzles is not None]
        offsets = [one.offsets for one in each if one.offsets is not None]
        return cls(
            changes=torch.cat(changes, dim=1) if changes else None,
            puzzles=torch.cat(puzzles) if puzzles else None,
            offsets=torch.cat(offsets) if offsets else None,
        )

    def part(self, some: slice) -> Drawn:
        """What was drawn for some of the batch."""
        return Drawn(
            changes=None if self.changes is None else self.changes[:, some],
            puzzles=None if self.puzzles is None else self.puzzles[some],
            offsets=None if self.offsets is None else self.offsets[some],
        )


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
    return applied(data, exams, classes, settings, draw(data, exams, settings, generator))


def draw(
    data: ExamTensors, exams: Int[Tensor, " n"], settings: LocalSettings, generator: torch.Generator | None
) -> Drawn:
    """What is drawn for a batch; see :func:`inputs`."""
    changes, ranges = None, settings.training.augmentation
    if generator is not None and ranges is not None:
        each = [
            augment.draw(
                len(exams),
                image=settings.images[name],
                settings=ranges,
                image_px=settings.network.image_px,
                stored_px=data.images[name].shape[-1],
                generator=generator,
            )
            for name in settings.spec.images
        ]
        changes = torch.stack([parameters.packed for parameters in each])
    if settings.spec.jigsaw is None:
        return Drawn(changes=changes)
    count = settings.spec.target.classes
    if generator is None:
        puzzles, offsets = exams % count, jigsaw.central_offsets(len(exams), settings.spec.jigsaw)
    else:
        puzzles = torch.randint(0, count, (len(exams),), generator=generator)
        offsets = jigsaw.draw_offsets(len(exams), settings.spec.jigsaw, generator)
    return Drawn(changes=changes, puzzles=puzzles, offsets=offsets)


def applied(
    data: ExamTensors,
    exams: Int[Tensor, " n"],
    classes: Shaped[Tensor, " n"],
    settings: LocalSettings,
    drawn: Drawn,
) -> tuple[list[Tensor], Shaped[Tensor, " n"]]:
    """The batch of what was drawn for it; see :func:`inputs`."""
    pictures = list(_pictures(data, exams, settings, drawn.changes))
    if settings.spec.jigsaw is None:
        return pictures, sent(classes, settings.device)
    assert drawn.puzzles is not None
    assert drawn.offsets is not None
    (whole,) = pictures
    order = jigsaw.permutations(settings.spec.target.classes)[drawn.puzzles]
    tiles = jigsaw.tiles(whole, settings.spec.jigsaw, offsets=drawn.offsets, order=order)
    return [tiles], sent(drawn.puzzles, settings.device)


def _pictures(
    data: ExamTensors, exams: Tensor, settings: LocalSettings, changes: Tensor | None
) -> Iterator[Tensor]:
    """Stored pictures may lie on the host or, all of one image, on the device: they are gathered where they lie."""
    images = settings.spec.images
    resident = any(not data.images[name].is_cpu for name in images)
    index = sent(exams, settings.device) if resident else exams
    drawn = sent(changes, settings.device) if changes is not None else None
    backbone = settings.spec.backbone or settings.network.backbone
    contiguous = settings.device.type == "cpu" and backbone in CONTIGUOUS
    for number, name in enumerate(images):
        stored = data.images[name]
        chosen = sent(stored.index_select(0, exams if stored.is_cpu else index), settings.device)
        parameters = None if drawn is None else AugmentParameters.unpacked(drawn[number])
        ready = picture(
            chosen, settings.images[name], image_px=settings.network.image_px, parameters=parameters
        )
        yield ready.contiguous() if contiguous else ready
