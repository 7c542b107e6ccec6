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

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64

from client.data.site_store import site_store
from client.data.store import Store
from client.site.site import Site
from common.evaluation import agreement, bootstrap, paired
from common.evaluation.bootstrap import Estimate
from common.evaluation.intraclass import raters_icc
from common.evaluation.one_vs_rest import differences, one_vs_rest
from common.evaluation.roc import weighted_auc
from common.exam import MISSING
from common.methods import single_score
from common.settings import Settings
from common.text.json_values import finite
from simulation.cohorts.cohort import Cohort
from simulation.evaluation.metrics import scorer_of
from simulation.evaluation.scorer import Block, Patients
from simulation.evaluation.trivial import flow_by_frame
from simulation.phantom.random import stream
from simulation.phantom.readers import draw_severity, read_by_experience

READERS_OF_A_LEVEL = 4
Shares = Float64[np.ndarray, "exams frames"]
Likely = Float64[np.ndarray, "exams grades"]
"""How likely each grade is, larger for likelier."""
Amount = Float64[np.ndarray, " exams"]
FLOW = "vascularity"
WITHOUT_NETWORK: Mapping[str, Callable[[Shares], Float64[np.ndarray, " exams"]]] = {
    "largest": lambda shares: np.asarray(shares.max(axis=1)),
    "mean": lambda shares: np.asarray(shares.mean(axis=1)),
    "third": lambda shares: np.asarray(np.sort(shares, axis=1)[:, -min(3, shares.shape[1])]),
    "pulsatility": lambda shares: np.ptp(shares, axis=1) / np.maximum(shares.mean(axis=1), 1e-9),
}
"""What a clip's frames are summed up to. The third largest is what no flash of two frames reaches. Of a still the
largest and the mean are one, and nothing pulsates."""


def measured(predictions: pd.DataFrame, cohort: Cohort, settings: Settings, *, seed: int) -> Block:
    """The block ``modalities`` of ``metrics.json``.

    Args:
        predictions: see :func:`simulation.evaluation.metrics.metrics`, with ``p:<network>:<grade>`` of each network.
        cohort: whose exams they are; training exams of its sites set the answers without a network.
        settings: of the run.
        seed: of readers, bootstrap and swaps.

    Returns:
        For ``seen`` and ``unseen``: ``networks`` (areas of each grade, their mean, areas of grades ``above`` 0, 1 ..,
        correlation with every reader), ``without_network`` (areas of grades and of vascularity above 0, 1 ..), and
        ``pairs`` of networks.
    """
    scores = {name: _network(predictions, name, settings) for name in settings.images}
    amounts = _amounts(cohort, predictions, settings)
    trained = predictions["trained_site"].astype(bool).to_numpy()
    block: Block = {"readers": _levels()}
    for cohort_name, chosen in (("seen", trained), ("unseen", ~trained)):
        if chosen.any():
            block[cohort_name] = _cohort(
                predictions[chosen], _of(scores, chosen), _of(amounts, chosen), settings, seed
            )
    safe = finite(block)
    assert isinstance(safe, dict)
    return safe


def _cohort(
    frame: pd.DataFrame,
    scores: Mapping[str, Likely],
    amounts: Mapping[str, Amount],
    settings: Settings,
    seed: int,
) -> Block:
    name, grades = single_score.score(settings)
    scorer = scorer_of(frame, settings, seed=seed)
    truth = scorer.answers(frame, scorer.source)[name]
    known = truth != MISSING
    frame, truth = frame[known], truth[known]
    scores, amounts = _of(scores, known), _of(amounts, known)
    patients = Patients.of(frame)
    patient, weights = patients.number(frame), scorer.weights(patients)
    readers = _readers(frame, settings, seed)
    flow = scorer.answers(frame, scorer.source).get(FLOW, truth)
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
            for key, amount in amounts.items()
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


def _amounts(cohort: Cohort, frame: pd.DataFrame, settings: Settings) -> dict[str, Amount]:
    """``<image> <summary>`` -> of each exam of the table."""
    stores = {site.name: site_store(Site.open(site.folder), settings) for site in cohort.sites}
    keys = pd.concat([_keys(site, store).iloc[_held_out(store)] for site, store in stores.items()])
    order = pd.MultiIndex.from_frame(keys).get_indexer(
        pd.MultiIndex.from_frame(frame[["site", "exam_id"]].astype(str))
    )
    found: dict[str, Amount] = {}
    for image, kind in settings.images.items():
        if kind.kind == "doppler":
            px = settings.network.image_px
            parts = [
                flow_by_frame(store, image, torch.from_numpy(_held_out(store)), image_px=px) / px**2
                for store in stores.values()
            ]
            shares = np.concatenate(parts)[order]
            summaries = WITHOUT_NETWORK if kind.frames else {"share": WITHOUT_NETWORK["largest"]}
            found |= {f"{image} {summary}": value(shares) for summary, value in summaries.items()}
    return found


def _held_out(store: Store) -> Int64[np.ndarray, " held_out"]:
    return np.flatnonzero(store.tensors.fold.numpy() < 0)


def _keys(site: str, store: Store) -> pd.DataFrame:
    return pd.DataFrame({"site": site, "exam_id": store.exams["exam_id"].astype(str)})


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


def _of(values: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: each[chosen] for name, each in values.items()}


def _estimate(estimate: Estimate) -> dict[str, object]:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high]}
