import numpy as np
import pytest
from scipy.stats.contingency import association

from common.evaluation import confounding
from common.evaluation.confounding import Link, link


def two_machines(rng: np.random.Generator, patients: int, tied: float, exams: int = 1) -> Link | None:
    """Patients with two diagnoses, as often one as the other; a share of them on the machine of their diagnosis."""
    diagnosis = rng.integers(2, size=patients)
    machine = np.where(rng.random(patients) < tied, diagnosis, rng.integers(2, size=patients))
    names = [f"p{i}" for i in range(patients) for _ in range(exams)]
    return link(names, *(np.array(["a", "b"])[np.repeat(v, exams)].tolist() for v in (machine, diagnosis)))


def test_one_that_tells_the_other_has_one() -> None:
    names = [f"p{i}" for i in range(40)]
    found = link(names, ["x", "y"] * 20, ["RA", "PsA"] * 20)
    assert found is not None
    assert found.cramers_v == pytest.approx(1, abs=1e-9)
    assert found.p_value == pytest.approx(0.001)
    assert found.notable


@pytest.mark.soak
def test_without_a_link_hardly_any_is_told() -> None:
    found = [two_machines(np.random.default_rng(seed), 100, tied=0.0, exams=7) for seed in range(60)]
    assert sum(one is not None and one.notable for one in found) <= 3
    assert np.median([one.cramers_v for one in found if one is not None]) < 0.05


def test_exams_are_no_patients() -> None:
    """Seven exams of a patient are one piece of evidence: as much as one exam."""
    few, many = (two_machines(np.random.default_rng(3), 60, tied=0.3, exams=exams) for exams in (1, 7))
    assert few == many


def test_a_large_sample_has_the_plain_v() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(3, size=4000)
    second = np.where(rng.random(4000) < 0.4, first % 2, rng.integers(2, size=4000))
    found = link([str(i) for i in range(4000)], first.astype(str).tolist(), second.astype(str).tolist())
    table = np.array([[np.sum((first == i) & (second == j)) for j in range(2)] for i in range(3)])
    assert found is not None
    assert found.cramers_v == pytest.approx(association(table, method="cramer"), abs=0.01)


def test_a_patient_counts_once_and_for_shares() -> None:
    """Grades differ within a patient: shares of them count, and a patient with many exams weighs no more."""
    names, machines, grades = [], [], []
    for i in range(30):
        for k in range(3 if i % 2 else 30):
            names.append(f"p{i}")
            machines.append("x" if i % 2 else "y")
            grades.append(str(k % 3))
    found = link(names, machines, grades)
    assert found is not None
    assert found.patients == 30
    assert found.cramers_v == pytest.approx(0, abs=1e-6)


def test_at_the_threshold_the_machine_alone_has_an_auc_of_six_tenths() -> None:
    """What :data:`common.evaluation.confounding.NOTABLE` claims: V 0.2 is a table of 0.3, 0.2, 0.2, 0.3."""
    machines = ["x"] * 500 + ["y"] * 500
    diagnoses = ["RA"] * 300 + ["PsA"] * 200 + ["RA"] * 200 + ["PsA"] * 300
    found = link([str(i) for i in range(1000)], machines, diagnoses)
    assert found is not None
    assert found.cramers_v == pytest.approx(confounding.NOTABLE, abs=0.005)


@pytest.mark.parametrize(
    ("machines", "values"),
    [
        (["x"] * 40, ["a", "b"] * 20),
        (["x", "y"] * 20, ["a"] * 40),
        (["x", "y"] * 20, [""] * 40),
        (["x", "y"] * 4, ["a", "b"] * 4),
    ],
    ids=["one machine", "one value", "no values", "too few patients"],
)
def test_nothing_is_said_of_what_cannot_be_linked(machines: list[str], values: list[str]) -> None:
    assert link([str(i) for i in range(len(machines))], machines, values) is None


def test_a_link_is_said_in_a_sentence() -> None:
    said = confounding.sentence(
        Link(patients=40, cramers_v=0.5, p_value=0.001), one="the machine", other="diagnosis"
    )
    assert said.startswith("The machine tells diagnosis to a degree (Cramer's V 0.50 over 40 patients")
