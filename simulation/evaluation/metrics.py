"""From the table of predictions to ``metrics.json``.

Everything is computed on held-out exams. The headline is the held-out patients of the sites that trained;
beside it stand each site, each device, the sites that never trained (``unseen``), and the systems that the
federated ensemble is compared with. The reference is the truth where it is known (phantom), otherwise the
consensus of the site's readers. Intervals are bootstraps over patients, and differences of two systems are
paired: both are scored on the same drawn patients.

**Like for like.** Systems that were trained beside the federation (alone, pooled) are compared with a federation
of as many scoring models as they have: ``baselines.federated``, never with the run where that has more. What is
no other training (the run's own majority vote, readers, trivial answers) is compared with the run as it is. Every
entry of ``baselines`` and ``differences`` says with how many scoring ``models`` it was computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from common.errors import DataError
from common.evaluation import mistakes
from common.evaluation.own_patients import ALONE
from common.exam import MISSING
from common.networks.spec import COMBINED
from common.settings import Settings
from common.text.json_values import finite
from simulation.evaluation.blocks import (
    beside_readers,
    by_fold,
    calibration,
    cross_site,
    modalities,
    numbers,
    own_patients,
    single_image,
    subgroups,
)
from simulation.evaluation.blocks.calibration import Told
from simulation.evaluation.blocks.own_patients import FEDERATED, PERSONAL
from simulation.evaluation.scorer import Block, Draws, Patients, Scorer, Tally, grades_in

COLOUR = "counted_colour"
SOURCES = {"majority": "majority", "commonest": "commonest", COLOUR: "colour"}
"""Answers that stand in the run's own table: name among the baselines -> prefix of their columns."""
EXAMPLES = 20
"""How many errors of two grades or more are named for each score."""
_REQUIRED = ("exam_id", "patient_id", "site", "device", "trained_site")


def metrics(
    predictions: pd.DataFrame,
    *,
    settings: Settings,
    baselines: Mapping[str, pd.DataFrame] | None = None,
    thresholds: Mapping[str, float] | None = None,
    cuts: Mapping[str, Sequence[float]] | None = None,
    validation: Told | None = None,
    temperatures: Mapping[str, Mapping[str, float]] | None = None,
    generator_seed: int = 0,
) -> Block:
    """Score a run.

    Args:
        predictions: one row a held-out exam, with the columns ``exam_id, patient_id, site, device,
            trained_site, contested, tie`` and for each measurement m ``truth_m`` (-1 or NA: none), ``label_m``
            (the site's consensus), ``reader_<name>_m``, ``vote_m_<k>`` of each scoring model k, ``decision_m``,
            ``majority_m``, ``commonest_m`` and ``colour_m`` (:mod:`simulation.evaluation.trivial`),
            ``only_<image>_m`` (:mod:`simulation.evaluation.blocks.single_image`); and
            ``p:<network>``, the probability of class 1 of each network. Patients are told apart by (site,
            patient_id).
        settings: measurements, grades, validity and ``evaluate.bootstrap`` replicates.
        baselines: tables of the same exams from other systems: ``centralised``, ``alone:<site>``, ``personal`` (each
            site's exams by what that site made of the common networks), and, where these have fewer scoring models
            than the run, ``federated``: the federated ensemble cut down to as many.
        thresholds: network -> probability from which on its bit is 1; 0.5 for those that are not named.
        cuts: measurement -> cuts of the flow pixels that gave ``colour_m``, to be noted.
        validation: what sites told of their validation patients (:mod:`simulation.evaluation.blocks.calibration`).
        temperatures: site -> measurement -> that of its own networks, for ``calibration``.
        generator_seed: seed of the bootstrap.

    Returns:
        What ``metrics.json`` holds: plain values, ``None`` for what cannot be computed.

    Raises:
        DataError: for a missing column, a baseline that scored other exams, or systems that are to be compared and
            have not as many scoring models.
    """
    scorer = scorer_of(predictions, settings, seed=generator_seed)
    seen = predictions[predictions["trained_site"].astype(bool)]
    unseen = predictions[~predictions["trained_site"].astype(bool)]
    pooled = scorer.pool(seen)
    result: Block = {
        "reference": "truth" if scorer.source == "truth" else "consensus",
        "grades": scorer.grades(),
        "models": scoring_models(predictions),
        **pooled,
        "binary": scorer.binary(seen, thresholds or {}),
        "one_vs_rest": scorer.one_vs_rest(seen),
        "subgroups": subgroups.block(scorer, seen),
        "sites": {str(name): scorer.pool(part) for name, part in predictions.groupby("site")},
        "devices": {str(name): scorer.pool(part) for name, part in predictions.groupby("device")},
        "seen": pooled,
        "unseen": {
            **scorer.pool(unseen),
            "binary": scorer.binary(unseen, thresholds or {}),
            "one_vs_rest": scorer.one_vs_rest(unseen),
        }
        if len(unseen)
        else None,
    }
    if scorer.source == "truth":
        consensus = replace(scorer, source="label")
        result["against_consensus"] = consensus.pool(seen)
    if "fold" in predictions:
        result["folds"] = by_fold.block(scorer, seen)
        result["folds_by_patient"] = by_fold.of_patients(scorer, seen)
    if settings.numbers:
        result["numbers"] = numbers.block(scorer, seen)
        result["numbers_unseen"] = numbers.block(scorer, unseen) if len(unseen) else None
    if settings.method == "multimodal":
        result["modalities"] = modalities.block(scorer, seen, unseen)
    result["far_off"] = _far_off(scorer, seen)
    result["calibration"] = _calibration(
        scorer,
        _trained(baselines or {}, seen, unseen) or {FEDERATED: seen},
        validation or {},
        temperatures or {},
    )
    result |= _compared(scorer, seen, unseen, dict(baselines or {}), cuts or {})
    safe = finite(result)
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
        source=_reference(predictions, settings.measurements),
    )


