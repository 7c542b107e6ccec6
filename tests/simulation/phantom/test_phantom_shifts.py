"""Cohorts whose sites differ in one thing at a time."""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.sections.cohort import PhantomSettings, ShiftSettings
from common.settings import parse
from simulation.cohorts import cohort
from simulation.phantom.devices import FITTED
from simulation.phantom.patients import make_patient, site_readers
from simulation.phantom.random import stream
from simulation.phantom.severity import draw_patient
from simulation.phantom.shifts import site_shifts


def phantom(**shift: object) -> PhantomSettings:
    return PhantomSettings(
        sites=3, patients=4, exams_per_patient=2, image_px=64, shift=ShiftSettings.model_validate(shift)
    )


def test_a_cohort_without_shifts_is_described_as_before_there_were_any() -> None:
    assert "shift" not in phantom().model_dump(mode="json")
    assert "shift" not in phantom().model_dump_json()
    shifted = phantom(severity=0.5)
    assert PhantomSettings.model_validate(shifted.model_dump(mode="json")) == shifted
    assert "shift" in shifted.model_dump_json()


def test_shifts_are_spread_over_the_sites_and_the_unseen_one_has_none() -> None:
    settings = phantom(severity=0.8, reader_bias=0.5)
    shifts = site_shifts(settings)
    assert [shift.severity for shift in shifts] == pytest.approx([-0.8, 0.0, 0.8])
    assert [shift.reader_bias for shift in shifts] == pytest.approx([-0.5, 0.0, 0.5])
    folders = {name: Path(name) for name in ("site-a", "site-b", "site-c", "unseen")}
    jobs = cohort.jobs(settings, seed=1, folders=folders)
    unseen = {job.shift for job in jobs if job.site == "unseen"}
    assert {(s.severity, s.reader_bias, s.patients) for s in unseen} == {(0.0, 0.0, 4)}
    assert all(job.trains == (job.site != "unseen") for job in jobs)


@given(sites=st.integers(1, 12), patients=st.integers(2, 60), largest=st.floats(1, 30, allow_nan=False))
def test_sizes_grow_and_their_sum_stays(sites: int, patients: int, largest: float) -> None:
    settings = PhantomSettings(sites=sites, patients=patients, shift=ShiftSettings(largest=largest))
    sizes = [shift.patients for shift in site_shifts(settings)]
    assert min(sizes) >= 1
    if min(sizes) > 1:
        assert sum(sizes) == sites * patients
        assert all(b >= a - 1 for a, b in pairwise(sizes))  # up to rounding
    if sizes[0] >= 20 and sites > 1:
        assert sizes[-1] / sizes[0] == pytest.approx(largest, rel=0.15)


def test_without_imbalance_all_sites_are_alike() -> None:
    assert [shift.patients for shift in site_shifts(phantom())] == [4, 4, 4]


def test_a_shift_of_severity_moves_the_grades_and_nothing_else_is_drawn() -> None:
    def grades(shift: float) -> np.ndarray:
        drawn = [draw_patient(stream(0, "shift", i), joints=8, shift=shift).grades[0] for i in range(400)]
        return np.concatenate(drawn)

    mild, usual, ill = grades(-0.8), grades(0.0), grades(0.8)
    assert (mild == 0).mean() > (usual == 0).mean() + 0.15
    assert (ill == 0).mean() < (usual == 0).mean() - 0.15
    assert (ill >= usual).all()
    assert (mild <= usual).all()


def test_a_bias_of_readers_moves_their_grades_and_not_the_truth_or_the_pictures() -> None:
    usual, high = (
        make_patient(5, "site-a", 0, FITTED[0], exams=16, roi_px=64, reader_bias=bias) for bias in (0.0, 0.7)
    )
    assert (usual.exams.grey[0] == high.exams.grey[0]).all()
    np.testing.assert_array_equal(usual.exams.severity.hypertrophy, high.exams.severity.hypertrophy)
    assert (high.hypertrophy >= usual.hypertrophy).all()
    assert high.hypertrophy.mean() > usual.hypertrophy.mean() + 0.3
    one, other = site_readers(5, "site-a")[0], site_readers(5, "site-a", bias=0.7)[0]
    assert other.vascularity_bias - one.vascularity_bias == pytest.approx(0.7)


def test_one_machine_for_all_but_the_unseen_site() -> None:
    made = cohort.devices(PhantomSettings(sites=7, shift=ShiftSettings(devices="one")), seed=0)
    names = {name: device.name for name, device in made.items()}
    unseen = names.pop("unseen")
    assert set(names.values()) == {FITTED[0].name}
    assert unseen != FITTED[0].name


def test_drawn_machines_are_nobody_elses() -> None:
    settings = PhantomSettings(sites=4, shift=ShiftSettings(devices="drawn"))
    made, again, other = (list(cohort.devices(settings, seed=seed).values()) for seed in (3, 3, 4))
    assert made == again
    profiles = {replace(device, name="") for device in (*made, *other, *FITTED)}
    assert len(profiles) == 5 + 5 + len(FITTED)
    assert len({device.name for device in (*made[:4], *other[:4], *FITTED)}) == 4 + 4 + len(FITTED)


def test_a_shifted_cohort_is_made_as_it_says(tmp_path: Path) -> None:
    settings = phantom(largest=4.0, devices="one").model_copy(update={"held_out": 0.5})
    made = cohort.make(settings, seed=2, out=tmp_path / "c", workers=1)
    sizes = {}
    for site in made.sites:
        with (site.folder / "manifest.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        sizes[site.name] = len({row["patient_id"] for row in rows})
        tested = {row["patient_id"] for row in rows if row["split"] == "test"}
        assert len(tested) == (round(sizes[site.name] * 0.5) if site.trains else sizes[site.name])
    assert sizes == {"site-a": 2, "site-b": 3, "site-c": 7, "unseen": 4}


@pytest.mark.parametrize("override", ["severity=-1", "reader_bias=3", "largest=0.5", "devices=two"])
def test_shifts_out_of_range_are_refused(override: str) -> None:
    text = 'name="x"\n[images.gs]\nkind="grey"\n[measurements.m]\nimages=["gs"]\n[cohort.phantom]\nsites=2\n'
    with pytest.raises(Exception, match=f"cohort.phantom.shift.{override.partition('=')[0]}"):
        parse(text, overrides=[f"cohort.phantom.shift.{override}"])
