"""Static and dynamic beside each other: on phantoms whose flow pulsates, and on such where it does not."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import synofed
from common import settings as settings_file
from common.evaluation.roc import auc
from common.imaging.doppler import flow_mask
from common.imaging.roi import stored_px
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.sections.cohort import ClipSettings
from common.sections.networks import ImageSettings, NetworkSettings
from common.sections.training import TrainingSettings
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local import score, train_network
from common.training.local_settings import LocalSettings
from simulation.cohorts import cohort as cohorts
from simulation.evaluation.blocks import modalities
from simulation.evaluation.trivial import SUMMARIES
from simulation.phantom.devices import FITTED
from simulation.phantom.patients import make_patient
from simulation.phantom.readers import EXPERIENCE

SMALL = Path(__file__).parents[3] / "configs" / "multimodal_small.toml"
FRAMES, PX = 8, 24
HIGH, LOW = 0.42, 0.05
STILL = NetworkSpec(name="still", images=("doppler",), target=Target(measurement="vascularity", threshold=1))
MOVING = STILL.model_copy(update={"name": "moving", "images": ("doppler_clip",), "clips": ("doppler_clip",)})


def _stored(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Luminance and flow of a region, small, with a margin as the store has it."""
    side, (x, y, width, height) = stored_px(PX), box
    part = picture[y : y + height, x : x + width]
    flow = Image.fromarray(flow_mask(part, saturation=0.4)).resize((side, side), Image.Resampling.BOX)
    return np.stack([np.asarray(Image.fromarray(part).convert("L").resize((side, side))), np.asarray(flow)])


@cache
def exams(threshold: float, pulsatility: float, first: int, patients: int) -> ExamTensors:
    """Doppler stills and clips of phantom joints with hypertrophy on a machine with this threshold, and the truth."""
    device = replace(FITTED[3], flow_threshold=threshold, colour_noise=0.05)
    settings = ClipSettings(frames=FRAMES, pulsatility=pulsatility, flash=0.0)
    stills, clips, grades, owners = [], [], [], []
    for index in range(first, first + patients):
        made = make_patient(11, "site", index, device, exams=6, roi_px=64, severity=0.8, clips=settings)
        assert made.clips is not None
        for joint in np.flatnonzero(made.exams.severity.hypertrophy >= 1):
            stills.append(_stored(made.exams.doppler[joint], made.exams.doppler_roi[joint]))
            box = made.clips.doppler_roi[joint]
            clips.append(np.stack([_stored(frame, box) for frame in made.clips.doppler[joint]]))
            grades.append(int(made.exams.severity.grades[1][joint]))
            owners.append(index)
    return ExamTensors(
        images={
            "doppler": torch.from_numpy(np.stack(stills)),
            "doppler_clip": torch.from_numpy(np.stack(clips)),
        },
        grades={"vascularity": torch.tensor(grades, dtype=torch.int8)},
        fold=torch.zeros(len(grades), dtype=torch.int8),
        patient=torch.tensor(owners, dtype=torch.int32),
    )


def amounts(data: ExamTensors) -> tuple[np.ndarray, np.ndarray]:
    """Share of flow of the stills, and the third largest over each clip."""
    still, clip = (data.images[name].float()[..., 1, :, :].mean((-1, -2)).numpy() for name in data.images)
    return still, SUMMARIES["third"](clip.astype(np.float64))


def advantage(threshold: float, pulsatility: float) -> float:
    """Area of vascularity above 1 by the clip's share of flow, less that by the still's."""
    data = exams(threshold, pulsatility, 0, 40)
    still, clip = amounts(data)
    above = data.grades["vascularity"].numpy() > 1
    return auc(clip, above) - auc(still, above)


@pytest.mark.soak
@pytest.mark.ci
def test_without_a_network_a_clip_beats_a_still_where_the_threshold_is_high() -> None:
    assert advantage(HIGH, 0.35) > 0.02


@pytest.mark.soak
def test_it_does_not_where_the_threshold_is_low_or_nothing_pulsates() -> None:
    assert abs(advantage(LOW, 0.35)) < 0.01
    assert abs(advantage(HIGH, 0.0)) < 0.01