def scoring_models(frame: pd.DataFrame) -> int | None:
    """How many scoring models vote in a table of predictions; ``None`` where their votes are not in it."""
    votes = [str(column).removeprefix("vote_").rpartition("_") for column in frame if _is_vote(str(column))]
    return max((int(model) + 1 for _, _, model in votes), default=None)


def _impossible_votes(scorer: Scorer, frame: pd.DataFrame) -> float | None:
    """Share of single models' votes that are a combination that cannot be; ``None``: none voted."""
    names = list(scorer.settings.measurements)
    by_model = [
        frame[[f"vote_{name}_{model}" for name in names]].set_axis([f"one_{name}" for name in names], axis=1)
        for model in range(scoring_models(frame) or 0)
        if all(f"vote_{name}_{model}" in frame for name in names)
    ]
    if not by_model or not len(frame):
        return None
    return sum(scorer.invalid_pairs(votes, "one") for votes in by_model) / (len(by_model) * len(frame))


def _is_vote(column: str) -> bool:
    return column.startswith("vote_") and column.rpartition("_")[2].isdigit()


def _far_off(scorer: Scorer, seen: pd.DataFrame) -> Block:
    """Errors of two grades and more of each score: how many, and the farthest of them by exam."""
    reference, answer = scorer.answers(seen, scorer.source), scorer.answers(seen, "decision")
    found: Block = {}
    for name in scorer.grades():
        far = mistakes.far_off(reference[name], answer[name], missing=MISSING)
        judged = int(((reference[name] != MISSING) & (answer[name] != MISSING)).sum())
        examples = seen.iloc[far[:EXAMPLES]]
        grades = zip(reference[name][far], answer[name][far], strict=False)
        found[name] = {
            "exams": len(far),
            "share": len(far) / judged if judged else None,
            "examples": [
                {"site": str(site), "exam_id": str(exam), "reference": int(truth), "decision": int(decision)}
                for site, exam, (truth, decision) in zip(
                    examples["site"], examples["exam_id"], grades, strict=False
                )
            ],
        }
    return found


