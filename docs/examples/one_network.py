"""A method of one's own: for each measurement one network that tells all grades apart.

    method = "one_network:OneNetwork"

A method says which networks are trained, stage by stage, and how their outputs become grades. What travels, rounds,
resume, thresholds, scoring and the report are the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from common.methods.stages import NetworkResult, Output, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings


class OneNetwork:
    """The simplest thing that can be called a method."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """One stage of all networks; a later stage could look into ``results``."""
        yield Stage(
            name="scoring",
            networks=tuple(
                NetworkSpec(
                    name=f"one/{name}",
                    images=graded.images,
                    target=Target(measurement=name, kind="nominal", threshold=None, classes=graded.grades),
                    fold=0,
                )
                for name, graded in settings.measurements.items()
            ),
        )

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """Every measurement, with its number of grades."""
        return {name: graded.grades for name, graded in settings.measurements.items()}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> np.ndarray:
        """The most probable grade: exams x one voter x measurements."""
        of = {output.spec.target.measurement: output.probabilities for output in outputs}
        grades = [of[name].argmax(axis=1) for name in settings.measurements]
        return np.stack(grades, axis=1)[:, None, :]
