"""Reader studies: how well people grade without and with assistance, against a reference.

Every reader grades the same exams twice, once in each condition; what counts for a reader is what he graded in
both. A reader's two readings of a patient are swapped in the test, for the average over the readers those of all
readers at once, since they look at the same patient. Readers are taken as they are: intervals and tests speak of
other patients, not of other readers.

Source: Zhou et al. 2022, Patterns, doi 10.1016/j.patter.2022.100592 (accuracy, kappa, Youden's index at three
cuts, without and with assistance); the test replaces the paper's, see :mod:`common.evaluation.paired`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64, Integer
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation import bootstrap, paired, roc
from common.evaluation.agreement import accuracy, kappa, spearman
from common.evaluation.bootstrap import Estimate
from common.evaluation.intraclass import icc
from common.evaluation.paired import Comparison, Metric
from common.exam import MISSING

WITHOUT, WITH = "without", "with"
CONDITIONS = (WITHOUT, WITH)
"""Of reading: without and with assistance."""

Counts: TypeAlias = Int64[np.ndarray, "readers patients grades grades"]
"""A confusion matrix, rows the reference, of each reader and patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderMetric:
    """One metric of one reader, or its mean over the readers.

    Attributes:
        metric: a key of :func:`metrics`.
        reader: index of the reader; ``None`` for the mean.
        conditions: an estimate for each condition that was read.
        difference: with minus without; ``None`` if only one condition was read.
        p_holm: its p after Holm's correction over the readers (the mean is not among them); ``None`` for the mean.
        p_signed_rank: of Wilcoxon's test of accuracy by patient (:func:`paired.signed_rank`), not corrected;
            ``None`` for other metrics.
    """

    metric: str
    reader: int | None
    conditions: Mapping[str, Estimate]
    difference: Comparison | None
    p_holm: float | None = None
    p_signed_rank: float | None = None


def metrics(grades: int) -> dict[str, Metric]:
    """Agreement with the reference: accuracy, linear kappa, Youden's index at every cut, Spearman, ICC(2,1).

    Youden's index has the grades cut in two, as ``youden_0|123``.
    """
    names = "".join(str(grade) for grade in range(grades))
    cuts = {
        f"youden_{names[: cut + 1]}|{names[cut + 1 :]}": partial(roc.youden, cut=cut)
        for cut in range(grades - 1)
    }
    linear = partial(kappa, weights="linear")
    return {"accuracy": accuracy, "kappa_linear": linear, **cuts, "spearman": spearman, "icc": icc}


def reader_confusions(
    truth: ArrayLike,
    graded: ArrayLike,
    *,
    reader: Integer[np.ndarray, " readings"],
    patient: Integer[np.ndarray, " readings"],
    grades: int,
    readers: int,
    patients: int,
) -> Counts:
    """Count the readings of one condition.

    Args:
        truth: reference grades 0 .. ``grades`` - 1, ``(readings,)``.
        graded: the readers' grades, ``(readings,)``.
        reader: index 0 .. ``readers`` - 1 of each reading's reader.
        patient: index 0 .. ``patients`` - 1 of each reading's patient.
        grades: the number of grades.
        readers: the number of readers.
        patients: the number of patients.

    Raises:
        DataError: for grades or indices out of range or lengths that differ.
    """
    if reader.shape != patient.shape or any(
        index.size and not 0 <= index.min() <= index.max() < count
        for index, count in ((reader, readers), (patient, patients))
    ):
        raise DataError(
            f"Expected a reader in 0..{readers - 1} and a patient in 0..{patients - 1} for each reading."
        )
    each = bootstrap.patient_confusions(
        truth, graded, reader * patients + patient, grades=grades, patients=readers * patients
    )
    return each.reshape(readers, patients, grades, grades)


def pair_confusions(
    grades: Int64[np.ndarray, "exams raters"],
    patient: Integer[np.ndarray, " exams"],
    *,
    levels: int,
    patients: int,
) -> tuple[list[tuple[int, int]], Int64[np.ndarray, "pairs patients grades grades"]]:
    """Raters two by two, on the exams that both graded; a pair without any is left out.

    Args:
        grades: one column a rater, or a session of one; ``MISSING`` where not graded.
        patient: index 0 .. ``patients`` - 1 of each exam's patient.
        levels: the number of grades.
        patients: the number of patients.

    Returns:
        The pairs' columns, and the confusion matrix of each pair and patient, rows the first rater.
    """
    pairs, counts = [], []
    for first, second in combinations(range(grades.shape[1]), 2):
        both = (grades[:, [first, second]] != MISSING).all(axis=1)
        if both.any():
            pairs.append((first, second))
            counts.append(
                bootstrap.patient_confusions(
                    grades[both, first],
                    grades[both, second],
                    patient[both],
                    grades=levels,
                    patients=patients,
                )
            )
    return pairs, np.reshape(np.array(counts, dtype=np.int64), (len(pairs), patients, levels, levels))


def rows(
    counts: Mapping[str, Counts],
    *,
    weights: Int64[np.ndarray, "replicates patients"],
    generator: np.random.Generator,
    permutations: int = paired.PERMUTATIONS,
) -> list[ReaderMetric]:
    """Every metric of every reader, and before them its mean over the readers.

    Args:
        counts: condition -> :func:`reader_confusions`, of the same exams if there are two conditions; every
            reader has exams.
        weights: bootstrap draws of the patients.
        generator: draws the permutations.
        permutations: how many are drawn where there are more.

    Raises:
        DataError: if a reader did not read the same exams in both conditions.
    """
    table: list[ReaderMetric] = []
    for name, metric in metrics(next(iter(counts.values())).shape[-1]).items():
        score = partial(_row, name, metric, weights=weights, generator=generator, permutations=permutations)
        mean = score(None, counts)
        each = [
            score(index, {condition: systems[index] for condition, systems in counts.items()})
            for index in range(len(next(iter(counts.values()))))
        ]
        table += [mean, *_corrected(each)]
    return table


def _row(
    name: str,
    metric: Metric,
    reader: int | None,
    counts: Mapping[str, Int64[np.ndarray, "*readers patients grades grades"]],
    *,
    weights: Int64[np.ndarray, "replicates patients"],
    generator: np.random.Generator,
    permutations: int,
) -> ReaderMetric:
    difference = signed_rank = None
    if set(CONDITIONS) <= set(counts):
        if metric is accuracy:
            signed_rank = paired.signed_rank(counts[WITH], counts[WITHOUT])
        difference = paired.compare(
            metric,
            counts[WITH],
            counts[WITHOUT],
            weights=weights,
            generator=generator,
            permutations=permutations,
        )
    return ReaderMetric(
        metric=name,
        reader=reader,
        conditions={c: paired.estimate(metric, counts[c], weights) for c in CONDITIONS if c in counts},
        difference=difference,
        p_signed_rank=signed_rank,
    )


def _corrected(each: list[ReaderMetric]) -> Iterator[ReaderMetric]:
    p = paired.holm([np.nan if row.difference is None else row.difference.p for row in each])
    for row, corrected in zip(each, p, strict=True):
        yield row if row.difference is None else replace(row, p_holm=float(corrected))
