"""Bo, Coates and Papiez 2024 (arXiv 2406.09980): the total Sharp/van der Heijde score from a whole radiograph.

No joint is looked for. Every backbone (ResNet-18, MobileNetV2) learns from the picture of both hands

* the total score, 0-280, as a regression: squared error, in units of what is usual (``numbers.svdh.spread``);
* its ten classes of severity, by cross-entropy, or cut by cut (``svdh.classes = "ordinal"``), or not at all: then
  they are read off the score (``"number"``).

Backbones start from other pictures (``network.weights``: ImageNet, or an encoder that learnt from labelled
radiographs, `synofed weights learn`); ``svdh.transfer`` says which of their layers train. Each network leaves
out one fold of the patients. What the networks say of the patients they left out gives the weights with which the
backbones' numbers become one (:mod:`common.ensemble.stacked_regression`), so no fold may choose among the rounds: the
last one counts. A class is the most probable one of the mean over the networks.

Not told in what is readable of the paper, and ours: the size in pixels, the losses and their units, five folds, which
layers each scheme trains, least squares for the stacking of the number, and that classes are not stacked. The
paper's backbones learn children's hands before; no picture of these can be had here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from common.errors import ConfigurationError
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.backbones import BLOCKS
from common.networks.spec import NetworkSpec, Piece, Target
from common.settings import Settings


class Svdh:
    """Networks for the score and for its classes, of several backbones in every fold."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """One: no network needs another."""
        del results
        _check(settings)
        yield Stage(name="networks", networks=tuple(_networks(settings)))

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """The classes."""
        name = settings.svdh.measurement
        return {name: settings.measurements[name].grades}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """One vote: the most probable class of the mean over the networks for classes, or that of the mean number."""
        name = settings.svdh.measurement
        if settings.svdh.classes == "number":
            return _classes(outputs, settings)[:, None, None]
        told = [
            o.probabilities
            for o in outputs
            if o.spec.target.measurement == name and o.spec.target.kind != "regression"
        ]
        if not told:
            raise ConfigurationError(f"Expected networks for {name}, got none")
        mean = np.stack(told).mean(axis=0, dtype=np.float64)
        return np.asarray(mean.argmax(axis=1)[:, None, None])

    def stacked(
        self, specs: Iterable[NetworkSpec], settings: Settings
    ) -> Mapping[str, tuple[NetworkSpec, ...]]:
        """The networks for the score of each fold, one for each backbone; none where their mean is taken."""
        if settings.svdh.stacking == "mean":
            return {}
        found: dict[str, tuple[NetworkSpec, ...]] = {}
        order = list(map(str, settings.svdh.backbones))
        for spec in sorted(specs, key=lambda spec: (spec.fold, order.index(str(spec.backbone)))):
            if spec.target.kind == "regression":
                name = f"{spec.target.measurement}/fold{spec.fold}"
                found[name] = (*found.get(name, ()), spec)
        return found

    def ridge(self, settings: Settings) -> float:
        """See :class:`common.methods.stages.Stacks`."""
        return settings.svdh.ridge


def _check(settings: Settings) -> None:
    svdh, weights = settings.svdh, settings.network.weights
    if svdh.number not in settings.numbers:
        raise ConfigurationError(
            f"Expected svdh.number among [numbers] {sorted(settings.numbers)}, got {svdh.number!r}"
        )
    if settings.measurements.keys() != {svdh.measurement}:
        raise ConfigurationError(
            f"Expected svdh.measurement {svdh.measurement!r} as the only measurement, got "
            f"{list(settings.measurements)}: method svdh reads no other"
        )
    if svdh.classes == "number" and settings.measurements[svdh.measurement].number != svdh.number:
        raise ConfigurationError(
            f'Expected classes of {svdh.number} for svdh.classes = "number", got measurements.{svdh.measurement} of '
            f"another kind: give it number and edges, or train networks for it"
        )
    if settings.federation.selection != "last" and settings.evaluate.design != "folds":
        raise ConfigurationError(
            'Expected federation.selection = "last": a fold that chooses among the rounds of a network cannot also '
            "say how much the network is worth"
        )
    if settings.federation.secure is not None and svdh.stacking == "regression":
        raise ConfigurationError(
            'Expected svdh.stacking = "mean" with federation.secure, got "regression": a site\'s own sums for the '
            "stacking would be seen by the centre"
        )
    if svdh.transfer == "none" and weights != "none":
        raise ConfigurationError(
            f'Expected network.weights = "none" for svdh.transfer = "none", got {weights!r}: set the transfer '
            f"to whole, head or last_blocks"
        )
    if svdh.transfer in ("head", "last_blocks") and weights == "none":
        raise ConfigurationError(
            f'Expected network.weights = "imagenet" or a file for svdh.transfer = "{svdh.transfer}": what stays as '
            f'it is must have learnt something. Or set svdh.transfer = "none"'
        )
    for name in svdh.backbones if svdh.transfer == "last_blocks" else ():
        blocks = BLOCKS.get(name, ())
        if svdh.blocks >= len(blocks):
            raise ConfigurationError(
                f"Expected svdh.blocks below the blocks of each backbone, {name} has {len(blocks)}, got "
                f"{svdh.blocks}: known are those of {', '.join(BLOCKS)}"
            )


def _networks(settings: Settings) -> Iterator[NetworkSpec]:
    svdh, rating = settings.svdh, settings.rating
    number, graded = settings.numbers[svdh.number], settings.measurements[svdh.measurement]
    edges = tuple(number.share(edge) for edge in graded.edges) if graded.number == svdh.number else (0.5,)
    centre, spread = number.units
    targets: tuple[tuple[tuple[str, ...], Target], ...] = (
        (
            number.images,
            Target(
                measurement=svdh.number,
                kind="regression",
                threshold=None,
                classes=len(edges) + 1,
                edges=edges,
                centre=centre,
                spread=spread,
            ),
        ),
    )
    if svdh.classes != "number":
        told = Target(measurement=svdh.measurement, kind=svdh.classes, threshold=None, classes=graded.grades)
        targets = (*targets, (graded.images, told))
    for fold in range(rating.models or rating.folds):
        for backbone in svdh.backbones:
            for images, target in targets:
                yield NetworkSpec(
                    name=f"svdh/fold{fold}/{backbone}/{target.measurement}/{target.label}",
                    images=images,
                    target=target,
                    fold=fold,
                    backbone=backbone,
                    pieces=_frozen(backbone, settings),
                )


def _classes(outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, " n"]:
    """The class in which the mean of the networks' numbers lies."""
    svdh = settings.svdh
    number, graded = settings.numbers[svdh.number], settings.measurements[svdh.measurement]
    shares = [o.probabilities[:, 0] for o in outputs if o.spec.target.kind == "regression"]
    mean = np.stack(shares).mean(axis=0, dtype=np.float64)
    edges = [number.share(edge) for edge in graded.edges]
    return np.asarray(np.searchsorted(edges, mean, side="right"), dtype=np.int64)


def _frozen(backbone: str, settings: Settings) -> tuple[Piece, ...]:
    """What stays as it is of a network that starts from other pictures."""
    svdh = settings.svdh
    if svdh.transfer == "head":
        return (Piece(part="backbone", network=None, frozen=True),)
    if svdh.transfer == "last_blocks":
        first = BLOCKS[backbone][: -svdh.blocks]
        return tuple(
            Piece(part=f"backbone.{part}", network=None, frozen=True) for block in first for part in block
        )
    return ()