def _calibration(
    scorer: Scorer,
    frames: Mapping[str, pd.DataFrame],
    validation: Told,
    temperatures: Mapping[str, Mapping[str, float]],
) -> Block:
    """Of systems with as many models: the federation, what pooled data gave, what each site made for itself."""
    systems = {
        name: frame[frame["trained_site"].astype(bool)]
        for name, frame in frames.items()
        if name in (FEDERATED, PERSONAL, "centralised")
    }
    if PERSONAL in systems and any(t != 1 for site in temperatures.values() for t in site.values()):
        systems[f"{PERSONAL}_tempered"] = calibration.tempered(systems[PERSONAL], temperatures)
    tasks = calibration.block(scorer, systems, validation)
    return {"models": scoring_models(systems[FEDERATED]), "tasks": tasks}


def _compared(
    scorer: Scorer,
    seen: pd.DataFrame,
    unseen: pd.DataFrame,
    frames: Mapping[str, pd.DataFrame],
    cuts: Mapping[str, Sequence[float]],
) -> Block:
    """``baselines``, paired ``differences``, ``own_patients`` and the matrix ``cross_site``, on held-out exams."""
    patients = Patients.of(seen)
    weights = scorer.weights(patients)
    trained = _trained(frames, seen, unseen)
    models = _models_alike(trained)
    tables = {name: _same_exams(frame, seen, name) for name, frame in trained.items()}
    systems = {name: [scorer.tally(frame, patients)] for name, frame in tables.items()}
    alone = {name.removeprefix("alone:"): name for name in tables if name.startswith("alone:")}
    systems["alone_mean"] = [systems[name][0] for name in alone.values()]
    systems["run"] = [scorer.tally(seen, patients)]
    readers = _readers(seen, scorer) if scorer.source == "truth" else []
    systems["readers_mean"] = [scorer.tally(seen, patients, f"reader_{name}") for name in readers]
    for name, source in SOURCES.items():
        if any(f"{source}_{score}" in seen for score in scorer.grades()):
            systems[name] = [scorer.tally(seen, patients, source)]

    def scored(*names: str) -> Block:
        tallies = [systems[name][0] for name in names]
        elsewhere = _on_unseen(scorer, [trained[name] for name in names], unseen)
        return {"models": models, **scorer.block(tallies, weights), **elsewhere}

    def answered(source: str, system: Tally) -> Block:
        elsewhere: Block = {}
        if len(unseen):
            others = Patients.of(unseen)
            tally = scorer.tally(unseen, others, source)
            elsewhere = {"unseen": _given(scorer.block([tally], scorer.weights(others)))}
        block = _given(scorer.block([system], weights))
        return {**block, **elsewhere, "invalid_pairs": scorer.invalid_pairs(seen, source)}

    baselines: Block = {name: scored(name) for name in (FEDERATED, PERSONAL, "centralised") if name in tables}
    if alone:
        baselines["alone"] = {
            site: {**scored(name), "own": scorer.pool(_of_site(tables[name], site))}
            for site, name in alone.items()
        }
        baselines["alone_mean"] = scored(*alone.values())
    for name, source in SOURCES.items():
        if name in systems:
            baselines[name] = answered(source, systems[name][0])
    if COLOUR in systems:
        baselines[COLOUR] = {
            **answered("colour", systems[COLOUR][0]),
            "cuts_px": {n: list(c) for n, c in cuts.items()},
        }
    if readers:
        tallies = zip(readers, systems["readers_mean"], strict=True)
        each: Block = {name: answered(f"reader_{name}", tally) for name, tally in tallies}
        mean = scorer.block(systems["readers_mean"], weights)
        read = {name for name, tally in systems["readers_mean"][0].items() if tally.any()}
        baselines["readers"] = {
            **each,
            "mean": {name: values for name, values in mean.items() if name in read},
        }
    found: Block = {
        "baselines": baselines,
        "differences": _differences(scorer, systems, weights, run=scoring_models(seen), trained=models),
        "own_patients": None,
        "cross_site": None,
        "beside_readers": beside_readers.block(scorer, seen, readers),
        "single_images": single_image.block(scorer, seen),
        "impossible_votes": _impossible_votes(scorer, seen),
    }
    if alone:
        shared = {name: tables[name] for name in (FEDERATED, PERSONAL) if name in tables}
        own = own_patients.block(
            scorer, {site: {ALONE: tables[name], **shared} for site, name in alone.items()}
        )
        found["own_patients"] = {"models": models, **own}
        everywhere = {
            name: trained[name] for name in (FEDERATED, *alone.values(), "centralised") if name in trained
        }
        found["cross_site"] = {"models": models, "scores": cross_site.block(scorer, everywhere)}
    return found


