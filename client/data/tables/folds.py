"""Splits a site's patients: held out for testing, and folds for training."""

from __future__ import annotations

import hashlib
import hmac
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from common.errors import DataError
from common.exam import MISSING, Exam


def is_held_out(exam: Exam, *, secret: bytes, share: float) -> bool:
    """Whether an exam is for testing: as the manifest's ``split`` says, or by HMAC(secret, patient).

    The HMAC depends on nothing but the patient, so that no patient's data decides over another's.
    """
    if exam.split:
        return exam.split == "test"
    digest = hmac.new(secret, exam.patient_id.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def folds(exams: Sequence[Exam], *, secret: bytes, held_out: float, count: int) -> NDArray[np.int8]:
    """The fold of each exam, ``MISSING`` where it is held out.

    Training patients are kept whole and balanced over device and disease (any grade > 0), by scikit-learn's
    StratifiedGroupKFold; by its GroupKFold where that would leave a fold empty. A ``fold`` column in the manifest is
    taken as it is. One fold is all of them, whatever the manifest says: then nobody's place depends on anybody else.

    Args:
        exams: all usable exams.
        secret: the site's secret.
        held_out: share of patients held out where the manifest does not say.
        count: number of folds.

    Raises:
        DataError: if there are fewer training patients than folds, or only some exams have a given fold.
    """
    assigned = np.full(len(exams), MISSING, dtype=np.int8)
    training = [i for i, exam in enumerate(exams) if not is_held_out(exam, secret=secret, share=held_out)]
    if count == 1:
        assigned[training] = 0
    if not training or count == 1:
        return assigned
    given = [exams[i].fold for i in training]
    if any(fold is not None for fold in given):
        if any(fold is None for fold in given):
            raise DataError("Expected a fold for every training exam of the manifest, or for none")
        assigned[training] = [fold for fold in given if fold is not None]
        return assigned
    patients = [exams[i].patient_id for i in training]
    if len(set(patients)) < count:
        raise DataError(
            f"Expected at least {count} training patients for {count} folds, got {len(set(patients))}: lower "
            f"rating.folds, or add patients"
        )
    strata = [f"{exams[i].device}|{_diseased(exams[i])}" for i in training]
    if max(Counter(strata).values()) < count:  # scikit-learn refuses where nothing can be balanced
        strata = [""] * len(training)
    parts = _parts(StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=0), strata, patients)
    if not all(map(len, parts)):  # with few patients the best balance may leave a fold empty
        parts = _parts(GroupKFold(n_splits=count), strata, patients)
    for fold, members in enumerate(parts):
        assigned[np.array(training)[members]] = fold
    return assigned


def _parts(
    splitter: StratifiedGroupKFold | GroupKFold, strata: Sequence[str], patients: Sequence[str]
) -> list[NDArray[np.int64]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a stratum smaller than the number of folds is fine
        return [members for _, members in splitter.split(np.zeros(len(strata)), strata, patients)]


def _diseased(exam: Exam) -> bool:
    return any(grade is not None and grade > 0 for grade in exam.targets.values())
