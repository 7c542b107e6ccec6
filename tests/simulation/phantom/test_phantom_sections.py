import hashlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import label

from common.sections.cohort import MachineProfile, ShiftSettings
from simulation.phantom import flow
from simulation.phantom.devices import FITTED, TONE_DB, Device, jittered, random_device
from simulation.phantom.fitting import looks
from simulation.phantom.patients import Patient, make_patient
from simulation.phantom.random import stream
from simulation.phantom.screen import Texts
from simulation.phantom.section import Exams, Section, make_exams
from simulation.phantom.severity import HYPERTROPHY_MIX, VASCULARITY_MIX, draw_patient, exact

PLAIN = Texts(patient="PH1", date="2024-01-01", joint="RT MCP2", annotated=False, calipers=None)
KINDS = ["MCP", "PIP", "DIP", "wrist"] * 2


def exams_of(device: Device, *, seed: int, roi_px: int = 224) -> Exams:
    severity = draw_patient(stream(seed, "severity"), joints=8)
    return make_exams(stream(seed, "exam"), severity, device, kinds=KINDS, texts=[PLAIN] * 8, roi_px=roi_px)


@pytest.fixture(scope="module")
def many() -> list[tuple[str, Exams]]:
    devices = (*FITTED, random_device(stream(3, "device")))
    return [(device.name, exams_of(device, seed=seed)) for device in devices for seed in range(4)]


def hypertrophy_of(section: Section) -> int:
    """Grade by the definition: nothing; up to the joint line; above it, concave or flat; above it, convex."""
    thick = section.lower_mm - section.upper_mm > section.mm_per_px / 4
    if not thick.any():
        return 0
    height = section.joint_line_mm - section.upper_mm
    if height[thick].max() <= 0:
        return 1
    above = np.flatnonzero(thick & (height > 0))
    start, width = above[0], above[-1] - above[0]
    left, middle, right = (height[start + round(width * share)] for share in (0.25, 0.5, 0.75))
    return 3 if middle - (left + right) / 2 > 0.03 else 2


