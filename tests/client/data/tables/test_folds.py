from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.tables.folds import folds, is_held_out
from common.errors import DataError
from common.exam import Exam

SECRET = b"s" * 32


def exam(
    patient: int, *, device: str = "a", grade: int | None = 0, split: str = "train", fold: int | None = None
) -> Exam:
    return Exam(
        line=2,
        exam_id="x",
        patient_id=f"p{patient}",
        images={},
        device=device,
        split=split,
        fold=fold,
        targets={"hypertrophy": grade},
    )


@given(
    sizes=st.lists(st.integers(1, 12), min_size=5, max_size=20),
    count=st.integers(2, 5),
    diseased=st.integers(0, 20),
)
def test_patients_are_whole_and_every_fold_has_some(sizes: list[int], count: int, diseased: int) -> None:
    exams = [
        exam(p, grade=int(p < diseased), device="ab"[p % 2])
        for p, size in enumerate(sizes)
        for _ in range(size)
    ]
    assigned = folds(exams, secret=SECRET, held_out=0.3, count=count)
    home = {(e.patient_id, int(fold)) for e, fold in zip(exams, assigned, strict=True)}
    assert len(home) == len(sizes)
    assert set(assigned) == set(range(count))
    assert np.array_equal(assigned, folds(exams, secret=b"other", held_out=0.3, count=count))


def test_with_few_patients_balance_leaves_no_fold_empty() -> None:
    sizes = [1, 1, 3, 1, 3]
    exams = [
        exam(p, grade=int(p < 2), device="ab"[p % 2]) for p, size in enumerate(sizes) for _ in range(size)
    ]
    assigned = folds(exams, secret=SECRET, held_out=0.3, count=5)
    assert len(set(zip(assigned.tolist(), (e.patient_id for e in exams), strict=True))) == 5
    assert set(assigned.tolist()) == set(range(5))


def test_folds_are_balanced_by_device_and_disease() -> None:
    exams = [
        exam(10 * p + d, device=device, grade=2 * disease)
        for p in range(10)
        for d, (device, disease) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1)])
        for _ in range(3)
    ]
    assigned = folds(exams, secret=SECRET, held_out=0.3, count=5)
    strata = Counter(
        (int(fold), e.device, e.targets["hypertrophy"]) for e, fold in zip(exams, assigned, strict=True)
    )
    assert len(strata) == 20
    assert set(strata.values()) == {6}


def test_held_out_patients_have_no_fold() -> None:
    exams = [exam(p, split="test" if p % 3 == 0 else "train") for p in range(12)]
    assigned = folds(exams, secret=SECRET, held_out=0.3, count=2)
    assert [fold == -1 for fold in assigned] == [p % 3 == 0 for p in range(12)]


def test_a_site_that_is_only_tested_on_needs_no_folds() -> None:
    assert (folds([exam(0, split="test")], secret=SECRET, held_out=0.3, count=5) == -1).all()


def test_without_a_split_the_secret_and_the_patient_alone_decide() -> None:
    everyone = [exam(p, split="") for p in range(2000)]
    chosen = [is_held_out(e, secret=SECRET, share=0.3) for e in everyone]
    assert 0.26 < np.mean(chosen) < 0.34
    assert chosen == [is_held_out(exam(p, split="", grade=3), secret=SECRET, share=0.3) for p in range(2000)]
    assert chosen != [is_held_out(e, secret=b"other", share=0.3) for e in everyone]
    assert all(
        is_held_out(e, secret=SECRET, share=0.6) for e, out in zip(everyone, chosen, strict=True) if out
    )


def test_given_folds_are_taken_as_they_are() -> None:
    exams = [exam(p, fold=p % 2) for p in range(6)] + [exam(9, split="test")]
    assert folds(exams, secret=SECRET, held_out=0.3, count=2).tolist() == [0, 1, 0, 1, 0, 1, -1]
    with pytest.raises(DataError, match="a fold for every training exam"):
        folds([*exams, exam(7)], secret=SECRET, held_out=0.3, count=2)


