"""What Andersen et al. 2019 report beside accuracy: every layer's classifier by grade, the binary vote of the ten.

Source: Andersen et al. 2019, RMD Open 5:e000891, figure of the layers and table 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from common.evaluation import agreement, bootstrap, roc
from common.evaluation.agreement import Values
from common.exam import MISSING
from common.machine.network_files import TrainedNetwork
from common.methods import andersen, single_score
from simulation.cohorts.cohort import Cohort
from simulation.engine.places import Places, in_order
from simulation.evaluation import ensembles
from simulation.evaluation.ensembles import Ensemble
from simulation.evaluation.scorer import Block, Patients, Scorer, grades_in, interval

PREFIX = "layer"
"""``layer_<k>_<score>``: the grade from the classifier on layer k."""
BINARY: Mapping[str, Callable[[ArrayLike], Values]] = {
    "accuracy": agreement.accuracy,
    "kappa": agreement.kappa,
    "sensitivity": partial(roc.sensitivity, cut=0),
    "specificity": partial(roc.specificity, cut=0),
}
"""Of diseased against healthy."""


def answers(
    networks: Sequence[TrainedNetwork], ensemble: Ensemble, cohort: Cohort, places: Places
) -> Mapping[str, object]:
    """Columns ``layer_<k>_<score>`` for a table of predictions, in its order of exams.

    None for other methods, and where nobody is held out.

    Args:
        networks: of the run, those included that do not score.
        ensemble: where they lie.
        cohort: the sites.
        places: where to compute.
    """
    settings = ensemble.settings
    if settings.method != "andersen" or settings.held_out is None:
        return {}
    score, _ = single_score.score(settings)
    layers = {network.spec.name: network.spec.layer for network in networks}
    names = tuple(name for name in andersen.candidates(settings) if name in layers)
    if not names:
        return {}
    asked = replace(ensemble, asked=names)
    said = in_order([places.submit(ensembles.outputs, asked, site, settings) for site in cohort.sites])
    return {
        f"{PREFIX}_{layers[name]}_{score}": np.concatenate([o.probabilities.argmax(axis=1) for o in of_sites])
        for name, *of_sites in zip(names, *said, strict=True)
    }


def block(scorer: Scorer, predictions: pd.DataFrame, networks: Sequence[TrainedNetwork]) -> Block:
    """``andersen`` of ``metrics.json``; nothing for other methods.

    Returns:
        ``best``: the kept layer; ``layers``: of each its validation accuracy and that on held-out exams, in all and
        by grade; ``ensemble``: the same of the answer; ``binary_vote``: healthy or diseased by the majority of the
        classifiers, an even vote being healthy, with intervals over patients.
    """
    settings = scorer.settings
    if settings.method != "andersen":
        return {}
    score, _ = single_score.score(settings)
    seen = predictions[predictions["trained_site"].astype(bool)]
    results = {network.spec.name: network.result for network in networks}
    names = andersen.candidates(settings)
    layers = {
        str(k): {
            "validation_accuracy": results[name].accuracy,
            **_by_grade(scorer, seen, f"{PREFIX}_{k}", score),
        }
        for k, name in enumerate(names)
        if name in results and f"{PREFIX}_{k}_{score}" in seen
    }
    return {
        "andersen": {
            "score": score,
            "best": andersen.best_layer(settings, results),
            "layers": layers,
            "ensemble": _by_grade(scorer, seen, "decision", score),
            "binary_vote": _binary_vote(scorer, seen, score),
        }
    }


def _by_grade(scorer: Scorer, seen: pd.DataFrame, source: str, score: str) -> Block:
    patients = Patients.of(seen)
    tally = scorer.tally(seen, patients, source)
    accuracy = scorer.block([tally], scorer.weights(patients), metrics=("accuracy",))[score]
    assert isinstance(accuracy, dict)
    counts = tally[score].sum(axis=0)
    shares = [int(row[grade]) / int(row.sum()) if row.sum() else None for grade, row in enumerate(counts)]
    return {"accuracy": accuracy["accuracy"], "by_grade": shares}


def _binary_vote(scorer: Scorer, seen: pd.DataFrame, score: str) -> Block:
    reference = scorer.answers(seen, scorer.source)[score]
    votes = np.stack([grades_in(seen, str(c)) for c in seen if str(c).startswith(f"vote_{score}_")])
    diseased = (votes > andersen.DISEASED).sum(axis=0)
    use, patients = reference != MISSING, Patients.of(seen)
    per_patient = bootstrap.patient_confusions(
        (reference[use] > andersen.DISEASED).astype(np.int64),
        (2 * diseased[use] > len(votes)).astype(np.int64),
        patients.number(seen)[use],
        grades=2,
        patients=len(patients),
    )
    weights = scorer.weights(patients)
    replicates = bootstrap.replicate_confusions(per_patient, weights)
    whole = per_patient.sum(axis=0)
    rates: Block = {name: interval(float(rate(whole)), rate(replicates)) for name, rate in BINARY.items()}
    even = int((2 * diseased[use] == len(votes)).sum())
    return {"classifiers": len(votes), "even": even, "confusion": whole.tolist(), **rates}