def network_area(spec: NetworkSpec, threshold: float, pulsatility: float) -> float:
    kind = ImageSettings(kind="doppler")
    local = LocalSettings(
        spec=spec,
        images={"doppler": kind, "doppler_clip": kind.model_copy(update={"frames": FRAMES})},
        network=NetworkSettings(backbone="small", image_px=PX, width=4),
        training=TrainingSettings(
            batch_size=32, local_steps=120, learning_rate=6e-3, schedule="constant", augmentation=None
        ),
        rounds=1,
    )
    data, asked = exams(threshold, pulsatility, 100, 50), exams(threshold, pulsatility, 0, 40)
    local = replace(local, spec=spec.model_copy(update={"fold": 1}))
    weights = build.initial_weights(spec, local.network, seed=3)
    trained = weights + train_network(weights, {}, data, local, 1, 0)[0].update
    found = score(trained, asked, torch.arange(len(asked)), local)[:, 1].numpy()
    return auc(found, asked.grades["vascularity"].numpy() > 1)


@pytest.mark.soak
def test_so_it_is_with_tiny_networks_of_one_start() -> None:
    gained = network_area(MOVING, HIGH, 0.35) - network_area(STILL, HIGH, 0.35)
    without = network_area(MOVING, HIGH, 0.0) - network_area(STILL, HIGH, 0.0)
    assert gained > 0.01
    assert gained > without
    assert abs(without) < 0.03


TINY = [
    "network.image_px=32", "network.width=4", "federation.rounds=2", "training.local_steps=2", "rating.folds=2",
    "cohort.phantom.sites=2", "cohort.phantom.patients=24", "cohort.phantom.exams_per_patient=2",
    "cohort.phantom.image_px=64", "cohort.phantom.clips.frames=4", "images.gs_clip.frames=3",
    "images.doppler_clip.frames=6", "evaluate.bootstrap=100",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A tiny campaign over clips, from phantoms to tables."""
    base = tmp_path_factory.mktemp("multimodal")
    settings = settings_file.load(SMALL, overrides=TINY)
    assert settings.cohort is not None and settings.cohort.phantom is not None
    cohorts.make(settings.cohort.phantom, seed=1, out=base / "cohort", workers=1)
    overrides = [*TINY, settings_file.of_folder(base / "cohort")]
    synofed.simulate(SMALL, out=base / "one", overrides=overrides)
    return base, settings


@pytest.mark.soak
@pytest.mark.ci
def test_a_campaign_over_clips_is_the_same_each_time_and_is_evaluated_anew_alike(
    run: tuple[Path, Settings],
) -> None:
    base, _ = run
    overrides = [*TINY, settings_file.of_folder(base / "cohort")]
    synofed.simulate(SMALL, out=base / "other", overrides=overrides)
    one, other = (pd.read_parquet(base / name / "predictions.parquet") for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other)
    one, other = (
        json.loads((base / name / "metrics.json").read_text(encoding="utf-8")) for name in ("one", "other")
    )
    assert one["modalities"] == other["modalities"]
    before = (base / "other" / "metrics.json").read_bytes()
    (base / "other" / "metrics.json").unlink()
    synofed.simulate(SMALL, out=base / "other", overrides=overrides, resume=True)
    assert (base / "other" / "metrics.json").read_bytes() == before


@pytest.mark.soak
@pytest.mark.ci
def test_tables_have_both_cohorts_every_network_and_twelve_readers(run: tuple[Path, Settings]) -> None:
    base, settings = run
    block = json.loads((base / "one" / "metrics.json").read_text(encoding="utf-8"))["modalities"]
    for cohort, exams in (("seen", 48), ("unseen", 48)):
        found = block[cohort]
        assert found["exams"] <= exams
        assert list(found["networks"]) == list(settings.images)
        for network in found["networks"].values():
            assert len(network["icc"]) == 12 and len(network["grades"]) == 4 and len(network["above"]) == 3
        assert len(found["pairs"]) == 6
        assert set(found["without_network"]) == {
            "doppler area",
            *(f"doppler_clip {name}" for name in SUMMARIES),
        }
    text = (base / "one" / "report_tables.md").read_text(encoding="utf-8")
    for name in ("SGS", "DGS", "SPD", "DPD", "senior", "junior", "0.82"):
        assert name in text


@pytest.mark.soak
@pytest.mark.ci
def test_readers_with_more_experience_agree_more(run: tuple[Path, Settings]) -> None:
    _, settings = run
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 4, 400)
    frame = pd.DataFrame(
        {"truth_hypertrophy": truth, "truth_vascularity": np.minimum(truth, rng.integers(0, 4, 400))}
    )
    found = modalities._readers(frame, settings, 3)
    right = {
        level: np.mean([(found[f"{level}-{i}"] == truth).mean() for i in range(1, 5)]) for level in EXPERIENCE
    }
    assert right["senior"] > right["intermediate"] > right["junior"]