def vascularity_of(section: Section) -> int:
    """Grade by the strict rule, from single and confluent spots and from the share of the area."""
    if not section.flow.any():
        return 0
    spots, count = label(section.flow, np.ones((3, 3)))
    areas = np.bincount(spots.ravel())[1:] * section.mm_per_px**2
    confluent = int((areas > flow.SINGLE_MM2).sum())
    single = count - confluent
    few = (confluent, single) in {(0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (1, 1), (1, 2)}
    if few and areas.max() <= flow.CONFLUENT_MM2:
        return 1
    return 2 if section.flow.sum() < 0.5 * section.synovium.sum() else 3


def test_hypertrophy_is_what_the_contour_says(many: list[tuple[str, Exams]]) -> None:
    for _, exams in many:
        for sections in (exams.grey_sections, exams.doppler_sections):
            assert [hypertrophy_of(s) for s in sections] == exams.severity.grades[0].tolist()


def test_vascularity_is_what_the_flow_says(many: list[tuple[str, Exams]]) -> None:
    for _, exams in many:
        found = [vascularity_of(section) for section in exams.doppler_sections]
        assert found == exams.severity.grades[1].tolist()


def test_flow_lies_inside_the_synovium_and_never_covers_about_half(many: list[tuple[str, Exams]]) -> None:
    for _, exams in many:
        for section, fraction in zip(exams.doppler_sections, exams.colour_fraction, strict=True):
            assert not (section.flow & ~section.synovium).any()
            assert not flow.UNDEFINED[0] <= fraction <= flow.UNDEFINED[1]


def test_no_synovium_no_flow(many: list[tuple[str, Exams]]) -> None:
    for _, exams in many:
        none = exams.severity.grades[0] == 0
        assert (exams.colour_fraction[none] == 0).all()
        assert not any(s.synovium.any() for s, empty in zip(exams.grey_sections, none, strict=True) if empty)


@pytest.mark.parametrize("area_mm2", [1.2, 2.0, 4.0, 20.0])
def test_the_drawn_share_leaves_out_the_undefined_middle(area_mm2: float) -> None:
    for severity in np.linspace(2, 3.999, 200):
        drawn = flow.share(float(severity), area_mm2=area_mm2)
        assert drawn < flow.UNDEFINED[0] if severity < 3 else drawn > flow.UNDEFINED[1]
        assert drawn * area_mm2 > flow.LARGEST_GRADE_1_MM2 or area_mm2 < 1.2


def test_grades_come_in_the_stated_mix() -> None:
    drawn = [draw_patient(stream(0, "mix", i), joints=8) for i in range(1500)]
    hypertrophy = np.concatenate([d.grades[0] for d in drawn])
    vascularity = np.concatenate([d.grades[1] for d in drawn])
    assert np.bincount(hypertrophy) / len(hypertrophy) == pytest.approx(HYPERTROPHY_MIX, abs=0.03)
    ill = vascularity[hypertrophy > 0]
    assert np.bincount(ill) / len(ill) == pytest.approx(VASCULARITY_MIX, abs=0.03)
    assert not vascularity[hypertrophy == 0].any()


def test_joints_of_a_patient_are_alike() -> None:
    drawn = np.array([draw_patient(stream(0, "alike", i), joints=8).hypertrophy for i in range(800)])
    between = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert 0.2 < between < 0.5


@pytest.mark.parametrize("device", FITTED, ids=lambda device: device.name)
def test_looks_are_those_measured(device: Device) -> None:
    rois = []
    for seed in range(10, 22):
        exams = exams_of(device, seed=seed)
        rois += [
            picture[y : y + h, x : x + w]
            for picture, (x, y, w, h) in zip(exams.grey, exams.grey_roi, strict=True)
        ]
    found, wanted = looks.measure(np.stack(rois)), looks.TABLE[device.name]
    assert found.mean == pytest.approx(wanted.mean, abs=6)
    assert found.spread == pytest.approx(wanted.spread, abs=6)
    assert found.low == pytest.approx(wanted.low, abs=6)
    assert found.median == pytest.approx(wanted.median, abs=8)
    assert found.high == pytest.approx(wanted.high, abs=14)


def test_a_fitted_tone_curve_gives_the_look() -> None:
    levels = stream(0, "levels").normal(-30, 10, 20_000)
    wanted = looks.TABLE["artus"]
    grey = np.interp(levels, TONE_DB, looks.fit_tone(levels, wanted))
    assert np.percentile(grey, [5, 50, 95]) == pytest.approx([wanted.low, wanted.median, wanted.high], abs=2)
    assert grey.mean() == pytest.approx(wanted.mean, abs=3)
    assert grey.std() == pytest.approx(wanted.spread, abs=3)


@pytest.mark.parametrize("seed", range(20))
def test_any_device_has_a_monotone_tone_and_a_plausible_spacing(seed: int) -> None:
    rng = stream(seed, "any")
    for device in (random_device(rng), jittered(FITTED[seed % 5], rng, name="other")):
        assert (np.diff(device.tone) >= 0).all()
        assert 0 <= device.tone[0] <= device.tone[-1] <= 255
        assert 0.06 <= device.mm_per_px <= 0.09


def test_wider_ranges_reach_beyond_what_was_measured_and_stay_what_a_machine_can_be() -> None:
    usual = [random_device(stream(seed, "spread")) for seed in range(200)]
    wide = [random_device(stream(seed, "spread"), spread=2.0) for seed in range(200)]
    for device in wide:
        MachineProfile(**{**asdict(device), "name": "any"})
        assert (np.diff(device.tone) >= 0).all()
    for name, low, high in (
        ("flow_threshold", 0.10, 0.38),
        ("standoff_mm", 0.2, 1.2),
        ("noise_db", -56, -46),
    ):
        assert all(low <= getattr(device, name) <= high for device in usual)
        outside = [not low <= getattr(device, name) <= high for device in wide]
        assert np.mean(outside) == pytest.approx(0.5, abs=0.12), "half of a range of twice the width"
    assert [device.doppler for device in wide] == [device.doppler for device in usual], "the same draws"


def test_a_cohort_without_a_spread_is_described_as_before_there_was_one() -> None:
    assert "spread" not in ShiftSettings(devices="drawn").model_dump()
    assert ShiftSettings(devices="drawn", spread=2.0).model_dump()["spread"] == 2.0
    for beyond in (0.9, 3.1):
        with pytest.raises(ValidationError):
            ShiftSettings(spread=beyond)


def test_higher_thresholds_show_less() -> None:
    low, high = (exams_of(device, seed=5) for device in (FITTED[0], FITTED[3]))
    assert high.shown_fraction.mean() < low.shown_fraction.mean() <= 1.0


def test_only_flow_is_saturated() -> None:
    """A saturation mask finds the flow: text, box and grey-scale stay below RATING's 0.40 in the region."""
    for device in FITTED:
        exams = make_exams(
            stream(1, "quiet"),
            exact(2.5, 0.5, joints=8),
            replace(device, colour_noise=0.0),
            kinds=KINDS,
            texts=[PLAIN] * 8,
        )
        for picture, (x, y, w, h) in zip(exams.doppler, exams.doppler_roi, strict=True):
            rgb = picture[y : y + h, x : x + w].astype(float)
            saturation = (rgb.max(-1) - rgb.min(-1)) / np.maximum(rgb.max(-1), 1)
            assert saturation.max() < 0.40


def test_flow_pulses_with_the_heart() -> None:
    speed = np.full((4, 4), 0.8, np.float32)
    assert flow.at_phase(speed, 0.0) == pytest.approx(speed)
    assert (flow.at_phase(speed, 0.5) < speed).all()
    assert flow.at_phase(speed, 1.0) == pytest.approx(speed)


def test_pictures_of_a_pair_are_nearly_aligned() -> None:
    exams = make_exams(
        stream(2, "pair"), exact(3.5, 0.5, joints=8), FITTED[0], kinds=KINDS, texts=[PLAIN] * 8
    )
    for grey, doppler in zip(exams.grey_sections, exams.doppler_sections, strict=True):
        overlap = (grey.synovium & doppler.synovium).sum() / (grey.synovium | doppler.synovium).sum()
        assert 0.5 < overlap < 1.0


def test_regions_of_interest_lie_in_the_picture() -> None:
    for roi_px in (64, 150):
        exams = exams_of(FITTED[4], seed=1, roi_px=roi_px)
        height, width = exams.grey.shape[1:]
        for x, y, w, h in (*exams.grey_roi, *exams.doppler_roi):
            assert w == h == roi_px
            assert 0 <= x <= width - w
            assert 0 <= y <= height - h


def _digest(index: int) -> str:
    patient: Patient = make_patient(11, "site-a", index, FITTED[0], exams=3, roi_px=96)
    parts = (patient.exams.grey, patient.exams.doppler, patient.hypertrophy, patient.vascularity)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_the_same_patient_is_made_in_every_process() -> None:
    here = [_digest(index) for index in range(3)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(_digest, [2, 0, 1]))
    assert [there[1], there[2], there[0]] == here
    assert len(set(here)) == 3
