import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from client.ensemble import scoring
from common.ensemble.committee import Committee
from common.ensemble.explained import explained
from common.ensemble.heatmaps import HeatmapSettings
from common.errors import ConfigurationError, DataError
from common.exam import ImageRef, Roi
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.methods.stages import NetworkResult, networks
from common.networks.build import initial_weights
from common.networks.spec import NetworkSpec, Target
from common.sections.cohort import PhantomSettings
from common.settings import Settings, parse
from common.text.terminal import Console
from simulation.cohorts import cohort
from simulation.engine.grid import Workers
from simulation.engine.progress import Display
from simulation.evaluation import heatmap_truth, heatmaps
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

FEW = HeatmapSettings(steps=3, noisy_copies=2)
ROI = Roi(x=6, y=4, width=30, height=28)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny convolutions wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(log: io.StringIO) -> Display:
    return Display(Console(file=log, width=200))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site_folder(tmp_path_factory.mktemp("pictures") / "north", patients=2, exams_per_patient=1)


def settings(folder: Path) -> Settings:
    return parse(CONFIG.format(folder=folder), overrides=['rating.fusion="joint"'])


def untrained(chosen: Settings) -> Committee:
    result = NetworkResult(best_round=1, auc=0.5, threshold=0.5)
    return network_files.committee(
        [
            TrainedNetwork(spec=s, result=result, weights=initial_weights(s, chosen.network, seed=i).numpy())
            for i, s in enumerate(networks(chosen).values())
        ],
        chosen,
    )


def refs(site: Path, roi: Roi | None = ROI) -> dict[str, ImageRef]:
    return {
        name: ImageRef(path=str(next((site / "images").glob(f"*_{name}.png"))), roi=roi)
        for name in ("gs", "doppler")
    }


def write(
    committee: Committee, pictures: dict[str, ImageRef], folder: Path, display: Display
) -> dict[str, np.ndarray]:
    scores = scoring.score_exam(committee, pictures)
    files = heatmaps.write(committee, pictures, scores, folder=folder, settings=FEW, display=display)
    shown = {}
    for path in files:
        with Image.open(path) as image:
            shown[path.name] = np.asarray(image)
    return shown


def test_an_exam_gets_a_picture_an_image_and_the_reading_panel(
    site: Path, tmp_path: Path, display: Display, log: io.StringIO
) -> None:
    committee = untrained(settings(site))
    shown = write(committee, refs(site), tmp_path / "new" / "folder", display)
    assert sorted(shown) == ["doppler.png", "gs.png", "reading.png"]
    for name in ("gs", "doppler"):
        with Image.open(refs(site)[name].path) as image:
            region = np.asarray(image.convert("RGB"))[4:32, 6:36].astype(int)
        change = shown[f"{name}.png"].astype(int) - region
        assert shown[f"{name}.png"].shape == (28, 30, 3)
        assert (change[..., :2] >= 0).all()  # yellow: more red and green, less blue
        assert (change[..., 2] <= 0).all()
        assert change.any()
    assert shown["reading.png"].shape[1] > 2 * 400
    # Two folds, one replica: two networks for hypertrophy > 0, said before they are asked.
    assert log.getvalue().startswith(
        "Heatmaps: 2 networks x 3 steps x 2 copies = 12 passes of 2 pictures per exam"
    )


@pytest.mark.soak
def test_the_same_exam_gives_the_same_files(site: Path, tmp_path: Path, display: Display) -> None:
    committee = untrained(settings(site))
    first = write(committee, refs(site), tmp_path / "a", display)
    again = write(committee, refs(site), tmp_path / "b", display)
    for name, picture in first.items():
        assert np.array_equal(picture, again[name]), name


def test_without_roi_the_whole_picture_is_shown(site: Path, tmp_path: Path, display: Display) -> None:
    shown = write(untrained(settings(site)), refs(site, roi=None), tmp_path, display)
    assert shown["gs.png"].shape == (40, 48, 3)


class Redness(nn.Module):
    """Looks at one image, and only at how much redder than green it is: where flow is painted."""

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        (picture,) = pictures
        redness = (picture[:, 0] - picture[:, 1]).mean((1, 2))
        return torch.stack([-redness, redness], dim=1)


def looks_at_flow(chosen: Settings) -> Committee:
    target = Target(measurement="hypertrophy", threshold=0)
    return Committee(
        specs=(NetworkSpec(name="flow", images=("doppler",), target=target),),
        modules=(Redness(),),
        thresholds=(0.5,),
        settings=chosen,
    )


def test_an_image_that_is_not_read_has_no_heatmap(site: Path, tmp_path: Path, display: Display) -> None:
    chosen = settings(site)
    scores = scoring.score_exam(untrained(chosen), refs(site))
    files = heatmaps.write(
        looks_at_flow(chosen), refs(site), scores, folder=tmp_path, settings=FEW, display=display
    )
    assert [path.name for path in files] == ["doppler.png", "reading.png"]


def test_a_folder_that_cannot_be_written_is_said(site: Path, tmp_path: Path, display: Display) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        write(untrained(settings(site)), refs(site), tmp_path / "taken", display)


