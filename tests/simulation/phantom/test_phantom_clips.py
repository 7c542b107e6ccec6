from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.sections.cohort import ClipSettings, PhantomSettings
from simulation.phantom.anatomy import contours, draw_joints
from simulation.phantom.clips import BEATS_PER_MINUTE, CYCLES, Clips, make_clips
from simulation.phantom.devices import FITTED, Device
from simulation.phantom.folders import CLIPS, MANIFEST, Job, write_patient, write_site
from simulation.phantom.patients import make_patient
from simulation.phantom.random import stream
from simulation.phantom.screen import Texts
from simulation.phantom.section import make_exams
from simulation.phantom.severity import exact
from simulation.phantom.shifts import SiteShift
from tests.site_folders import read_table

PLAIN = Texts(patient="PH1", date="2024-01-01", joint="RT MCP2", annotated=False, calipers=None)
STILL = ClipSettings(jitter_mm=0, flash=0, pressure=0)


def clips(device: Device, settings: ClipSettings, *, vascularity: float = 3.5, joints: int = 4) -> Clips:
    severity = exact(3.5, vascularity, joints=joints)
    made = make_exams(
        stream(1, "exam"), severity, device, kinds=["MCP"] * joints, texts=[PLAIN] * joints, roi_px=96
    )
    return make_clips(stream(1, "clips"), made.scene, settings)


def coloured(frames: np.ndarray) -> np.ndarray:
    """Pixels that are coloured in each frame of Doppler clips, the colour bar left out."""
    inside = frames[..., 10:, 10:, :].astype(np.int64)
    return np.asarray((inside.max(-1) - inside.min(-1) > 80).sum(axis=(-1, -2)))


def test_clips_change_no_still() -> None:
    without = make_patient(5, "site-a", 3, FITTED[0], exams=3, roi_px=96)
    moving = make_patient(5, "site-a", 3, FITTED[0], exams=3, roi_px=96, clips=ClipSettings(frames=4))
    assert (without.exams.grey == moving.exams.grey).all()
    assert (without.exams.doppler == moving.exams.doppler).all()
    assert without.exams.grey_roi == moving.exams.grey_roi
    assert moving.clips is not None and moving.clips.grey.shape[:2] == (3, 4)


def test_a_clip_is_the_same_whenever_it_is_made() -> None:
    first, second = clips(FITTED[0], ClipSettings()), clips(FITTED[0], ClipSettings())
    assert (first.doppler == second.doppler).all() and (first.grey == second.grey).all()


def test_flow_is_most_at_systole_and_a_high_threshold_loses_it_in_diastole() -> None:
    high = replace(FITTED[0], flow_threshold=0.40, colour_noise=0.0)
    found = clips(high, STILL)
    late = np.minimum(found.phase, 1 - found.phase)
    assert found.shown[late < 0.07].min() > 0.8
    assert found.shown[late > 0.45].max() < 0.2
    assert found.most_shown.min() > 0.8
    steady = clips(high, STILL.model_copy(update={"pulsatility": 0.0}))
    assert np.ptp(steady.shown, axis=1).max() < 0.05


def test_two_heart_cycles_at_a_frame_rate_of_the_heart() -> None:
    found = clips(FITTED[0], ClipSettings(frames=12))
    beats = found.frame_rate / (12 / CYCLES) * 60
    assert ((beats >= BEATS_PER_MINUTE[0]) & (beats <= BEATS_PER_MINUTE[1])).all()
    np.testing.assert_allclose(np.diff(found.phase, axis=1) % 1, CYCLES / 12)


def test_noise_is_uncorrelated_in_time_and_tissue_is_not() -> None:
    found = clips(replace(FITTED[0], noise_db=-20.0), STILL.model_copy(update={"pulsatility": 0.0}))
    frames = found.grey[0, :, 20:].astype(np.float64)
    residuals = frames - frames.mean(axis=0)
    rows = residuals.reshape(len(frames), -1)
    between = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    assert np.abs(residuals).mean() > 0.5
    # What is left of n frames without their mean correlates by -1 / (n - 1) if it is independent.
    np.testing.assert_allclose(between, -1 / (len(frames) - 1), atol=0.03)
    assert np.corrcoef(frames[0].ravel(), frames[8].ravel())[0, 1] > 0.9


