"""Linear probes: what can be trained under differential privacy with few patients.

Each measurement has one head a member, which tells all its grades apart, on a frozen public encoder. Members differ
in their encoder, in the augmented pictures that they learn from, and in their start. All heads of all members are
one stage and one group: they are trained, clipped and noised as one vector.

A member's vote is decoded from the ECOC bits of its softmax, P(grade > t) >= 1/2 for t = 0, 1, ..., like those of
RATING's binary networks. That is post-processing, and differs from the most probable grade where no grade has half of
the probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float32, Int

from common.errors import ConfigurationError
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.spec import NetworkSpec, Piece, Probe, Target
from common.scoring import ecoc
from common.settings import Settings

FOLD = -1
"""No exam is kept for validation: the last round is taken."""
HALF = 0.5


class LinearProbes:
    """One member votes once; MULTITUDE decides."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """``heads``: all of them."""
        del results  # nothing is chosen by what came before
        if settings.network.weights == "none":
            raise ConfigurationError(
                'Expected network.weights to name public encoders for method "probe", got "none": make some with '
                '`synofed pretrain`, or take "imagenet"'
            )
        yield Stage(name="heads", networks=tuple(_heads(settings)), whole=True)

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """Every measurement."""
        return {name: graded.grades for name, graded in settings.measurements.items()}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """One vote a member and measurement."""
        votes = {(o.spec.replica, o.spec.target.measurement): grades(o.probabilities) for o in outputs}
        members = sorted({member for member, _ in votes})
        by_member = [[votes[member, name] for name in settings.measurements] for member in members]
        return np.array(by_member).transpose(2, 0, 1)


def grades(probabilities: Float32[np.ndarray, "n grades"]) -> Int[np.ndarray, " n"]:
    """The grade that the bits P(grade > t) >= 1/2 decode to."""
    exceeding = 1 - np.cumsum(probabilities[:, :-1], axis=1)
    return ecoc.decode((exceeding >= HALF)[:, None, :])


def _heads(settings: Settings) -> Iterator[NetworkSpec]:
    probe = settings.probe
    places = product(range(probe.encoders), range(probe.augmentations), range(probe.initialisations))
    for member, (encoder, augmentation, _) in enumerate(places):
        for measurement, graded in settings.measurements.items():
            yield NetworkSpec(
                name=f"probe/member{member}/{measurement}",
                images=graded.images,
                target=Target(measurement=measurement, kind="nominal", threshold=None, classes=graded.grades),
                fold=FOLD,
                replica=member,
                probe=Probe(
                    neck=probe.neck,
                    augmentation=augmentation,
                    norms=probe.norm_scale if probe.train == "norms" else None,
                ),
                pieces=tuple(_encoder(settings, encoder, measurement, images=len(graded.images))),
            )


def _encoder(settings: Settings, encoder: int, measurement: str, *, images: int) -> Iterator[Piece]:
    """The frozen parts, of the folder or torchvision's backbone for every image, and where the head starts."""
    neck = settings.probe.neck is not None
    for part in (*(f"backbones.{i}" for i in range(images)), *(["neck"] if neck else [])):
        torchvision = settings.probe.source == "torchvision"
        source = "backbone" if torchvision else f"encoder{encoder}/{measurement}/{part}"
        yield Piece(part=part, network=None, source=source, frozen=True)
    if settings.probe.start == "encoder":
        yield Piece(part="head", network=None, source=f"encoder{encoder}/{measurement}/head")