def test_a_method_without_such_networks_is_said(site: Path) -> None:
    chosen = settings(site)
    grades = Target(measurement="hypertrophy", kind="nominal", threshold=None, classes=4)
    spec = NetworkSpec(name="grades", images=("doppler",), target=grades)
    committee = Committee(specs=(spec,), modules=(Redness(),), thresholds=(0.5,), settings=chosen)
    with pytest.raises(ConfigurationError, match="gives no heatmaps"):
        explained(committee)


def test_cost_grows_with_exams_networks_steps_and_copies(site: Path) -> None:
    networks_of = explained(untrained(settings(site)))
    pictures = [torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)]
    paper = heatmaps.cost(networks_of, pictures, HeatmapSettings(), exams=3)
    assert paper.passes == 2 * 50 * 8
    assert 0 < paper.seconds < 600
    assert "800 passes of 2 pictures per exam; 3 exams take about" in str(paper)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> cohort.Cohort:
    out = tmp_path_factory.mktemp("phantoms") / "cohort"
    small = PhantomSettings(sites=2, patients=6, exams_per_patient=4, image_px=64, unseen_device=True)
    return cohort.make(small, seed=5, out=out, workers=1)


@pytest.fixture(scope="module")
def predictions(phantoms: cohort.Cohort) -> pd.DataFrame:
    """All exams as if held out, each decided as it is."""
    parts = []
    for site in phantoms.sites:
        table = pd.read_csv(site.folder / "truth.csv").merge(pd.read_csv(site.folder / "manifest.csv"))
        grades = {f"truth_{n}": table[n] for n in ("hypertrophy", "vascularity")}
        decided = {
            name.replace("truth", column): values
            for column in ("decision", "majority")
            for name, values in grades.items()
        }
        decided |= {name.replace("truth", "vote") + "_0": values for name, values in grades.items()}
        known = table[["exam_id", "patient_id"]].assign(site=site.name, trained_site=site.trains, tie=False)
        parts.append(known.assign(**grades, **decided))
    return pd.concat(parts, ignore_index=True)


def trial(
    folder: Path, phantoms: cohort.Cohort, predictions: pd.DataFrame, display: Display, *, exams: int = 50
) -> dict[str, object]:
    chosen = settings(phantoms.folder)
    chosen = chosen.model_copy(update={"network": chosen.network.model_copy(update={"image_px": 32})})
    with Workers(("cpu", "cpu"), threads=1) as places:
        return heatmap_truth.write(
            folder,
            looks_at_flow(chosen),
            predictions,
            phantoms,
            exams=exams,
            settings=HeatmapSettings(steps=3, noisy_copies=2, noise_sigma=0.1),
            places=places,
            display=display,
        )


def test_a_network_that_looks_at_flow_looks_at_the_synovium(
    phantoms: cohort.Cohort, predictions: pd.DataFrame, tmp_path: Path, display: Display
) -> None:
    flowing = predictions[predictions["truth_vascularity"] > 1]
    found = trial(tmp_path, phantoms, flowing, display)
    seen = flowing[flowing["trained_site"]]
    assert found["exams"] == len(seen)
    assert found["patients"] == seen.groupby(["site", "patient_id"]).ngroups
    assert found["measurement"] == "hypertrophy"
    images = found["images"]
    assert isinstance(images, dict)
    (doppler,) = images.values()
    assert doppler["inside"]["value"] > 5 * doppler["chance"]["value"] > 0
    assert doppler["inside"]["value"] > 0.5
    assert doppler["inside_minus_chance"]["ci95"][0] > 0
    assert doppler["inside"]["value"] > doppler["shuffled"]["value"]
    json.dumps(found, allow_nan=False)


def test_exams_are_of_many_patients_and_examples_are_kept(
    phantoms: cohort.Cohort, predictions: pd.DataFrame, tmp_path: Path, display: Display
) -> None:
    found = trial(tmp_path, phantoms, predictions, display, exams=5)
    assert (found["exams"], found["patients"]) == (5, 5)
    examples = json.loads((tmp_path / "figures" / "heatmaps" / "examples.json").read_text())
    assert len(examples) == 4
    assert all(example["reference"]["hypertrophy"] > 0 for example in examples)
    assert list(examples[0]["pictures"]) == ["gs", "doppler", "doppler-heatmap"]
    assert {name: len(votes) for name, votes in examples[0]["votes"].items()} == {
        name: sum(column.startswith(f"vote_{name}_") for column in predictions)
        for name in ("hypertrophy", "vascularity")
    }
    for name, outlined in {"doppler": False, "doppler-heatmap": True}.items():
        with Image.open(tmp_path / "figures" / "heatmaps" / examples[0]["pictures"][name]) as image:
            shown = np.asarray(image)
        assert shown.shape == (64, 64, 3)
        assert (shown == heatmap_truth.OUTLINE).all(axis=2).any() == outlined
    again = trial(tmp_path, phantoms, predictions, display, exams=5)
    assert {**found, "seconds": 0} == {**again, "seconds": 0}


def test_what_cannot_be_compared_is_said(
    phantoms: cohort.Cohort, predictions: pd.DataFrame, tmp_path: Path, display: Display
) -> None:
    healthy = predictions[predictions["truth_hypertrophy"] == 0]
    with pytest.raises(DataError, match="held-out exams with synovium"):
        trial(tmp_path, phantoms, healthy, display)
    nameless = predictions.drop(columns=["truth_hypertrophy", "truth_vascularity"])
    with pytest.raises(DataError, match="Expected the truth"):
        trial(tmp_path, phantoms, nameless, display)
