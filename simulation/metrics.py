"""From the table of predictions to ``metrics.json``.

Everything is computed on held-out exams. The headline is the held-out patients of the sites that trained;
beside it stand each site, each device, the sites that never trained (``unseen``), and the systems that the
federated ensemble is compared with. The reference is the truth where it is known (phantom), otherwise the
consensus of the site's readers. Intervals are bootstraps over patients, and differences of two systems are
paired: both are scored on the same drawn patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from common.errors import DataError
from common.networks.spec import COMBINED
from common.settings import Settings
from common.training.data import MISSING
from simulation.scorer import Block, Draws, Patients, Scorer, Tally, grades_in

_REQUIRED = ("exam_id", "patient_id", "site", "device", "trained_site")


def metrics(
    predictions: pd.DataFrame,
    *,
    settings: Settings,
    baselines: Mapping[str, pd.DataFrame] | None = None,
    thresholds: Mapping[str, float] | None = None,
    generator_seed: int = 0,
) -> Block:
    """Score a run.

    Args:
        predictions: one row a held-out exam, with the columns ``exam_id, patient_id, site, device,
            trained_site, contested`` and for each measurement m ``truth_m`` (-1 or NA: none), ``label_m``
            (the site's consensus), ``reader_<name>_m``, ``decision_m``, ``majority_m``; and ``p:<network>``,
            the probability of class 1 of each network. Patients are told apart by (site, patient_id).
        settings: measurements, grades, validity and ``evaluate.bootstrap`` replicates.
        baselines: tables of the same exams from other systems: ``centralised``, ``alone:<site>``, and
            ``federated`` (the federated ensemble with as many models as the baselines have).
        thresholds: network -> probability from which on its bit is 1; 0.5 for those that are not named.
        generator_seed: seed of the bootstrap.

    Returns:
        What ``metrics.json`` holds: plain values, ``None`` for what cannot be computed.

    Raises:
        DataError: for a missing column, or a baseline that scored other exams.
    """
    scorer = scorer_of(predictions, settings, seed=generator_seed)
    seen = predictions[predictions["trained_site"].astype(bool)]
    unseen = predictions[~predictions["trained_site"].astype(bool)]
    result: Block = {
        "reference": "truth" if scorer.source == "truth" else "consensus",
        "grades": scorer.grades(),
        **scorer.pool(seen),
        "binary": scorer.binary(seen, thresholds or {}),
        "sites": {str(name): scorer.pool(part) for name, part in predictions.groupby("site")},
        "devices": {str(name): scorer.pool(part) for name, part in predictions.groupby("device")},
        "seen": scorer.pool(seen),
        "unseen": {**scorer.pool(unseen), "binary": scorer.binary(unseen, thresholds or {})}
        if len(unseen)
        else None,
    }
    if scorer.source == "truth":
        consensus = replace(scorer, source="label")
        result["against_consensus"] = consensus.pool(seen)
    result["baselines"], result["differences"] = _compared(scorer, seen, unseen, dict(baselines or {}))
    safe = _json_safe(result)
    assert isinstance(safe, dict)
    return safe


def scorer_of(predictions: pd.DataFrame, settings: Settings, *, seed: int = 0) -> Scorer:
    """Scores a table of predictions against the truth where it is known, else against the readers' consensus.

    Args:
        predictions: see :func:`metrics`.
        settings: measurements, validity and the number of bootstrap replicates.
        seed: of the bootstrap.

    Raises:
        DataError: for a missing column.
    """
    _check(predictions, settings)
    return Scorer(
        settings=settings,
        graded=_graded(predictions, settings),
        seed=seed,
        source=_reference(predictions, settings),
    )


def _compared(
    scorer: Scorer, seen: pd.DataFrame, unseen: pd.DataFrame, frames: Mapping[str, pd.DataFrame]
) -> tuple[Block, Block]:
    """The ``baselines`` and the paired ``differences``, on the held-out exams of the sites that trained."""
    patients = Patients.of(seen)
    weights = scorer.weights(patients)
    tables = {name: _same_exams(frame, seen, name) for name, frame in frames.items()}
    systems = {name: [scorer.tally(frame, patients)] for name, frame in tables.items()}
    alone = [name for name in systems if name.startswith("alone:")]
    systems["alone_mean"] = [systems[name][0] for name in alone]
    systems["run"] = [scorer.tally(seen, patients)]
    readers = _readers(seen, scorer) if scorer.source == "truth" else []
    systems["readers_mean"] = [scorer.tally(seen, patients, f"reader_{name}") for name in readers]
    if any(f"majority_{name}" in seen for name in scorer.graded):
        systems["majority"] = [scorer.tally(seen, patients, "majority")]

    def scored(system: Sequence[Tally], *names: str) -> Block:
        elsewhere = _on_unseen(scorer, [frames[name] for name in names], unseen) if names else {}
        return {**scorer.block(system, weights), **elsewhere}

    def answered(source: str, system: Tally) -> Block:
        return {**scored([system]), "invalid_pairs": scorer.invalid_pairs(seen, source)}

    baselines: Block = {}
    if "centralised" in systems:
        baselines["centralised"] = scored(systems["centralised"], "centralised")
    if "federated" in systems:
        baselines["federated_same_models"] = scored(systems["federated"], "federated")
    if alone:
        baselines["alone"] = {
            site: {**scored(systems[name], name), "own": scorer.pool(_of_site(tables[name], site))}
            for site, name in ((name.removeprefix("alone:"), name) for name in alone)
        }
        baselines["alone_mean"] = scored(systems["alone_mean"], *alone)
    if "majority" in systems:
        baselines["majority"] = answered("majority", systems["majority"][0])
    if readers:
        tallies = zip(readers, systems["readers_mean"], strict=True)
        each: Block = {name: answered(f"reader_{name}", tally) for name, tally in tallies}
        baselines["readers"] = {**each, "mean": scored(systems["readers_mean"])}
    return baselines, _differences(scorer, systems, weights)


def _of_site(frame: pd.DataFrame, site: str) -> pd.DataFrame:
    return frame[frame["site"].astype(str) == site]


def _differences(scorer: Scorer, systems: Mapping[str, Sequence[Tally]], weights: Draws) -> Block:
    pairs = {
        "federated_minus_alone_mean": ("run", "alone_mean"),
        "centralised_minus_federated": ("centralised", "run"),
        "federated_same_models_minus_alone_mean": ("federated", "alone_mean"),
        "centralised_minus_federated_same_models": ("centralised", "federated"),
        "federated_minus_majority": ("run", "majority"),
        "federated_minus_readers_mean": ("run", "readers_mean"),
    }
    return {
        name: scorer.difference(systems[first], systems[second], weights)
        for name, (first, second) in pairs.items()
        if systems.get(first) and systems.get(second)
    }


def _on_unseen(scorer: Scorer, frames: Iterable[pd.DataFrame], unseen: pd.DataFrame) -> Block:
    """The mean of some systems on the sites that never trained, where all of them scored those."""
    parts = [frame[~frame["trained_site"].astype(bool)] for frame in frames]
    if not len(unseen) or any(len(part) != len(unseen) for part in parts):
        return {}
    patients = Patients.of(unseen)
    tallies = [scorer.tally(part, patients) for part in parts]
    return {"unseen": scorer.block(tallies, scorer.weights(patients))}


def _reference(frame: pd.DataFrame, settings: Settings) -> str:
    known = [(grades_in(frame, f"truth_{name}") != MISSING).any() for name in settings.measurements]
    return "truth" if all(known) else "label"


def _readers(frame: pd.DataFrame, scorer: Scorer) -> list[str]:
    """Readers who graded some exam in every measurement."""
    first = next(iter(scorer.settings.measurements))
    columns = [str(c) for c in frame.columns if str(c).startswith("reader_") and str(c).endswith(f"_{first}")]
    names = sorted(c.removeprefix("reader_").removesuffix(f"_{first}") for c in columns)
    return [
        name
        for name in names
        if all((grades != MISSING).any() for grades in scorer.answers(frame, f"reader_{name}").values())
    ]


def _check(frame: pd.DataFrame, settings: Settings) -> None:
    needed = [*_REQUIRED, *(f"label_{name}" for name in settings.measurements)]
    missing = [column for column in needed if column not in frame]
    if not _graded(frame, settings):
        missing.append("decision_<score>")
    if missing:
        raise DataError(f"Expected the columns {needed} in the predictions; {missing} are missing.")


def _graded(frame: pd.DataFrame, settings: Settings) -> tuple[str, ...]:
    """The measurements that have a decision, and the combined score, given or of both."""
    names = [name for name in settings.measurements if f"decision_{name}" in frame]
    both = settings.validity == "eoss" and len(names) == len(settings.measurements)
    return (*names, COMBINED) if both or f"decision_{COMBINED}" in frame else tuple(names)


def _same_exams(frame: pd.DataFrame, seen: pd.DataFrame, name: str) -> pd.DataFrame:
    part = frame[frame["trained_site"].astype(bool)]
    keys = [set(zip(f["site"].astype(str), f["exam_id"].astype(str), strict=True)) for f in (part, seen)]
    if keys[0] != keys[1]:
        raise DataError(
            f"Expected baseline {name!r} to score the run's {len(keys[1])} held-out exams of training sites; "
            f"{len(keys[1] - keys[0])} of them are missing and {len(keys[0] - keys[1])} are others."
        )
    return part


def _json_safe(value: object) -> object:
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