def test_the_view_jitters_with_its_tissue_and_its_flow() -> None:
    def movement(settings: ClipSettings) -> float:
        frames = clips(FITTED[0], settings).grey.astype(np.float64)
        return float(np.abs(np.diff(frames, axis=1)).mean())

    assert movement(STILL.model_copy(update={"jitter_mm": 0.2})) > 3 * movement(STILL)
    calm = replace(FITTED[0], colour_noise=0.0)
    jittered = clips(calm, STILL.model_copy(update={"jitter_mm": 0.2, "pulsatility": 0.0}))
    assert np.ptp(jittered.shown, axis=1).max() < 0.05


@pytest.mark.soak
def test_a_flash_colours_one_frame_or_two_of_some_clips() -> None:
    calm = replace(FITTED[0], colour_noise=0.0)
    found = clips(calm, STILL.model_copy(update={"flash": 1.0}), vascularity=0.5)
    count = found.flash.sum(axis=1)
    assert ((count >= 1) & (count <= 2)).all()
    area = coloured(found.doppler)
    assert area[found.flash].min() > 200
    assert not clips(calm, STILL).flash.any()
    some = clips(calm, ClipSettings(frames=2, flash=0.25), joints=200).flash.any(axis=1).mean()
    assert 0.15 < some < 0.35


@pytest.mark.parametrize("hypertrophy", [0.5, 2.5])
def test_pressure_flattens_an_effusion_and_no_synovium(hypertrophy: float) -> None:
    joints = draw_joints(stream(0, "joints"), exact(hypertrophy, 0.5, joints=40), kinds=["MCP"] * 40)
    x = np.tile(np.linspace(-8, 8, 161), (40, 1))
    free, pressed = contours(joints, x), contours(replace(joints, squeezed=np.full(40, 0.7)), x)
    before, after = free.synovium - free.effusion, pressed.synovium - pressed.effusion
    assert (free.synovium == pressed.synovium).all()
    effused = before.max(axis=1) > 0
    assert effused.any()
    np.testing.assert_allclose(after, 0.3 * before, atol=1e-12)


def test_the_probe_presses_in_the_middle_of_a_grey_scale_clip() -> None:
    found = clips(FITTED[0], ClipSettings())
    assert (found.pressure.argmax(axis=1) == 8).all() and (found.pressure[:, 0] == 0).all()


def test_clips_lie_in_a_site_as_a_hospital_has_them(tmp_path: Path) -> None:
    settings = PhantomSettings(image_px=64, exams_per_patient=2, clips=ClipSettings(frames=5))
    (tmp_path / "images").mkdir()
    job = Job(
        seed=1, settings=settings, site="site-a", trains=True, index=0, exams=2, device=FITTED[0], folder=tmp_path,
        shift=SiteShift(patients=1),
    )  # fmt: skip
    write_site(tmp_path, "site-a", [write_patient(job)])
    rows = read_table(tmp_path / "manifest.csv")
    assert tuple(rows[0])[: len(MANIFEST)] == MANIFEST
    patient = make_patient(1, "site-a", 0, FITTED[0], exams=2, roi_px=64, clips=settings.clips)
    assert patient.clips is not None
    for row, grey, doppler in zip(rows, patient.clips.grey, patient.clips.doppler, strict=True):
        for image, frames in zip(CLIPS, (grey, doppler), strict=True):
            assert row[f"{image}_frames"] == "5" and 5 / 2 <= float(row[f"{image}_frame_rate"]) <= 15 / 4
            with Image.open(tmp_path / row[f"{image}_path"]) as stored:
                assert getattr(stored, "n_frames", 1) == 5
                for number, frame in enumerate(frames):
                    stored.seek(number)
                    assert (np.asarray(stored) == frame).all()


@pytest.mark.soak
def test_readers_of_a_cohort_with_clips_grade_what_they_saw_move() -> None:
    high = replace(FITTED[0], flow_threshold=0.45)
    still, moving = (
        np.concatenate([
            make_patient(2, "site-a", i, high, exams=8, roi_px=64, clips=c).vascularity.ravel() for i in range(12)
        ])
        for c in (None, ClipSettings(frames=8))
    )  # fmt: skip
    assert moving.sum() > still.sum()
