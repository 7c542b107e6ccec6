"""What one image alone would have said, where a measurement is fused of several: F alone, and G alone.

RATING's second stage trains F on the grey-scale and G on the Doppler image, each for the whole task, before H is
trained over both (Zhou et al. 2022, doi 10.1016/j.patter.2022.100592; its figure 3 shows exams on which fusion helped
against either). A scoring model's F or G networks are decoded as the fused ones are, each at its own threshold, and
the models' plurality is the grade. Nothing is trained for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from common.ensemble.committee import decided
from common.exam import MISSING
from common.machine.network_files import TrainedNetwork
from common.settings import Settings
from simulation.cohorts.cohort import Cohort
from simulation.engine.places import Places, in_order
from simulation.evaluation import ensembles
from simulation.evaluation.ensembles import Ensemble
from simulation.evaluation.scorer import Block, Patients, Scorer, grades_in

PREFIX = "only"
"""``only_<image>_<m>``: the grade from one image."""


def answers(
    networks: Sequence[TrainedNetwork], ensemble: Ensemble, cohort: Cohort, places: Places
) -> Mapping[str, object]:
    """Columns ``only_<image>_<m>`` for a table of predictions, in its order of exams.

    None where nothing was trained in stages, or nobody is held out.

    Args:
        networks: of the run, those included that the scoring ones are built on.
        ensemble: where they lie.
        cohort: the sites.
        places: where to compute.
    """
    settings = ensemble.settings
    if settings.method != "rating" or settings.held_out is None:
        return {}
    columns: dict[str, object] = {}
    for name, image, members in _alone(networks, settings):
        one = settings.measurements[name]
        asked = settings.model_copy(
            update={"measurements": {name: one.model_copy(update={"images": (image,)})}, "validity": "any"}
        )
        alone = replace(ensemble, settings=asked, asked=members)
        said = [places.submit(ensembles.outputs, alone, site, settings) for site in cohort.sites]
        columns[f"{PREFIX}_{image}_{name}"] = np.concatenate(
            [decided(outputs, asked).decision[:, 0] for outputs in in_order(said)]
        )
    return columns


def block(scorer: Scorer, seen: pd.DataFrame) -> Block:
    """How fusion compares with each image alone, on the held-out exams of the sites that trained.

    Returns:
        Measurement -> image -> the metrics of the image alone, ``helped``: exams that fusion has right and the image
        alone wrong, and ``hurt``: the other way round.
    """
    patients = Patients.of(seen)
    weights = scorer.weights(patients)
    reference, fused = scorer.answers(seen, scorer.source), scorer.answers(seen, "decision")
    found: dict[str, Block] = {}
    for name in scorer.settings.measurements:
        for image in scorer.settings.images:
            if f"{PREFIX}_{image}_{name}" not in seen:
                continue
            alone = grades_in(seen, f"{PREFIX}_{image}_{name}")
            known = reference[name] != MISSING
            right, alone_right = fused[name] == reference[name], alone == reference[name]
            metrics = scorer.block([scorer.tally(seen, patients, f"{PREFIX}_{image}")], weights)[name]
            assert isinstance(metrics, dict)
            found.setdefault(name, {})[image] = {
                **metrics,
                "helped": int((known & right & ~alone_right).sum()),
                "hurt": int((known & ~right & alone_right).sum()),
            }
    return dict(found)


def _alone(
    networks: Sequence[TrainedNetwork], settings: Settings
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Measurement, image, and the names of the networks that grade it from that image."""
    sources = {
        piece.network
        for network in networks
        if network.spec.scoring and len(network.spec.images) > 1
        for piece in network.spec.frozen
    }
    parts = [network for network in networks if network.spec.name in sources]
    for name in settings.measurements:
        for image in settings.images:
            members = [n for n in parts if n.spec.target.measurement == name and n.spec.images == (image,)]
            if members:
                yield name, image, tuple(network.spec.name for network in members)
