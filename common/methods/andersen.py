"""Andersen et al. 2019 (RMD Open): Doppler images, features of networks trained on ImageNet, classifiers on them.

(a) VGG-16: the features of its last convolution, and a logistic regression that tells healthy (grade 0-1) from
diseased (2-3).

(b) Inception-v3: a four-class classifier on the features of each mixed layer; the layer of the highest four-class
validation accuracy is kept (the paper: the fourth), and an ensemble of ten classifiers that differ in their training
settings is trained on it. The grade of the largest mean probability is the answer; healthy or diseased is also told
by the majority of the ten (the paper's table 5). The paper does not say how scores are combined.

The centre has the validation accuracy from histograms of expected grades, rounded
(:meth:`common.evaluation.histograms.ScoreHistograms.accuracy`), so that nothing more leaves a site for it. The round
of each classifier is chosen by AUC, as everywhere.

With ``andersen.encoder = "trained"`` the encoders learn too: what can be done where no ImageNet weights are at
hand, and with small backbones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int

from common.errors import ConfigurationError
from common.methods import single_score
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.backbones import LAYERS
from common.networks.spec import NetworkSpec, Piece, Target
from common.sections.training import TrainingSettings
from common.settings import Settings

DISEASED = 1
"""Grades above this are diseased."""


class Andersen:
    """Both parts: the binary network, and the ensemble on the best layer."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """``layers``: the binary network and a classifier on each layer; ``ensemble``: on the best of these."""
        _check(settings)
        classifiers = [_classifier(settings, layer) for layer in range(_layers(settings))]
        yield Stage(name="layers", networks=(_binary(settings), *classifiers))
        best = best_layer(settings, results)
        others = [layer for layer in range(len(classifiers)) if layer != best]
        yield Stage(
            name="ensemble",
            networks=_ensemble(settings, best),
            alternatives=tuple(spec for layer in others for spec in _ensemble(settings, layer)),
        )

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """The one score."""
        name, grades = single_score.score(settings)
        return {name: grades}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """Each classifier of the ensemble votes its most probable grade."""
        classifiers = [o.probabilities for o in outputs if o.spec.target.kind == "nominal"]
        return np.stack([p.argmax(axis=1) for p in classifiers], axis=1)[:, :, None]

    def divides(self, settings: Settings) -> bool:
        """Where mean probabilities decide."""
        return settings.andersen.votes == "mean"

    def shares(
        self, outputs: Sequence[Output], settings: Settings
    ) -> Sequence[Float64[np.ndarray, "n models _"]]:
        """Each classifier's probabilities."""
        given = np.stack([o.probabilities for o in outputs if o.spec.target.kind == "nominal"], axis=1)
        return [given.astype(np.float64)]


def candidates(settings: Settings) -> list[str]:
    """Names of the classifiers of which one layer is chosen, in the order of the layers."""
    return [_classifier(settings, layer).name for layer in range(_layers(settings))]


def best_layer(settings: Settings, results: Mapping[str, NetworkResult]) -> int:
    """The layer of the highest validation accuracy, of equals the first; 0 where none is known."""
    known = [results[name].accuracy if name in results else None for name in candidates(settings)]
    return max(range(len(known)), key=lambda layer: (-1.0 if (a := known[layer]) is None else a, -layer))


def _check(settings: Settings) -> None:
    if settings.andersen.encoder == "frozen" and settings.network.weights == "none":
        raise ConfigurationError(
            'Expected network.weights = "imagenet" or a file for andersen.encoder = "frozen": features of a random '
            'network teach a classifier nothing. Or set andersen.encoder = "trained"'
        )


def _layers(settings: Settings) -> int:
    return min(settings.andersen.layers, LAYERS.get(settings.andersen.backbone, 1))


def _binary(settings: Settings) -> NetworkSpec:
    name, _ = single_score.score(settings)
    target = Target(measurement=name, threshold=DISEASED)
    return NetworkSpec(
        name=f"andersen/{name}/{target.label}",
        images=single_score.images(settings),
        target=target,
        fold=single_score.FOLD,
        backbone=settings.andersen.binary_backbone,
        pieces=_encoder(settings),
    )


def _classifier(settings: Settings, layer: int) -> NetworkSpec:
    name, grades = single_score.score(settings)
    return NetworkSpec(
        name=f"andersen/{name}/layer{layer}",
        images=single_score.images(settings),
        target=Target(measurement=name, kind="nominal", threshold=None, classes=grades),
        fold=single_score.FOLD,
        backbone=settings.andersen.backbone,
        layer=layer,
        pieces=_encoder(settings),
        scoring=False,
    )


def _ensemble(settings: Settings, layer: int) -> tuple[NetworkSpec, ...]:
    one = _classifier(settings, layer)
    return tuple(
        one.model_copy(
            update={
                "name": f"{one.name}/c{index}",
                "replica": index,
                "training": training,
                "scoring": True,
            }
        )
        for index, training in enumerate(_trainings(settings))
    )


def _trainings(settings: Settings) -> Iterator[TrainingSettings]:
    andersen = settings.andersen
    for rate, batch_size in itertools.product(andersen.learning_rates, andersen.batch_sizes):
        yield settings.training.model_copy(update={"learning_rate": rate, "batch_size": batch_size})


def _encoder(settings: Settings) -> tuple[Piece, ...]:
    if settings.andersen.encoder == "trained":
        return ()
    return (Piece(part="backbone", network=None, frozen=True),)
