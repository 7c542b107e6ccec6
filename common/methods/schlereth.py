"""Schlereth et al. 2025 (EULAR congress, abstract POS1322): grade and diagnosis from scans of two machines.

Five separate networks, each a ResNet-18 that starts from ImageNet: synovitis 0-3; RA against spondyloarthritis and
psoriatic arthritis; RA with antibodies (RA+) against RA without (RA-); RA+ against SpA/PsA; RA- against SpA/PsA. They
are trained five times, in cross-validation: the folds hold whole patients and are stratified by machine and presence
of disease, and each network is tested on the fold that it was not trained on.

A task is a measurement of the plan, whatever tasks a plan has: two classes make a binary network, more of them a
nominal one, trained by cross-entropy on classes resampled to equal numbers. The strata are the machine, the presence
of synovitis and the class of the diagnosis (:mod:`client.data.tables.folds`): the abstract doesn't say which disease
it stratifies by, so it is both. In a federation each site makes its own five parts, and fold k is the union of the
sites' parts k. Whether a scan is grey-scale, Doppler or both is open in the abstract, and a setting here: several
images of a measurement are fused, as RATING does it.

The abstract names no inner validation, so a network keeps its last round's weights: the fold that tests it chooses
nothing (``evaluate.design = "folds"``). Size of the pictures, loss, optimiser, epochs and augmentation are ours too:
``configs/schlereth.toml`` marks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from common.errors import ConfigurationError
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings


class Schlereth:
    """A network for each task and fold, which share nothing but the folds."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """One stage: all networks learn side by side."""
        del results  # nothing is chosen by what came before
        _check(settings)
        yield Stage(
            name="tasks",
            networks=tuple(
                _network(settings, task, fold)
                for task in settings.measurements
                for fold in range(settings.folds)
            ),
        )

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """Every task."""
        return {task: measured.grades for task, measured in settings.measurements.items()}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """The most probable class of each task, one vote for each fold whose networks are asked."""
        by_fold: dict[int, dict[str, Int[np.ndarray, " n"]]] = {}
        for output in outputs:
            of_fold = by_fold.setdefault(output.spec.fold, {})
            of_fold[output.spec.target.measurement] = _class(output)
        return np.stack(
            [
                np.stack([classes[task] for task in settings.measurements], axis=1)
                for classes in by_fold.values()
            ],
            axis=1,
        )


def _check(settings: Settings) -> None:
    if settings.privacy is not None:
        raise ConfigurationError(
            'Expected no [privacy] for method "schlereth": its networks are each tested on a fold, and under privacy '
            "there are no folds, since no patient may decide where another one is. Remove [privacy], or protect "
            'updates by [federation.secure]; method "rating" can train privately'
        )


def _network(settings: Settings, task: str, fold: int) -> NetworkSpec:
    measured = settings.measurements[task]
    target = (
        Target(measurement=task)
        if measured.grades == 2
        else Target(measurement=task, kind="nominal", threshold=None, classes=measured.grades)
    )
    return NetworkSpec(
        name=f"schlereth/fold{fold}/{task}/{target.label}",
        images=measured.images,
        target=target,
        fold=fold,
    )


def _class(output: Output) -> Int[np.ndarray, " n"]:
    if output.spec.target.kind == "binary":
        return np.asarray(output.probabilities[:, 1] >= np.float32(output.threshold), dtype=np.int64)
    return np.asarray(output.probabilities.argmax(axis=1), dtype=np.int64)
