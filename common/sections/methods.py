"""The methods' own sections of a run's configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from common.sections.section import Backbone, GrowingSection, Positive, Rate, Section


class StageSettings(Section):
    """What a stage does otherwise than ``training`` and ``federation`` say; ``None``: as they do."""

    rounds: Positive | None = None
    learning_rate: Rate | None = None
    batch_size: Positive | None = None
    local_steps: Positive | None = None


class JigsawSettings(StageSettings):
    """Pretraining by jigsaw puzzles (Noroozi and Favaro 2016), as in RATING's stage 1."""

    image: str = "gs"
    image_px: Annotated[int, Field(ge=24, le=1024)] = 225
    """Side that the ROI is resized to; three cells a side."""
    tile_px: Annotated[int, Field(ge=8, le=341)] = 64
    """Side of the tile that is cut at a random place of each cell."""
    permutations: Annotated[int, Field(ge=2, le=10_000)] = 1000
    """Size of the set that is told apart (the paper: 1000, the released code: 100)."""
    measurements: tuple[str, ...] | None = None
    """Whose networks start from the puzzles (RATING: hypertrophy's only); ``None``: all."""

    @model_validator(mode="after")
    def _tiles_fit(self) -> JigsawSettings:
        if self.tile_px > self.image_px // 3:
            raise ValueError(
                f"jigsaw.tile_px is {self.tile_px}, a cell of {self.image_px} px has {self.image_px // 3}"
            )
        return self


class RatingSettings(GrowingSection):
    """RATING's ensemble (Zhou et al. 2022): a scoring model per fold, thresholds x replicas bits per measurement."""

    later: ClassVar[tuple[str, ...]] = ("votes",)

    folds: Annotated[int, Field(ge=2, le=20)] = 5
    models: Positive | None = None
    """Scoring models that are trained, one each for the first folds; ``None``: one per fold."""
    replicas: Annotated[int, Field(ge=1, le=26)] = 2
    fusion: Literal["staged", "joint"] = "staged"
    """``staged``: F and G alone, then the head H on frozen F and G (the paper); ``joint``: all three at once."""
    codes: Literal["ecoc", "classes"] = "ecoc"
    """``ecoc``: binary tasks and their code; ``classes``: one network that tells all grades apart (ablation)."""
    votes: Literal["hard", "soft"] = "hard"
    """``hard``: a model votes for the grade whose code word is nearest to its networks' bits (the paper); ``soft``:
    it divides its vote among all grades by how likely they are, as far as its networks are above their thresholds."""
    decision: Literal["multitude", "majority"] = "multitude"
    """``majority``: each measurement's own plurality, whether or not the pair can be (ablation)."""
    pretraining: Literal["jigsaw", "none"] = "none"
    """``jigsaw``: backbones learn to put an image's tiles in order before they learn grades; ``none``: they start
    as ``network.weights`` says."""
    jigsaw: JigsawSettings = JigsawSettings()
    head: StageSettings = StageSettings()
    """The stage that trains H."""

    @model_validator(mode="after")
    def _no_more_models_than_folds(self) -> RatingSettings:
        if self.models is not None and self.models > self.folds:
            raise ValueError(f"rating.models is {self.models}, but there are only {self.folds} folds")
        return self


SPLIT_BY_IMAGE = (
    "Split by image: training, validation and held-out exams are of the same patients, as in Andersen et al. 2019. A "
    "network may know a patient again, so the results are too high and say nothing about patients whom it never saw"
)


class AndersenSettings(GrowingSection):
    """Andersen et al. 2019: a binary network, and an ensemble of classifiers on the best layer of a backbone."""

    later: ClassVar[tuple[str, ...]] = ("votes", "split")

    binary_backbone: Backbone = "vgg16"
    backbone: Backbone = "inception_v3"
    encoder: Literal["frozen", "trained"] = "frozen"
    """``frozen``: classifiers on ImageNet's features (published; needs ``network.weights``); ``trained``: the
    encoder is trained with each of them."""
    layers: Annotated[int, Field(ge=1, le=11)] = 11
    """Candidates for the layer whose features are classified: the first N layers of the backbone."""
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (
        1e-3, 7e-4, 5e-4, 3e-4, 2e-4,
    )  # fmt: skip
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 64)
    """The ensemble has one classifier for each pair of learning rate and batch size: ten."""
    votes: Literal["mean", "plurality"] = "mean"
    """How the classifiers' answers become one grade: the largest mean probability, or the grade that most of them
    give (the paper combines scores, and does not say how)."""
    split: Literal["patient", "image"] = "patient"
    """``image``: exams are held out and put into folds one by one, as published, so that patients stand on both
    sides: results are too high."""


