"""Splits a site's patients: held out for testing, and folds for training."""

from __future__ import annotations

import hashlib
import hmac
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.exam import MISSING, Exam
from common.settings import Settings

if TYPE_CHECKING:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold


def is_held_out(exam: Exam, *, secret: bytes, share: float | None) -> bool:
    """Whether an exam is for testing: as the manifest's ``split`` says, or by HMAC(secret, patient).

    Without a share none is: folds judge, one after another.

    The HMAC depends on nothing but the patient, so that no patient's data decides over another's.
    """
    if share is None:
        return False
    if exam.split:
        return exam.split == "test"
    return int.from_bytes(_digest(exam, secret)[:8], "big") < share * 2**64


def folds_of(exams: Sequence[Exam], settings: Settings, *, secret: bytes) -> NDArray[np.int8]:
    """:func:`folds` of a site's exams as a plan asks for them."""
    return folds(
        exams,
        secret=secret,
        held_out=settings.held_out,
        count=settings.folds,
        by=settings.split_by,
        diagnoses=settings.diagnoses,
    )


def folds(
    exams: Sequence[Exam],
    *,
    secret: bytes,
    held_out: float | None,
    count: int,
    by: Literal["patient", "image"] = "patient",
    diagnoses: Sequence[str] = (),
) -> NDArray[np.int8]:
    """The fold of each exam, ``MISSING`` where it is held out.

    Training patients are kept whole and balanced over device, disease (any grade > 0) and, where networks learn a
    diagnosis, its class, by scikit-learn's StratifiedGroupKFold; by its GroupKFold where that would leave a fold
    empty. A ``fold`` column in the manifest is
    taken as it is. One fold is all of them, whatever the manifest says: then nobody's place depends on anybody else.

    Exams without any grade move no graded one. They are where their patient's graded exams are; those of a patient
    who has none in the manifest's fold, or in one by HMAC(secret, patient).

    Args:
        exams: all usable exams.
        secret: the site's secret.
        held_out: share of patients held out where the manifest does not say; ``None``: nobody.
        count: number of folds.
        by: ``image``: every exam is split as if it were a patient of its own, whatever ``split`` and ``fold`` say
            (:func:`each_by_itself`).
        diagnoses: measurements that are classes of a diagnosis.

    Raises:
        DataError: if some training patients are graded, but fewer than there are folds, or only some graded training
            exams have a given fold.
    """
    if by == "image":
        exams = each_by_itself(exams)
    assigned = np.full(len(exams), MISSING, dtype=np.int8)
    training = [i for i, exam in enumerate(exams) if not is_held_out(exam, secret=secret, share=held_out)]
    if count == 1:
        assigned[training] = 0
        return assigned
    graded = [i for i in training if exams[i].graded]
    assigned[graded] = _graded_folds([exams[i] for i in graded], count, diagnoses)
    known = {exams[i].patient_id: int(assigned[i]) for i in graded}
    for i in training:
        if not exams[i].graded:
            assigned[i] = known.get(exams[i].patient_id, _own_fold(exams[i], secret, count))
    return assigned


def each_by_itself(exams: Sequence[Exam]) -> list[Exam]:
    """The exams, each as if it were a patient of its own: a patient's may stand on both sides of a split.

    Splits and folds of the manifest, which are by patient, are left out, unless all its exams are for testing.
    """
    split = "test" if all(exam.split == "test" for exam in exams) else ""
    return [
        replace(exam, patient_id=f"{exam.patient_id}\n{exam.exam_id}", split=split, fold=None)
        for exam in exams
    ]


def _graded_folds(
    exams: Sequence[Exam], count: int, diagnoses: Sequence[str]
) -> Sequence[int] | NDArray[np.int8]:
    """Folds of training exams that have a grade; ``count`` is at least 2."""
    from sklearn.model_selection import (  # noqa: PLC0415  a store that is there needs none
        GroupKFold,
        StratifiedGroupKFold,
    )

    if not exams:
        return []
    given = [exam.fold for exam in exams]
    if any(fold is not None for fold in given):
        if any(fold is None for fold in given):
            raise DataError("Expected a fold for every training exam of the manifest, or for none")
        return [fold for fold in given if fold is not None]
    patients = [exam.patient_id for exam in exams]
    if len(set(patients)) < count:
        raise DataError(
            f"Expected at least {count} training patients for {count} folds, got {len(set(patients))}: lower "
            f"rating.folds, or add patients"
        )
    strata = ["|".join([exam.device, *map(str, _disease(exam, diagnoses))]) for exam in exams]
    if max(Counter(strata).values()) < count:  # scikit-learn refuses where nothing can be balanced
        strata = [""] * len(exams)
    parts = _parts(StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=0), strata, patients)
    if not all(map(len, parts)):  # with few patients the best balance may leave a fold empty
        parts = _parts(GroupKFold(n_splits=count), strata, patients)
    assigned = np.empty(len(exams), dtype=np.int8)
    for fold, members in enumerate(parts):
        assigned[members] = fold
    return assigned


def _own_fold(exam: Exam, secret: bytes, count: int) -> int:
    """Of a training patient without any grade: other bytes of the HMAC than those that decide who is held out."""
    return exam.fold if exam.fold is not None else _digest(exam, secret)[8] % count


def _parts(
    splitter: StratifiedGroupKFold | GroupKFold, strata: Sequence[str], patients: Sequence[str]
) -> list[NDArray[np.int64]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a stratum smaller than the number of folds is fine
        return [members for _, members in splitter.split(np.zeros(len(strata)), strata, patients)]


def _digest(exam: Exam, secret: bytes) -> bytes:
    return hmac.new(secret, exam.patient_id.encode(), hashlib.sha256).digest()


def _disease(exam: Exam, diagnoses: Sequence[str]) -> list[object]:
    """Whether some grade is above 0, then the classes of the diagnosis."""
    grades = (grade for name, grade in exam.targets.items() if name not in diagnoses)
    diseased = any(grade is not None and grade > 0 for grade in grades)
    return [diseased, *(exam.targets.get(name) for name in diagnoses)]
