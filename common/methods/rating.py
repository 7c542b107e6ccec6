"""RATING (Zhou et al., Patterns 2022): scoring models of binary networks, ECOC and MULTITUDE.

One scoring model per fold: the fold's patients validate it, the others train it. In a scoring model each
measurement of g grades has g - 1 binary tasks (grade > 0, > 1, ...), each learnt by ``replicas`` networks that
differ in their seed only. Published: 5 folds x 2 measurements x 3 tasks x 2 replicas = 60 networks.

A measurement that is read from one image has one network a task, trained whole. One that is read from two
(hypertrophy: grey-scale and Doppler) is fused in three stages:

1. ``jigsaw``: a backbone learns to put an image's tiles in order; no grade is needed for that.
2. ``features``: from it, F on the one image and G on the other learn the task, each alone.
3. ``fusion``: F and G stay as they are, and a head H over both their features learns the task.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from common.errors import ConfigurationError
from common.methods.stages import NetworkResult, Output, Stage, stage_training
from common.networks.spec import NetworkSpec, Piece, Target
from common.scoring import ecoc, multitude
from common.sections.measurements import MeasurementSettings
from common.settings import Settings

JIGSAW = "rating/jigsaw"


class _Place(NamedTuple):
    """Where a network stands in the ensemble."""

    name: str
    graded: MeasurementSettings
    target: Target
    fold: int
    replica: int


class Rating:
    """RATING, and by its settings (codes, jigsaw, fusion, the measurements' images) its ablations."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """``jigsaw``, ``features``, ``fusion``, as far as the settings need them."""
        del results  # nothing here is chosen by what came before
        places = list(_places(settings))
        staged = [p for p in places if settings.rating.fusion == "staged" and len(p.graded.images) > 1]
        if settings.rating.pretraining == "jigsaw":
            yield Stage(name="jigsaw", networks=(_jigsaw(settings),))
        whole = [_whole(place, settings) for place in places if place not in staged]
        extractors = [_extractor(place, image, settings) for place in staged for image in place.graded.images]
        yield Stage(name="features" if staged else "scoring", networks=(*whole, *extractors))
        if staged:
            yield Stage(name="fusion", networks=tuple(_head(place, settings) for place in staged))

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """Every measurement."""
        return {name: graded.grades for name, graded in settings.measurements.items()}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """One vote of each scoring model: by ECOC, or the most probable grade without it; if soft, the likeliest."""
        if self.divides(settings):
            return multitude.likeliest(self.shares(outputs, settings))
        return _votes(outputs, settings, _ecoc if settings.rating.codes == "ecoc" else _most_probable)

    def divides(self, settings: Settings) -> bool:
        """If votes are soft."""
        return settings.rating.votes == "soft"

    def shares(
        self, outputs: Sequence[Output], settings: Settings
    ) -> Sequence[Float64[np.ndarray, "n models _"]]:
        """Each scoring model's likelihood of every grade: by ECOC, or the mean over the replicas without it."""
        share = _likelihoods if settings.rating.codes == "ecoc" else _mean_probabilities
        return _by_model(outputs, settings, share)

    def votes_upwards(
        self, outputs: Sequence[Output], settings: Settings
    ) -> Int[np.ndarray, "n models scores"]:
        """The same of hard votes, two code words at one distance settled for the higher grade."""
        return _votes(outputs, settings, _ecoc_upwards if settings.rating.codes == "ecoc" else _most_probable)


def _places(settings: Settings) -> Iterator[_Place]:
    rating = settings.rating
    for fold in range(rating.models or rating.folds):
        for measurement, graded in settings.measurements.items():
            for target in _targets(measurement, graded, settings):
                for replica in range(rating.replicas):
                    letter = string.ascii_lowercase[replica]
                    name = f"rating/fold{fold}/{measurement}/{target.label}/{letter}"
                    yield _Place(name, graded, target, fold, replica)


def _targets(measurement: str, graded: MeasurementSettings, settings: Settings) -> list[Target]:
    if settings.rating.codes == "classes":
        return [Target(measurement=measurement, kind="nominal", threshold=None, classes=graded.grades)]
    return [Target(measurement=measurement, threshold=threshold) for threshold in range(graded.grades - 1)]


def _jigsaw(settings: Settings) -> NetworkSpec:
    jigsaw = settings.rating.jigsaw
    target = Target(measurement=jigsaw.image, kind="permutation", threshold=None, classes=jigsaw.permutations)
    shuffled = settings.training.model_copy(update={"sampling": "shuffled"})
    training = stage_training(settings.model_copy(update={"training": shuffled}), jigsaw) or shuffled
    return NetworkSpec(
        name=JIGSAW,
        images=(jigsaw.image,),
        target=target,
        jigsaw=jigsaw,
        training=training,
        rounds=jigsaw.rounds,
        scoring=False,
    )


def _whole(place: _Place, settings: Settings) -> NetworkSpec:
    """A network trained whole: one image's, or a fused one whose parts train jointly."""
    names = [f"backbones.{i}" for i in range(len(place.graded.images))]
    fused = len(names) > 1
    return NetworkSpec(
        name=place.name,
        images=place.graded.images,
        target=place.target,
        fold=place.fold,
        replica=place.replica,
        pieces=_pretrained(names if fused else ["backbone"], place, settings),
    )


def _extractor(place: _Place, image: str, settings: Settings) -> NetworkSpec:
    """F or G: the same network as one that reads this image alone, and trained as that is."""
    return NetworkSpec(
        name=f"{place.name}/{image}",
        images=(image,),
        target=place.target,
        fold=place.fold,
        replica=place.replica,
        pieces=_pretrained(["backbone"], place, settings),
        scoring=False,
    )


def _head(place: _Place, settings: Settings) -> NetworkSpec:
    """H on frozen F and G."""
    return NetworkSpec(
        name=place.name,
        images=place.graded.images,
        target=place.target,
        fold=place.fold,
        replica=place.replica,
        pieces=tuple(
            Piece(part=f"backbones.{i}", network=f"{place.name}/{image}", frozen=True)
            for i, image in enumerate(place.graded.images)
        ),
        training=stage_training(settings, settings.rating.head),
        rounds=settings.rating.head.rounds,
    )


def _pretrained(parts: Sequence[str], place: _Place, settings: Settings) -> tuple[Piece, ...]:
    """Backbones start from the puzzles, where the settings say so (RATING: hypertrophy's, F and G alike)."""
    jigsaw = settings.rating.jigsaw
    measurements = jigsaw.measurements or settings.measurements
    if settings.rating.pretraining == "none" or place.target.measurement not in measurements:
        return ()
    return tuple(Piece(part=part, network=JIGSAW) for part in parts)


def _votes(
    outputs: Sequence[Output], settings: Settings, decode: Callable[[Sequence[Output]], Int[np.ndarray, " n"]]
) -> Int[np.ndarray, "n models scores"]:
    return np.stack(_by_model(outputs, settings, decode), axis=2)


def _by_model(
    outputs: Sequence[Output], settings: Settings, answer: Callable[[Sequence[Output]], np.ndarray]
) -> list[np.ndarray]:
    """Of each measurement what every scoring model answers, ``(n, models, ...)``."""
    folds = sorted({output.spec.fold for output in outputs})
    return [
        np.stack([answer(_of(outputs, fold, measurement)) for fold in folds], axis=1)
        for measurement in settings.measurements
    ]


def _of(outputs: Sequence[Output], fold: int, measurement: str) -> list[Output]:
    found = [o for o in outputs if o.spec.fold == fold and o.spec.target.measurement == measurement]
    if not found:
        raise ConfigurationError(f"Expected networks of model {fold} for {measurement}, got none")
    return sorted(found, key=lambda o: (o.spec.replica, o.spec.target.threshold or 0))


def _ecoc(outputs: Sequence[Output]) -> Int[np.ndarray, " n"]:
    """The nearest code word to the bits of one scoring model's networks."""
    return ecoc.decode(_bits(outputs))


def _ecoc_upwards(outputs: Sequence[Output]) -> Int[np.ndarray, " n"]:
    return ecoc.decode_upwards(_bits(outputs))


def _bits(outputs: Sequence[Output]) -> Bool[np.ndarray, "n replicas thresholds"]:
    return _by_replica(outputs, [o.probabilities[:, 1] >= np.float32(o.threshold) for o in outputs])


def _likelihoods(outputs: Sequence[Output]) -> Float64[np.ndarray, "n grades"]:
    probabilities = _by_replica(outputs, [output.probabilities[:, 1] for output in outputs])
    (thresholds,) = _by_replica(outputs, [np.array([output.threshold]) for output in outputs])
    return ecoc.likelihoods(probabilities, thresholds)


def _by_replica(outputs: Sequence[Output], answers: Sequence[np.ndarray]) -> np.ndarray:
    """One answer of each network, ``(n, replicas, thresholds)``."""
    stacked, replicas = np.stack(answers, axis=1), len({o.spec.replica for o in outputs})
    return stacked.reshape(len(stacked), replicas, len(outputs) // replicas)  # of no exams, too


def _most_probable(outputs: Sequence[Output]) -> Int[np.ndarray, " n"]:
    """The grade of the largest mean probability over the replicas."""
    return np.asarray(_mean_probabilities(outputs).argmax(axis=1))


def _mean_probabilities(outputs: Sequence[Output]) -> Float64[np.ndarray, "n grades"]:
    stacked = np.stack([output.probabilities for output in outputs])
    return np.asarray(stacked.mean(axis=0, dtype=np.float64))
