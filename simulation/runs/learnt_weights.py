"""Start weights from any folder of labelled pictures: backbones learn one number or one class of each picture.

Bo et al. 2024 let their backbones learn children's bone age before they learn the score: any such task will do whose
table says where a picture lies and what is to be told of it. What is learnt is written per backbone with the names
that its start weights have, so that ``network.weights`` takes the folder as it takes torchvision's. Nothing here is
federated or private: the pictures lie on this machine, and whoever uses the weights may know them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from safetensors.torch import save
from torch import Tensor

from client.data.pictures.pictures import read_cut
from client.data.tables.rows import read_rows, refuse
from common.errors import ConfigurationError, DataError
from common.exam import MISSING, ImageRef
from common.machine import atomic, known_weights, pretrained
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.sections.networks import ImageSettings
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local import score
from common.training.local_settings import LocalSettings, local_settings
from common.training.seeds import derive_seed
from simulation.engine import engines
from simulation.engine.progress import Display
from simulation.runs.pretrain import learnt

TASK, HELD_OUT = "pretraining", 0.1
"""Name of what is learnt, and the share of pictures that is kept back to say how well it was."""
MOST_CLASSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Where the pictures are and what is told of them.

    Attributes:
        images: folder that paths start from.
        labels: CSV or XLSX, one row a picture.
        picture: column of the paths.
        number: column of a number to be learnt; empty: of none.
        classes: column of words to be told apart; empty: of none.
        group: column of what pictures may have in common, such as a patient, of whom all or none are held out;
            empty: each stands for itself.
    """

    images: Path
    labels: Path
    picture: str
    number: str = ""
    classes: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """A backbone's file, how many pictures it learnt from, and Pearson's correlation or the accuracy on others."""

    backbone: str
    path: Path
    pictures: int
    held_out: float


def learn(settings: Settings, table: Table, *, out: Path, display: Display) -> list[Learnt]:
    """Train backbones on labelled pictures and write their weights.

    Args:
        settings: ``svdh.backbones``, ``images`` (one grey or colour image), ``network``, ``training`` and
            ``federation.rounds`` of ``training.local_steps`` each count; with ``network.weights`` backbones start
            from these.
        table: pictures and labels.
        out: folder to be made.
        display: shows progress.

    Raises:
        ConfigurationError: if not exactly one column is to be learnt, or the training diverges.
        DataError: if ``out`` exists, or rows or pictures cannot be used, all listed.
    """
    if bool(table.number) == bool(table.classes):
        raise ConfigurationError("Expected one column to be learnt, a number or a class: name exactly one")
    if out.exists():
        raise DataError(f"Expected nothing at {out} yet: choose another place, or remove what is there")
    settings = pretrained.resolved(settings)
    image, kind = next(iter(settings.images.items()))
    paths, groups, values, classes = _labels(table)
    with display.step("pictures") as bar:
        pictures = _pictures(table.images, paths, kind, settings, bar)
    data = _exams(image, pictures, groups, values, classes, seed=settings.seed)
    target = (
        Target(measurement=TASK, kind="nominal", threshold=None, classes=classes)
        if classes
        else Target(
            measurement=TASK,
            kind="regression",
            threshold=None,
            classes=2,
            edges=(0.5,),
            centre=float(values.mean()),
            spread=float(values.std()),
        )
    )
    device = torch.device(engines.devices(settings.compute)[0])
    made = []
    for backbone in settings.svdh.backbones:
        spec = NetworkSpec(name=f"{TASK}/{backbone}", images=(image,), target=target, backbone=backbone)
        local = local_settings(spec, settings, device=device)
        seed = derive_seed(settings.seed, TASK, backbone)
        start = _start(spec, settings, seed=seed)
        with display.step(f"learning {backbone}") as bar:
            progress = partial(_told, bar, local.rounds)
            weights = learnt(local, data, seed=seed, start=start, progress=progress)
        made.append(_written(weights, local, data, out, said=_said(table, backbone, len(paths))))
    return made


def _told(bar: Callable[[int, int], None], rounds: int, done: int) -> None:
    bar(done, rounds)