class ProbeSettings(GrowingSection):
    """Linear heads on frozen, public encoders; as many members as encoders x augmentations x initialisations."""

    later: ClassVar[tuple[str, ...]] = ("start", "train", "norm_scale")

    source: Literal["encoders", "torchvision"] = "encoders"
    """What ``network.weights`` names: a folder that `synofed pretrain` wrote, or torchvision's weights."""
    encoders: Positive = 1
    """How many encoders to use: the first ones of the folder."""
    augmentations: Positive = 1
    """Sets of augmented pictures; members of another set see other pictures."""
    initialisations: Positive = 3
    """Start weights of the heads."""
    start: Literal["random", "encoder"] = "random"
    """Where heads start: at random, or ``encoder``: at the public head that `synofed pretrain` fitted to the
    encoder's own phantoms, which costs no privacy; then there is one initialisation."""
    train: Literal["heads", "norms"] = "heads"
    """``norms``: beside its head each member trains the affine parameters of its encoder's norms, linearised about
    the encoder, in the same clipped vector."""
    norm_scale: Annotated[float, Field(ge=0.001, le=10)] = 0.3
    """How far a step moves the norms beside the heads: the unit in which their moves are clipped, noised and sent."""
    views: Positive = 1
    """Pictures of an exam inside the patient's mean: the first as it is, the others augmented."""
    neck: Positive | None = None
    """Numbers that the encoder's public projection gives; ``None``: it has none."""
    learning_rate: Rate = 1.0
    """Of the one step a round, down the gradient of the mean loss."""

    @model_validator(mode="after")
    def _an_encoder_has_one_head(self) -> ProbeSettings:
        if self.start == "encoder" and (self.source != "encoders" or self.initialisations != 1):
            raise ValueError(
                'probe.start = "encoder" is of encoders that synofed pretrain made, which have one head each: '
                f'expected probe.source = "encoders" and probe.initialisations = 1, got "{self.source}" and '
                f"{self.initialisations}"
            )
        return self

    @model_validator(mode="after")
    def _norms_move_few_numbers(self) -> ProbeSettings:
        if self.train == "norms" and self.neck is None:
            raise ValueError(
                'probe.train = "norms" keeps the derivatives of all that a head reads: expected probe.neck, as of '
                "encoders that synofed pretrain made, got none"
            )
        return self


class SvdhSettings(Section):
    """Bo, Coates and Papiez 2024: a total score as a number and in classes, by several backbones that are stacked."""

    number: str = "svdh"
    """The total score, of ``[numbers]``."""
    measurement: str = "severity"
    """Its classes, of ``[measurements]``."""
    backbones: Annotated[tuple[Backbone, ...], Field(min_length=1)] = ("resnet18", "mobilenet_v2")
    """Each trains a network for the number and one for the classes, in every fold."""
    classes: Literal["nominal", "ordinal", "number"] = "nominal"
    """``nominal``: classes told apart by cross-entropy (the paper); ``ordinal``: by one cut after another (ours; the
    paper names the lack of it as a limit); ``number``: by no networks, but by where the number's mean lies (ours)."""
    transfer: Literal["none", "whole", "head", "last_blocks"] = "whole"
    """What trains of a network that starts from ``network.weights``: ``none``: it starts at random, and all of it;
    ``whole``: all; ``head``: the last layer alone; ``last_blocks``: that and the backbone's last ``blocks``."""
    blocks: Positive = 1
    stacking: Literal["regression", "mean"] = "regression"
    """How numbers of several backbones become one: by least squares on what each fold's networks say of the fold's
    own patients (Breiman 1996), or their mean."""
    ridge: Annotated[float, Field(ge=0, le=1e6)] = 1e-4
    """Of that regression, in units of the squared range, towards the plain mean."""
