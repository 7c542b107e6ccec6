"""He et al. 2024 (Rheumatology 63:866): static and dynamic, grey-scale and Doppler, a network for each of them.

Every image of the settings, still or clip, has one network that tells all grades of the combined score apart. All
have the same backbone and begin with the same weights, so that a dynamic network differs from the static one of its
modality by the clip alone. Published, with grey-scale and power Doppler: four models, SGS, DGS, SPD, DPD.

The paper compares the four and does not combine them. Here each has a vote, since an ensemble has to answer; what is
compared are the networks themselves (:mod:`simulation.evaluation.blocks.modalities`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from common.methods import single_score
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings

START = "multimodal"


class Multimodal:
    """One network for each image."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """One stage: the networks learn side by side."""
        del results
        name, grades = single_score.score(settings)
        target = Target(measurement=name, kind="nominal", threshold=None, classes=grades)
        yield Stage(
            name="modalities",
            networks=tuple(
                NetworkSpec(
                    name=f"multimodal/{image}/{name}/{target.label}",
                    images=(image,),
                    start=START,
                    target=target,
                    fold=single_score.FOLD,
                )
                for image in settings.images
            ),
        )

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """The one score."""
        name, grades = single_score.score(settings)
        return {name: grades}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """The most probable grade of each network."""
        return np.stack([output.probabilities.argmax(axis=1) for output in outputs], axis=1)[..., None]