def test_too_few_patients_are_refused_with_advice() -> None:
    with pytest.raises(DataError, match="at least 5 training patients for 5 folds, got 4"):
        folds([exam(p) for p in range(4)], secret=SECRET, held_out=0.3, count=5)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=5, max_size=20),
    count=st.integers(2, 4),
)
def test_exams_without_grades_move_no_graded_one_and_stay_with_their_patient(
    sizes: list[tuple[int, int]], count: int
) -> None:
    patients = [(max(graded, p < count), ungraded) for p, (graded, ungraded) in enumerate(sizes)]
    exams = [exam(p, grade=p % 2) for p, (graded, _) in enumerate(patients) for _ in range(graded)]
    more = [exam(p, grade=None) for p, (_, ungraded) in enumerate(patients) for _ in range(ungraded)]
    assigned = folds([*exams, *more], secret=SECRET, held_out=0.3, count=count)
    assert np.array_equal(assigned[: len(exams)], folds(exams, secret=SECRET, held_out=0.3, count=count))
    home = {(e.patient_id, int(fold)) for e, fold in zip([*exams, *more], assigned, strict=True)}
    assert len(home) == len({name for name, _ in home})
    assert {fold for _, fold in home} == set(range(count))


def test_patients_without_any_grade_are_spread_by_the_secret_or_go_where_the_manifest_says() -> None:
    exams = [exam(p, grade=None) for p in range(400)]
    assigned = folds(exams, secret=SECRET, held_out=0.3, count=4)
    assert all(60 < count < 140 for count in Counter(assigned.tolist()).values())
    assert np.array_equal(assigned[:9], folds(exams[:9], secret=SECRET, held_out=0.3, count=4))
    assert not np.array_equal(assigned, folds(exams, secret=b"other", held_out=0.3, count=4))
    given = [exam(p, grade=None, fold=p % 4) for p in range(8)] + [exam(9, grade=None, split="test")]
    assert folds(given, secret=SECRET, held_out=0.3, count=4).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, -1]
    assert folds([exam(0, grade=None)], secret=SECRET, held_out=0.3, count=1).tolist() == [0]


def by_image(patients: int, *, split: str = "train") -> list[Exam]:
    return [
        replace(exam(p, grade=e % 4, split=split, fold=0), exam_id=f"p{p}-e{e}")
        for p in range(patients)
        for e in range(8)
    ]


def test_split_by_image_a_patient_stands_on_both_sides_and_in_several_folds() -> None:
    exams = by_image(60)
    assigned = folds(exams, secret=SECRET, held_out=0.3, count=5, by="image")
    assert 0.2 < np.mean(assigned < 0) < 0.4, "the manifest's split is by patient, and is left out"
    of_patient = [set(assigned[8 * p : 8 * p + 8].tolist()) for p in range(60)]
    assert np.mean([min(places) < 0 <= max(places) for places in of_patient]) > 0.8
    assert np.mean([len(places - {-1}) > 1 for places in of_patient]) > 0.8
    sizes = np.bincount(assigned[assigned >= 0])
    assert sizes.max() - sizes.min() <= 2
    graded = np.array([exam.targets["hypertrophy"] != 0 for exam in exams])
    shares = [graded[assigned == fold].mean() for fold in range(5)]
    assert max(shares) - min(shares) < 0.05, "balanced over disease"


def test_split_by_image_a_site_that_only_tests_does_so_still() -> None:
    assert (folds(by_image(9, split="test"), secret=SECRET, held_out=0.3, count=2, by="image") < 0).all()


def diagnosed(patient: int, *, device: str, classes: dict[str, int | None], grade: int) -> Exam:
    return Exam(
        line=2,
        exam_id="x",
        patient_id=f"p{patient}",
        images={},
        device=device,
        split="train",
        targets={"hypertrophy": grade, **classes},
    )


def test_folds_are_balanced_by_device_and_class_of_the_diagnosis() -> None:
    """Each fold has each device x class; a class is no grade: it says nothing of disease."""
    kinds: list[dict[str, int | None]] = [
        {"ra": 0, "positive": 1},
        {"ra": 0, "positive": 0},
        {"ra": 1, "positive": None},
    ]
    exams = [
        diagnosed(100 * p + 10 * k + d, device=device, classes=classes, grade=p % 2)
        for p in range(10)
        for k, classes in enumerate(kinds)
        for d, device in enumerate("ab")
        for _ in range(2)
    ]
    assigned = folds(exams, secret=SECRET, held_out=None, count=5, diagnoses=("ra", "positive"))
    home = {(e.patient_id, int(fold)) for e, fold in zip(exams, assigned, strict=True)}
    assert len(home) == len({e.patient_id for e in exams})
    strata = Counter(
        (int(fold), e.device, e.targets["ra"], e.targets["positive"], e.targets["hypertrophy"])
        for e, fold in zip(exams, assigned, strict=True)
    )
    assert len(strata) == 5 * 2 * 3 * 2
    assert set(strata.values()) == {2}
