"""Grades that follow from a diagnosis or a number, and numbers that readers give."""

from pathlib import Path

import pytest

from client.data.tables.tables import Tables, read_tables
from common.errors import ConfigurationError
from common.settings import Settings, parse

HEADER = "exam_id,patient_id,hands_path,diagnosis\n"
SETTINGS = """
name = "hands"
[images.hands]
kind = "grey"
[numbers.svdh]
largest = 280
step = 0.5
images = ["hands"]
[measurements.severity]
number = "svdh"
edges = [2, 5, 10]
images = ["hands"]
[measurements.ra]
column = "diagnosis"
classes = [["RA+", "RA-"], ["PsA", "SpA"]]
images = ["hands"]
"""


def _read(folder: Path, manifest: str, grades: str, rule: str = "median") -> Tables:
    (folder / "manifest.csv").write_text(HEADER + manifest, encoding="utf-8")
    (folder / "grades.csv").write_text("exam_id,reader,svdh\n" + grades, encoding="utf-8")
    settings = parse(SETTINGS)
    return read_tables(folder, manifest="manifest.csv", grades="grades.csv", rule=rule, settings=settings)


def test_a_number_is_the_readers_mean_and_its_grade_the_class_of_that(tmp_path: Path) -> None:
    tables = _read(
        tmp_path, "e1,p1,a.png,RA-\ne2,p2,b.png,\n", 'e1,anna,4.5\ne1,ben,"5,5"\ne2,anna,2\ne2,ben,\n'
    )
    first, second = tables.exams
    assert first.numbers == {"svdh": 5.0}
    assert first.targets == {"severity": 2, "ra": 0}  # 5 begins a class
    assert second.numbers == {"svdh": 2.0}
    assert second.targets == {"severity": 1, "ra": None}
    assert tables.readings[0].grades == {"severity": 1}
    assert tables.readings[1].numbers == {"svdh": 5.5}


def test_one_reader_by_rule(tmp_path: Path) -> None:
    tables = _read(tmp_path, "e1,p1,a.png,PsA\n", "e1,anna,4.5\ne1,ben,50\n", rule="reader:ben")
    assert tables.exams[0].numbers == {"svdh": 50.0}
    assert tables.exams[0].targets == {"severity": 3, "ra": 1}


@pytest.mark.parametrize("cell", ["280.5", "-1", "4.25", "many", "nan", "inf"])
def test_a_number_that_cannot_be_quarantines_its_exam(tmp_path: Path, cell: str) -> None:
    tables = _read(tmp_path, "e1,p1,a.png,RA+\ne2,p2,b.png,RA+\n", f"e1,anna,{cell}\ne2,anna,3\n")
    (left_out,) = tables.quarantined
    assert left_out.exam_id == "e1"
    assert f"svdh is {cell!r}, expected a number from 0 to 280 in steps of 0.5" in left_out.reason


def test_two_numbers_of_one_reader_in_one_session(tmp_path: Path) -> None:
    tables = _read(tmp_path, "e1,p1,a.png,RA+\ne2,p2,b.png,RA+\n", "e1,anna,3\ne1,anna,4\ne2,anna,3\n")
    assert "svdh is 4, but 3 in line 2 by the same reader" in tables.quarantined[0].reason


def test_an_exam_with_a_diagnosis_and_no_number_stays_for_the_diagnosis(tmp_path: Path) -> None:
    tables = _read(tmp_path, "e1,p1,a.png,RA+\n", "e1,anna,\n")
    assert tables.exams[0].targets == {"severity": None, "ra": 0}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ('classes = [["RA+"], ["RA+"]]', "has 'RA+' twice"),
        ('classes = [["RA+"], ["PsA"]]\ngrades = 3', "grades is 3, but there are 2 classes"),
        ('classes = [["RA+"], ["PsA"]]\nnumber = "svdh"\nedges = [1]', "column and number cannot both be"),
        ("", "column and classes belong together"),
    ],
)
def test_classes_that_cannot_be(change: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=r"measurements\.ra") as caught:
        parse(SETTINGS.replace('classes = [["RA+", "RA-"], ["PsA", "SpA"]]', change))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("edges = [2, 5, 10]", "edges = [5, 2]", "edges must rise"),
        ('number = "svdh"', 'number = "sharp"', "measurements.severity.number is 'sharp'"),
        ("[numbers.svdh]", "[numbers.severity]", "numbers.severity is a measurement, too"),
        ("largest = 280", "largest = -1", "nothing lies between"),
    ],
)
def test_numbers_that_cannot_be(old: str, new: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(SETTINGS.replace(old, new))
    assert problem in str(caught.value)


def test_plans_without_numbers_have_the_bytes_they_had() -> None:
    plan = parse('name = "a"\n[images.gs]\nkind = "grey"\n[measurements.m]\nimages = ["gs"]\n').plan()
    assert plan["measurements"] == {"m": {"grades": 4, "images": ["gs"]}}
    assert "numbers" not in plan
    assert plan["evaluate"] == {"held_out": 0.3}


def test_a_plan_can_be_read_again() -> None:
    settings = parse(SETTINGS)
    again = Settings.model_validate({"name": "again"} | settings.plan())
    assert again.plan_hash() == settings.plan_hash()
