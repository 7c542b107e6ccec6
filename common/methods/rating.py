"""RATING (Zhou et al., Patterns 2022): scoring models of binary networks, ECOC and MULTITUDE.

One scoring model a fold: the fold's patients validate it, the others train it. In a scoring model each
measurement of g grades has g - 1 binary tasks (grade > 0, > 1, ...), each learnt by ``replicas`` networks that
differ in their seed only. Published: 5 folds x 2 measurements x 3 tasks x 2 replicas = 60 networks.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping

from common.methods.stages import NetworkResult, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings


class Rating:
    """RATING's scoring networks, fusion networks trained jointly from a random start."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """One stage: every fold, measurement, task and replica."""
        del results  # no network here depends on another
        yield Stage(name="scoring", networks=tuple(_networks(settings)))


def _networks(settings: Settings) -> Iterator[NetworkSpec]:
    rating = settings.rating
    for fold in range(rating.models or rating.folds):
        for measurement, graded in settings.measurements.items():
            for threshold in range(graded.grades - 1):
                target = Target(measurement=measurement, threshold=threshold)
                for replica in range(rating.replicas):
                    yield NetworkSpec(
                        name=f"rating/fold{fold}/{measurement}/{target.label}/{string.ascii_lowercase[replica]}",
                        images=graded.images,
                        target=target,
                        fold=fold,
                        replica=replica,
                    )