def _labels(table: Table) -> tuple[list[str], list[str], Float64[np.ndarray, " n"], int]:
    """Paths, groups, shares of the number's range or classes 0 .., and how many classes; 0: it is a number."""
    column = table.number or table.classes
    group = table.group or table.picture
    rows = [
        (line, row)
        for line, row in read_rows(table.labels, list(dict.fromkeys([table.picture, column, group]))).rows
        if row[table.picture] and row[column]
    ]
    if len(rows) < 2:
        raise DataError(f"Expected pictures with {column} in {table.labels}, got {len(rows)}")
    paths, groups, given = ([row[name] for _, row in rows] for name in (table.picture, group, column))
    if table.classes:
        words = sorted(set(given))
        if not 2 <= len(words) <= MOST_CLASSES:
            raise DataError(f"Expected 2 to {MOST_CLASSES} classes in {column}, got {len(words)}")
        return paths, groups, np.array([words.index(word) for word in given], np.float64), len(words)
    numbers, errors = [], []
    for (line, _), text in zip(rows, given, strict=True):
        number = _number(text)
        numbers.append(number)
        if not math.isfinite(number):
            errors.append(f"  line {line}: {column} is {text!r}, expected a number")
    refuse(table.labels, errors)
    values = np.array(numbers, np.float64)
    if np.ptp(values) == 0:
        raise DataError(f"Expected numbers that differ in {column}, got {values[0]:g} alone")
    return paths, groups, (values - values.min()) / np.ptp(values), 0


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _pictures(
    folder: Path,
    paths: Sequence[str],
    image: ImageSettings,
    settings: Settings,
    bar: Callable[[int, int], None],
) -> Tensor:
    cuts, errors = [], []
    for done, path in enumerate(paths, start=1):
        try:
            cut = read_cut(folder, ImageRef(path=path), image, image_px=settings.network.image_px)
            cuts.append(torch.from_numpy(cut.pixels.copy()))
        except DataError as error:
            errors.append(f"  {path}: {error}")
        bar(done, len(paths))
    refuse(folder, errors)
    return torch.stack(cuts)


def _exams(
    image: str,
    pictures: Tensor,
    groups: Sequence[str],
    values: Float64[np.ndarray, " n"],
    classes: int,
    *,
    seed: int,
) -> ExamTensors:
    """Each group a patient; fold 0 trains."""
    names = list(dict.fromkeys(groups))
    patient = torch.tensor([names.index(group) for group in groups], dtype=torch.int32)
    generator = torch.Generator().manual_seed(derive_seed(seed, TASK, "held out"))
    apart = torch.randperm(len(names), generator=generator)[: round(HELD_OUT * len(names))]
    fold = torch.where(torch.isin(patient, apart), MISSING, 0).to(torch.int8)
    told = torch.from_numpy(values)
    return ExamTensors(
        images={image: pictures},
        grades={TASK: told.to(torch.int8)} if classes else {},
        numbers={} if classes else {TASK: told.float()},
        fold=fold,
        patient=patient,
    )


def _start(spec: NetworkSpec, settings: Settings, *, seed: int) -> Tensor:
    weights = build.initial_weights(spec, settings.network, seed=seed)
    if settings.network.weights != "none":
        values = pretrained.part(spec, settings.network, pretrained.TORCHVISION)
        start = 0
        for place in build.layout(spec, settings.network).slices(pretrained.TORCHVISION):
            stop = start + place.stop - place.start
            weights[place] = values[start:stop]
            start = stop
    return weights


def _written(
    weights: Tensor, local: LocalSettings, data: ExamTensors, out: Path, *, said: Mapping[str, str]
) -> Learnt:
    backbone = local.spec.backbone or local.network.backbone
    flat = build.part(local.spec, local.network, weights, pretrained.TORCHVISION)
    layout = build.part_layout(local.spec, local.network, pretrained.TORCHVISION)
    tensors = {name: values.clone().contiguous() for name, values in layout.pieces(flat)}
    out.mkdir(parents=True, exist_ok=True)
    path = known_weights.imported_path(backbone, folder=out)
    atomic.write(path, save(tensors, metadata=known_weights.saying(said)))
    trained = int((data.fold != MISSING).sum())
    return Learnt(backbone=backbone, path=path, pictures=trained, held_out=_held_out(weights, local, data))


def _held_out(weights: Tensor, local: LocalSettings, data: ExamTensors) -> float:
    exams = torch.nonzero(data.fold == MISSING).flatten()
    answers = score(weights, data, exams, local)
    if local.spec.target.kind == "nominal":
        right = answers.argmax(dim=1) == data.grades[TASK][exams].long()
        return float(right.float().mean())
    both = torch.stack([answers[:, 0], data.numbers[TASK][exams]])
    return float(torch.corrcoef(both)[0, 1]) if len(exams) > 1 else math.nan


def _said(table: Table, backbone: str, pictures: int) -> dict[str, str]:
    return {
        "backbone": backbone,
        "trained_on": f"{table.number or table.classes} of {pictures} pictures",
        "file": table.labels.name,
    }
