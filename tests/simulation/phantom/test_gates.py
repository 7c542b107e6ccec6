"""Can the paper's questions be asked of the phantom? Looked at before anything is trained.

How often one scoring model votes an impossible pair is known after training only, and not held here.
"""

import numpy as np
import pytest
from scipy.stats import pearsonr

from common.evaluation import trivial
from simulation.phantom.anatomy import draw_joints
from simulation.phantom.devices import FITTED
from simulation.phantom.random import stream
from simulation.phantom.screen import Layout
from simulation.phantom.severity import draw_patient
from simulation.phantom.view import SHIFT_MM, View
from tests.marks import SOAK_CI
from tests.simulation.phantom.probes import (
    Sample,
    linear_auc,
    network_auc,
    puzzles_solved_from_depth,
    sample,
)

HIDDEN_AUC = 0.65


SIZES = [
    pytest.param((45, 112), id="112px", marks=SOAK_CI),
    pytest.param((160, 224), id="224px", marks=pytest.mark.soak),
]
"""Patients of each machine, and pixels: small, and as cohorts are made."""


@pytest.fixture(scope="module", params=SIZES)
def exams(request: pytest.FixtureRequest) -> Sample:
    patients, roi_px = request.param
    return sample(patients=patients, roi_px=roi_px)


def test_grey_scale_under_doppler_hides_hypertrophy_from_a_linear_reader(exams: Sample) -> None:
    quiet = exams.vascularity == 0
    ill, tried = exams.hypertrophy[quiet] > 1, exams.tried[quiet]
    assert linear_auc(exams.doppler[quiet], ill, tried) < HIDDEN_AUC
    assert linear_auc(exams.grey[quiet], ill, tried) > HIDDEN_AUC + 0.05  # the probe can read


@pytest.mark.soak
def test_grey_scale_under_doppler_hides_hypertrophy_from_a_network() -> None:
    exams = sample(patients=160, roi_px=224)
    quiet = exams.vascularity == 0
    ill, tried = exams.hypertrophy[quiet] > 1, exams.tried[quiet]
    # It ends at 0.64 to 0.66, by how the machine rounds: the limit is reached, and not held with room (README).
    assert network_auc(exams.doppler[quiet], ill, tried, steps=700) < HIDDEN_AUC + 0.02
    assert network_auc(exams.grey[quiet], ill, tried, steps=700) > 0.85


def test_counting_coloured_pixels_does_not_grade_vascularity(exams: Sample) -> None:
    cuts = trivial.tuned_cuts(exams.coloured[~exams.tried], exams.label[~exams.tried], grades=4)
    graded = trivial.graded(exams.coloured[exams.tried], cuts)
    commonest = (exams.vascularity[exams.tried] == 0).mean()
    assert commonest < (graded == exams.vascularity[exams.tried]).mean() <= 0.85


def test_puzzles_are_not_solved_from_depth(exams: Sample) -> None:
    assert 0.2 < puzzles_solved_from_depth(exams.grey, exams.tried, steps=1500) < 0.90


def test_some_joints_without_hypertrophy_show_flow(exams: Sample) -> None:
    healthy = exams.hypertrophy == 0
    shown = exams.coloured >= 3  # of 64 x 64 pixels: more than a false speck
    assert 0.05 <= shown[healthy].mean() <= 0.10
    assert exams.flow_outside[healthy & shown].mean() > 0.95
    assert 0.05 <= shown[~healthy & (exams.vascularity == 0)].mean() <= 0.13


def test_synovial_area_varies_threefold_within_a_grade(exams: Sample) -> None:
    small, large = np.percentile(exams.area_mm2[exams.hypertrophy == 3], [5, 95])
    assert large > 3 * small


def test_hypertrophy_and_vascularity_go_together() -> None:
    drawn = [draw_patient(stream(0, "couple", i), joints=8) for i in range(1500)]
    hypertrophy, vascularity = (
        np.concatenate([getattr(d, name) for d in drawn]) for name in ("hypertrophy", "vascularity")
    )
    ill = hypertrophy >= 1
    assert pearsonr(hypertrophy[ill], vascularity[ill])[0] == pytest.approx(0.4, abs=0.05)


def test_the_doppler_picture_is_of_a_section_beside() -> None:
    rng = stream(0, "beside")
    joints = draw_joints(rng, draw_patient(rng, joints=40), kinds=["MCP"] * 40)
    first = View.hold(rng, joints, FITTED[0], Layout(roi=224))
    second = first.for_doppler(rng)
    shift_mm = np.abs(second.centre_px - first.centre_px) * first.device.mm_per_px
    assert (shift_mm >= SHIFT_MM[0] - 1e-9).all()
    assert (shift_mm <= SHIFT_MM[1] + 1e-9).all()
    assert (second.joints.hypertrophy == joints.hypertrophy).all()
    assert (second.joints.fullness != joints.fullness).all()