def _trained(
    frames: Mapping[str, pd.DataFrame], seen: pd.DataFrame, unseen: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The systems that were trained beside each other; the federation is the run itself unless it was cut down."""
    if not frames:
        return {}
    return {FEDERATED: pd.concat([seen, unseen]), **frames}


def _models_alike(frames: Mapping[str, pd.DataFrame]) -> int | None:
    counts = {name: scoring_models(frame) for name, frame in frames.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            "Expected systems with as many scoring models on both sides of a comparison, got "
            f"{', '.join(f'{name} {count}' for name, count in counts.items())}: cut the federation down to as many "
            "as the baselines have."
        )
    return next(iter(counts.values()), None)


def _of_site(frame: pd.DataFrame, site: str) -> pd.DataFrame:
    return frame[frame["site"].astype(str) == site]


def _given(block: Block) -> Block:
    """Without the scores for which there is no answer, as for a measurement that no colour is counted for."""
    return {name: values for name, values in block.items() if isinstance(values, dict) and values["exams"]}


def _differences(
    scorer: Scorer,
    systems: Mapping[str, Sequence[Tally]],
    weights: Draws,
    *,
    run: int | None,
    trained: int | None,
) -> Block:
    pairs = {
        "federated_minus_alone_mean": ("federated", "alone_mean", trained),
        "centralised_minus_federated": ("centralised", "federated", trained),
        "personal_minus_federated": (PERSONAL, FEDERATED, trained),
        "federated_minus_majority": ("run", "majority", run),
        "federated_minus_readers_mean": ("run", "readers_mean", run),
        "federated_minus_commonest": ("run", "commonest", run),
        "federated_minus_counted_colour": ("run", COLOUR, run),
    }
    found: Block = {}
    for name, (first, second, models) in pairs.items():
        if systems.get(first) and systems.get(second):
            block = scorer.difference(systems[first], systems[second], weights)
            both = {s: b for s, b in block.items() if all(systems[x][0][s].any() for x in (first, second))}
            found[name] = {"models": models, **both}
    return found


def _on_unseen(scorer: Scorer, frames: Iterable[pd.DataFrame], unseen: pd.DataFrame) -> Block:
    """The mean of some systems on the sites that never trained, where all of them scored those."""
    parts = [frame[~frame["trained_site"].astype(bool)] for frame in frames]
    if not len(unseen) or any(len(part) != len(unseen) for part in parts):
        return {}
    patients = Patients.of(unseen)
    tallies = [scorer.tally(part, patients) for part in parts]
    return {"unseen": scorer.block(tallies, scorer.weights(patients))}


def _reference(frame: pd.DataFrame, measurements: Iterable[str]) -> str:
    known = [(grades_in(frame, f"truth_{name}") != MISSING).any() for name in measurements]
    return "truth" if all(known) else "label"


def _readers(frame: pd.DataFrame, scorer: Scorer) -> list[str]:
    """Readers who graded some exam in every measurement that anybody read: a diagnosis, for one, nobody reads."""
    ends = [f"_{name}" for name in scorer.settings.measurements]
    columns = [str(c).removeprefix("reader_") for c in frame.columns if str(c).startswith("reader_")]
    names = sorted({c.removesuffix(end) for c in columns for end in ends if c.endswith(end)})
    read = {
        name: {
            m for m, grades in scorer.answers(frame, f"reader_{name}").items() if (grades != MISSING).any()
        }
        for name in names
    }
    anybody = set().union(*read.values())
    return [name for name in names if anybody and read[name] >= anybody]


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
