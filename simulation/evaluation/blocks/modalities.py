"""Static and dynamic, grey-scale and Doppler: the networks of single images beside each other (He et al. 2024).

For each of two cohorts of held-out exams, those of the machines that trained and those of a machine that nobody
trained with: every network's area under the ROC curve of each grade against all others; its intraclass correlation
with each of twelve simulated readers of three levels of experience; and pairs of networks compared by patient, static
with dynamic and grey-scale with Doppler. Beside them stand answers without a network: what share of a Doppler picture
is flow, of a clip the largest and the mean share over its frames, the third largest, and how it pulsates.

The paper's abstract says neither which intraclass correlation nor how areas were compared. Ours: ICC(2,1) and
ICC(3,1) of two raters, network and reader; intervals over patients, and p by swapping networks within patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from common.evaluation import agreement, bootstrap, paired
from common.evaluation.bootstrap import Estimate
from common.evaluation.intraclass import raters_icc
from common.evaluation.one_vs_rest import differences, one_vs_rest
from common.evaluation.roc import weighted_auc
from common.exam import MISSING
from common.methods import single_score
from common.settings import Settings
from simulation.evaluation.scorer import Block, Patients, Scorer
from simulation.evaluation.trivial import FLOW, SUMMARIES
from simulation.phantom.random import stream
from simulation.phantom.readers import draw_severity, read_by_experience

READERS_OF_A_LEVEL = 4
Likely = Float64[np.ndarray, "exams grades"]
"""How likely each grade is, larger for likelier."""
Amount = Float64[np.ndarray, " exams"]
VASCULARITY = "vascularity"


def block(scorer: Scorer, seen: pd.DataFrame, unseen: pd.DataFrame) -> Block:
    """Of each cohort that has exams.

    Args:
        scorer: of the run.
        seen: held-out exams of the machines that trained, with ``p:<network>:<grade>`` of each network and the
            columns of :func:`simulation.evaluation.trivial.flow_columns`.
        unseen: those of machines that nobody trained with.

    Returns:
        For ``seen`` and ``unseen``: ``networks`` (areas of each grade, their mean, areas of grades ``above`` 0, 1 ..,
        correlation with every reader), ``without_network`` (areas of grades and of vascularity above 0, 1 ..), and
        ``pairs`` of networks; ``readers``: what these are.
    """
    cohorts = {name: frame for name, frame in (("seen", seen), ("unseen", unseen)) if len(frame)}
    return {"readers": _levels(), **{name: _cohort(scorer, frame) for name, frame in cohorts.items()}}


def _cohort(scorer: Scorer, frame: pd.DataFrame) -> Block:
    settings, seed = scorer.settings, scorer.seed
    name, grades = single_score.score(settings)
    known = scorer.answers(frame, scorer.source)[name] != MISSING
    frame = frame[known]
    answers = scorer.answers(frame, scorer.source)
    truth, flow = answers[name], answers.get(VASCULARITY, answers[name])
    scores = {image: _network(frame, image, settings) for image in settings.images}
    patients = Patients.of(frame)
    patient, weights = patients.number(frame), scorer.weights(patients)
    readers = _readers(frame, settings, seed)
    networks: Block = {}
    for image, likely in scores.items():
        answer = likely.argmax(axis=1)
        networks[image] = {
            **_areas(likely, truth, weights[:, patient]),
            "above": _above(-likely.cumsum(axis=1)[:, :-1].T, truth, weights[:, patient]),
            "accuracy": float((answer == truth).mean()),
            "icc": {
                reader: {
                    of: _estimate(raters_icc(np.stack([answer, theirs], axis=1), patient, weights, of=of))
                    for of in ("agreement", "consistency")
                }
                for reader, theirs in readers.items()
            },
        }
    return {
        "exams": len(frame),
        "patients": len(patients),
        "networks": networks,
        "without_network": {
            key: {
                what: _above([amount] * (grades - 1), reference, weights[:, patient])
                for what, reference in (("above", truth), ("vascularity_above", flow))
            }
            for key, amount in _amounts(frame, settings).items()
        },
        "pairs": {
            f"{first} - {second}": _pair(scores[first], scores[second], truth, patient, weights, grades, seed)
            for first, second in combinations(scores, 2)
        },
    }


def _pair(
    first: Likely,
    second: Likely,
    truth: Int64[np.ndarray, " exams"],
    patient: Int64[np.ndarray, " exams"],
    weights: Int64[np.ndarray, "replicates patients"],
    grades: int,
    seed: int,
) -> Block:
    rng = np.random.default_rng(seed)
    found = differences(first, second, truth, patient, weights, generator=rng)
    sides = [
        bootstrap.patient_confusions(
            truth, likely.argmax(axis=1), patient, grades=grades, patients=weights.shape[1]
        )
        for likely in (first, second)
    ]
    kappa = paired.compare(agreement.METRICS["kappa_linear"], *sides, weights=weights, generator=rng)
    return {
        "grades": [_estimate(each.estimate) | {"p": each.p} for each in found],
        "kappa_linear": {"value": kappa.value, "ci95": [kappa.low, kappa.high], "p": kappa.p},
    }


def _areas(
    likely: Likely, truth: Int64[np.ndarray, " exams"], weights: Int64[np.ndarray, "replicates exams"]
) -> Block:
    found = one_vs_rest(likely, truth, weights)
    return {"grades": [_estimate(one) for one in found.grades], "mean": _estimate(found.mean)}


def _above(
    scores: Iterable[Amount],
    truth: Int64[np.ndarray, " exams"],
    weights: Int64[np.ndarray, "replicates exams"],
) -> list[dict[str, object]]:
    """Areas of a grade above 0, above 1 .., each by its score."""
    counts = np.concatenate([np.ones((1, len(truth))), weights])
    areas = [weighted_auc(score, truth > cut, counts) for cut, score in enumerate(scores)]
    return [_estimate(bootstrap.summary(float(area[0]), area[1:])) for area in areas]


def _network(frame: pd.DataFrame, image: str, settings: Settings) -> Likely:
    name, grades = single_score.score(settings)
    columns = [f"p:multimodal/{image}/{name}/grades:{grade}" for grade in range(grades)]
    return np.asarray(frame[columns].to_numpy(dtype=np.float64))


def _amounts(frame: pd.DataFrame, settings: Settings) -> dict[str, Amount]:
    """``<image> <summary>`` -> of each exam, how much of it is flow."""
    found: dict[str, Amount] = {}
    for image, kind in settings.images.items():
        columns = {f"{image} {name}": f"{FLOW}{image}:{name}" for name in SUMMARIES} if kind.frames else {}
        columns = columns or {f"{image} area": FLOW + image}
        found |= {
            key: frame[column].to_numpy(np.float64) for key, column in columns.items() if column in frame
        }
    return found


def _readers(frame: pd.DataFrame, settings: Settings, seed: int) -> dict[str, Int64[np.ndarray, " exams"]]:
    """Twelve simulated readers' grades; of what they grade, the truth of both measurements is needed."""
    needed = [f"truth_{name}" for name in ("hypertrophy", "vascularity")]
    if settings.validity != "eoss" or not set(needed) <= set(frame):
        return {}
    rng = stream(seed, "readers by experience")
    severity = draw_severity(rng, *(frame[column].to_numpy(dtype=np.int64) for column in needed))
    names, hypertrophy, vascularity = read_by_experience(rng, severity, each=READERS_OF_A_LEVEL)
    pairs = zip(names, hypertrophy, vascularity, strict=True)
    return {name: np.asarray(np.maximum(h, v), dtype=np.int64) for name, h, v in pairs}


def _levels() -> str:
    return f"{READERS_OF_A_LEVEL} of each level of experience, simulated: drawn, not people"


def _estimate(estimate: Estimate) -> dict[str, object]:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high]}
