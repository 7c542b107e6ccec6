"""Christensen et al. 2020 (Annals of the Rheumatic Diseases): a cascade of binary networks on Doppler images.

The first network tells grade 0 from more, the second 1 from more, the third 2 from 3. A later one is asked only
if the earlier says "more", so it learns from exams of such grades alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from common.methods import single_score
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings


class Christensen:
    """The cascade."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """One stage: the networks of the cascade learn side by side."""
        del results
        name, grades = single_score.score(settings)
        targets = [Target(measurement=name, threshold=step, at_least=step) for step in range(grades - 1)]
        yield Stage(
            name="cascade",
            networks=tuple(
                NetworkSpec(
                    name=f"christensen/{name}/{target.label}",
                    images=single_score.images(settings),
                    target=target,
                    fold=single_score.FOLD,
                )
                for target in targets
            ),
        )

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """The one score."""
        name, grades = single_score.score(settings)
        return {name: grades}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """The number of networks that say "more" before one does not."""
        cascade = sorted(outputs, key=lambda output: output.spec.target.threshold or 0)
        more = np.stack([o.probabilities[:, 1] >= np.float32(o.threshold) for o in cascade], axis=1)
        return np.asarray(np.cumprod(more, axis=1).sum(axis=1)[:, None, None])
