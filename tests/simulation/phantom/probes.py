"""What can be read of phantoms without looking: probes that must not answer the questions of a study.

Pictures are read at 64 px. Everything is learnt from two thirds of the patients and tried on the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from common.imaging import jigsaw
from common.imaging.doppler import flow_mask
from common.networks.backbones import SmallResNet, initialise
from common.sections.methods import JigsawSettings
from simulation.phantom.devices import FITTED
from simulation.phantom.patients import Patient, make_patient

EXAMS = 8
READ_PX = 64
PUZZLES = JigsawSettings(image_px=66, tile_px=18, permutations=100)
Pictures = Float32[np.ndarray, "exams px px"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Exams of all measured machines.

    Attributes:
        grey: regions of interest, 0-1.
        doppler: the same, black where there is colour.
        coloured: number of coloured pixels.
        hypertrophy: true grades.
        vascularity: true grades.
        label: the readers' consensus on vascularity.
        flow_outside: whether flow outside the synovium is shown.
        area_mm2: of the synovium in the Doppler picture.
        tried: exams that are not learnt from.
    """

    grey: Pictures
    doppler: Pictures
    coloured: Int64[np.ndarray, " exams"]
    hypertrophy: Int64[np.ndarray, " exams"]
    vascularity: Int64[np.ndarray, " exams"]
    label: Int64[np.ndarray, " exams"]
    flow_outside: Bool[np.ndarray, " exams"]
    area_mm2: Float[np.ndarray, " exams"]
    tried: Bool[np.ndarray, " exams"]


@lru_cache(maxsize=2)  # the network reads the same sample as the others
def sample(*, patients: int, roi_px: int) -> Sample:
    """So many patients of each measured machine; their pictures are let go one patient after the other."""
    parts = [
        _part(make_patient(7, f"site-{number}", index, device, exams=EXAMS, roi_px=roi_px))
        for number, device in enumerate(FITTED)
        for index in range(patients)
    ]
    return Sample(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Sample)}
    )


def _part(patient: Patient) -> Sample:
    exams, grades = patient.exams, patient.exams.severity.grades
    grey, doppler, coloured = _regions(patient)
    return Sample(
        grey=grey,
        doppler=doppler,
        coloured=coloured,
        hypertrophy=grades[0],
        vascularity=grades[1],
        label=np.median(patient.vascularity, axis=0).astype(np.int64),
        flow_outside=exams.flow_outside,
        area_mm2=np.array(
            [section.synovium.sum() * section.mm_per_px**2 for section in exams.doppler_sections]
        ),
        tried=np.full(EXAMS, patient.index % 3 == 0),
    )


def _regions(patient: Patient) -> tuple[Pictures, Pictures, Int64[np.ndarray, " exams"]]:
    exams, grey, doppler, counts = patient.exams, [], [], []
    for i in range(EXAMS):
        shown = _cut(exams.doppler[i], exams.doppler_roi[i])
        mask = flow_mask(np.asarray(shown), saturation=0.4)
        coloured = _resized(Image.fromarray(mask)) > 0.5
        doppler.append(np.where(coloured, np.float32(0), _resized(shown.convert("L"))))
        grey.append(_resized(_cut(exams.grey[i], exams.grey_roi[i])))
        counts.append(int(coloured.sum()))
    return np.stack(grey), np.stack(doppler), np.array(counts)


def _cut(picture: np.ndarray, roi: tuple[int, int, int, int]) -> Image.Image:
    x, y, width, height = roi
    return Image.fromarray(picture).crop((x, y, x + width, y + height))


def _resized(picture: Image.Image) -> Float32[np.ndarray, "px px"]:
    resized = picture.resize((READ_PX, READ_PX), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32) / np.float32(255)


def linear_auc(
    pictures: Pictures, positive: Bool[np.ndarray, " exams"], tried: Bool[np.ndarray, " exams"]
) -> float:
    """AUC of a logistic regression on the means of 16 x 16 fields."""
    fields = F.avg_pool2d(torch.from_numpy(pictures)[:, None], READ_PX // 16).flatten(1).numpy()
    fields = (fields - fields[~tried].mean()) / fields[~tried].std()
    model = LogisticRegression(C=0.01, max_iter=300, class_weight="balanced")
    model.fit(fields[~tried], positive[~tried])
    return float(roc_auc_score(positive[tried], model.decision_function(fields[tried])))


def network_auc(
    pictures: Pictures, positive: Bool[np.ndarray, " exams"], tried: Bool[np.ndarray, " exams"], *, steps: int
) -> float:
    """AUC of the product's small backbone, width 8, trained on balanced batches of 64 that are shifted at random."""
    generator = torch.Generator().manual_seed(0)
    read = torch.from_numpy((pictures - pictures.mean()) / pictures.std())[:, None].expand(-1, 3, -1, -1)
    backbone = SmallResNet(8)
    network = nn.Sequential(backbone, nn.Linear(backbone.features, 1))
    initialise(network, generator)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    classes = [torch.from_numpy(np.flatnonzero(~tried & (positive == wanted))) for wanted in (True, False)]
    wanted = torch.cat([torch.ones(32), torch.zeros(32)])
    for _ in range(steps):
        chosen = [one[torch.randint(len(one), (32,), generator=generator)] for one in classes]
        by = torch.randint(-6, 7, (2,), generator=generator).tolist()
        logits = network(torch.roll(read[torch.cat(chosen)], by, (2, 3)))
        loss = F.binary_cross_entropy_with_logits(logits.flatten(), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.inference_mode():
        scores = network(read[torch.from_numpy(tried)]).flatten().numpy()
    return float(roc_auc_score(positive[tried], scores))


def puzzles_solved_from_depth(pictures: Pictures, tried: Bool[np.ndarray, " exams"], *, steps: int) -> float:
    """Share of puzzles that a perceptron names from the nine tiles' depth profiles, each averaged across the beam."""
    generator = torch.Generator().manual_seed(0)
    profiles = torch.cat([_profiles(pictures[~tried], generator) for _ in range(3)])
    orders, size = jigsaw.permutations(PUZZLES.permutations), PUZZLES.tile_px
    network = nn.Sequential(
        nn.Linear(9 * size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, len(orders))
    )
    initialise(network, generator)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)

    def asked(of: Tensor) -> tuple[Tensor, Tensor]:
        puzzle = torch.randint(len(orders), (len(of),), generator=generator)
        return torch.gather(of, 1, orders[puzzle][:, :, None].expand(-1, -1, size)).flatten(1), puzzle

    for _ in range(steps):
        tiles, puzzle = asked(profiles[torch.randint(len(profiles), (256,), generator=generator)])
        loss = F.cross_entropy(network(tiles), puzzle)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        tiles, puzzle = asked(_profiles(pictures[tried], generator))
        return float((network(tiles).argmax(dim=1) == puzzle).float().mean())


def _profiles(pictures: Pictures, generator: torch.Generator) -> Float32[Tensor, "n 9 tile"]:
    """Depth profiles of tiles in their natural order, the region moved by up to a tenth as in training."""
    by = torch.randint(-6, 7, (len(pictures), 2), generator=generator).tolist()
    moved = torch.stack(
        [torch.roll(torch.from_numpy(p), shift, (0, 1)) for p, shift in zip(pictures, by, strict=True)]
    )
    offsets = jigsaw.draw_offsets(len(moved), PUZZLES, generator)
    order = torch.arange(9).expand(len(moved), 9)
    return jigsaw.tiles(moved[:, None], PUZZLES, offsets=offsets, order=order).mean(dim=4).flatten(2)
