"""What a network is: its name, the images it reads, the target it learns, where it starts, what stays frozen."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from common.sections.methods import JigsawSettings
from common.sections.section import Fraction, GrowingSection, Positive, Section
from common.sections.training import TrainingSettings

COMBINED = "combined"
"""The combined score, the larger of hypertrophy and vascularity: a target too, though no reader gives it."""

Shape: TypeAlias = tuple[object, ...]
"""Networks of equal shape are built alike."""


class Target(GrowingSection):
    """What a network predicts.

    Attributes:
        measurement: the graded column, for example ``hypertrophy``, or ``combined``.
        kind: ``binary`` (grade > ``threshold``), ``nominal`` (one class per grade), ``ordinal`` (the same of ordered
            grades, told by one output per cut), ``regression`` (a number), or ``permutation`` (of an image's tiles;
            needs no grade).
        threshold: for ``binary``, the grade that is exceeded, 0 .. grades - 2.
        classes: the number of classes; 2 for ``binary``; for ``regression`` of the strata that are told apart.
        at_least: only exams of at least this grade take part (a later step of a cascade).
        edges: for ``regression``, where strata begin, as shares of the number's range: balanced sampling and the
            choice of a round go by them.
        centre: for ``regression``, the share of the number's range that an output of 0 stands for.
        spread: for ``regression``, by how much more an output of 1 stands.
    """

    later: ClassVar[tuple[str, ...]] = ("edges", "centre", "spread")

    measurement: str
    kind: Literal["binary", "nominal", "ordinal", "regression", "permutation"] = "binary"
    threshold: int | None = 0
    classes: int = 2
    at_least: int = 0
    edges: tuple[float, ...] = ()
    centre: Fraction = 0.0
    spread: Annotated[float, Field(ge=1e-9, le=1)] = 1.0

    @property
    def outputs(self) -> int:
        """How many numbers the network gives."""
        return {"ordinal": self.classes - 1, "regression": 1}.get(self.kind, self.classes)

    @property
    def answers(self) -> int:
        """How many are made of them: a probability per class, or the number."""
        return 1 if self.kind == "regression" else self.classes

    @property
    def task(self) -> str:
        """What has to be known of an exam to learn it, and what is told apart: ``hypertrophy>1``, ``hypertrophy``."""
        if self.kind == "permutation":
            return f"{self.measurement} puzzles"
        return f"{self.measurement}>{self.threshold}" if self.kind == "binary" else self.measurement

    @property
    def label(self) -> str:
        """Short form for names: ``gt0``, ``grades``, ``number`` or ``permutation``."""
        if self.kind == "binary":
            return f"gt{self.threshold}"
        return {"nominal": "grades", "ordinal": "grades", "regression": "number"}.get(
            self.kind, "permutation"
        )


class Piece(Section):
    """A part of a network that comes from elsewhere.

    Attributes:
        part: the module's name in this network, for example ``backbones.0``.
        network: whose trained weights are taken; ``None``: the pretrained weights of the settings.
        source: the module's name there; of pretrained weights ``backbone`` for torchvision's, or the name in a
            folder of public encoders.
        frozen: whether it stays as it is; then it is sent to a site once, as :class:`WeightsRef` says.
    """

    part: str
    network: str | None
    source: str = "backbone"
    frozen: bool = False


class Probe(GrowingSection):
    """A network that is a linear head on frozen features.

    Attributes:
        neck: numbers that a public projection makes of the backbones' features; ``None``: there is none.
        augmentation: which set of augmented pictures it learns from; has no part in its shape.
        norms: the unit of moves of the backbones' norms, which train beside the head; ``None``: they stay.
    """

    later: ClassVar[tuple[str, ...]] = ("norms",)

    neck: int | None = None
    augmentation: int = 0
    norms: float | None = None


def without_fold(name: str, fold: int | None) -> str:
    """A network's name without the part that says its fold: the same for the networks of all folds."""
    return "/".join(part for part in name.split("/") if part != f"fold{fold}")


class NetworkSpec(Section):
    """One network of a method.

    Attributes:
        name: unique in a campaign, for example ``rating/fold2/vascularity/gt1/b``.
        images: the images it reads; two are fused by an MLP over the concatenated features.
        clips: those of them that are moving pictures; filled in from the settings by whoever plans
            (:func:`common.methods.stages.stages_of`), and by no method.
        start: networks of one start begin with the same random bits, as far as their modules are the same, in
            order; empty: each begins with its own.
        target: what it learns.
        fold: the validation fold, -1 for none.
        replica: index of the replica; replicas differ in their seed only.
        backbone: ``None``: the settings'.
        layer: the backbone's layer whose features are used, from 0; ``None``: the last.
        jigsaw: given for a network that solves puzzles.
        probe: given for a linear head on frozen features.
        pieces: parts that come from elsewhere; all else starts at random, or from pretrained weights.
        training: ``None``: the settings'.
        rounds: ``None``: the settings'; all networks of a stage have the same.
        scoring: whether the ensemble asks it; else others are built on it, or it was a candidate.
    """

    name: str
    images: tuple[str, ...]
    clips: tuple[str, ...] = ()
    start: str = ""
    target: Target
    fold: int = -1
    replica: int = 0
    backbone: str | None = None
    layer: int | None = None
    jigsaw: JigsawSettings | None = None
    probe: Probe | None = None
    pieces: tuple[Piece, ...] = ()
    training: TrainingSettings | None = None
    rounds: Positive | None = None
    scoring: bool = True

    @property
    def frozen(self) -> tuple[Piece, ...]:
        """The parts that do not train."""
        return tuple(piece for piece in self.pieces if piece.frozen)

    @property
    def shape(self) -> Shape:
        """What its modules and its flat vector are determined by, beside the settings."""
        frozen = tuple(piece.part for piece in self.frozen)
        read = self.probe and (self.probe.neck, self.probe.norms)
        moves = tuple(image in self.clips for image in self.images)
        return (moves, self.target.outputs, self.backbone, self.layer, self.jigsaw, read, frozen)

    @property
    def identity(self) -> str:
        """What it is, whatever it is called: networks of one identity share start and seeds, in any study."""
        later = {"probe": self.probe, "clips": self.clips, "start": self.start}
        excluded = {"name", "training", "rounds", "scoring"} | {
            name for name, given in later.items() if not given
        }
        return hashlib.sha256(self.model_dump_json(exclude=excluded).encode()).hexdigest()
