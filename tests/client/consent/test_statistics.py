"""What a site tells of its patients before training: where permitted, and never the difference of one patient."""

from pathlib import Path

import pytest

from client.consent import statistics
from client.site.site import Site
from client.withdrawal.withdrawal import withdraw
from common.errors import ConfigurationError, DataError
from common.evaluation.inside import site_statistics
from common.settings import Settings
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

MINIMUM = 3


def asking() -> Settings:
    return make_settings(text="[campaign]\nstatistics = true\n")


@pytest.fixture
def north(tmp_path: Path) -> Path:
    ages = [str(42 + patient) for patient in range(12)]
    folder = make_site_folder(
        tmp_path / "north", name="north", patients=12, devices=("A", "B"), extra={"age": _twice(ages)},
        exams_per_patient=2,
    )  # fmt: skip
    toml = (folder / "site.toml").read_text(encoding="utf-8")
    toml = toml.replace("minimum_cohort = 1", f"minimum_cohort = {MINIMUM}")
    toml = toml.replace('"score_histograms"', '"score_histograms", "statistics"')
    (folder / "site.toml").write_text(toml, encoding="utf-8")
    return folder


def _twice(values: list[str]) -> list[str]:
    return [value for value in values for _ in range(2)]


def told(folder: Path, settings: Settings | None = None) -> site_statistics.SiteStatistics:
    return site_statistics.parse(statistics.of(Site.open(folder), settings or asking()))


def test_patients_are_counted_by_what_their_exams_are(north: Path) -> None:
    found = told(north)
    assert found.characteristics["age"].values == {"40 to 49": 8, "50 to 59": 4}
    devices: dict[str, set[str]] = {}
    for row in read_table(north / "manifest.csv"):
        devices.setdefault(row["device"], set()).add(row["patient_id"])
    assert found.characteristics["device"].values == {name: len(of) for name, of in devices.items()}
    assert {"hypertrophy", "vascularity"} <= set(found.characteristics)
    assert "p00" not in found.dump()


def test_one_patient_is_not_the_difference_of_two_answers(north: Path) -> None:
    before = told(north)
    patients = sorted({row["patient_id"] for row in read_table(north / "manifest.csv")})
    for patient in patients[: MINIMUM - 1]:
        withdraw(Site.open(north), patient)
        assert told(north) == before
    withdraw(Site.open(north), patients[MINIMUM - 1])
    assert told(north) != before


def test_a_corrected_grade_is_not_the_difference_either(north: Path) -> None:
    before = told(north)
    rows = read_table(north / "grades.csv")
    write_table(north / "grades.csv", [row | {"hypertrophy": "3"} for row in rows])
    assert told(north) == before


def test_other_measurements_change_nothing_of_what_was_told(north: Path) -> None:
    before = told(north)
    other = told(north, make_settings(measurements=("hypertrophy",), text="[campaign]\nstatistics = true\n"))
    assert "vascularity" not in other.characteristics
    assert all(before.characteristics[name] == one for name, one in other.characteristics.items())


def test_nothing_is_told_where_plan_or_policy_says_nothing(north: Path) -> None:
    assert statistics.of(Site.open(north), make_settings()) == ""
    toml = (north / "site.toml").read_text(encoding="utf-8").replace(', "statistics"', "")
    (north / "site.toml").write_text(toml, encoding="utf-8")
    assert statistics.of(Site.open(north), asking()) == ""
    assert not (north / statistics.NAME).exists()


def test_an_age_that_is_none_is_said_with_its_line(north: Path) -> None:
    rows = read_table(north / "manifest.csv")
    write_table(north / "manifest.csv", [rows[0] | {"age": "old"}, *rows[1:]])
    with pytest.raises(DataError, match="line 2: age is 'old', expected whole years"):
        told(north)


def test_counts_without_noise_do_not_go_with_privacy() -> None:
    private = (
        '[privacy]\nmechanism = "none"\npatients = 10\nmax_grad_norm = 1.0\n[campaign]\nstatistics = true\n'
    )
    with pytest.raises(ConfigurationError, match="statistics is for campaigns without"):
        make_settings(text=private)
