"""The trained ensemble: probabilities of all its networks, their bits, the votes of its scoring models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from common.errors import ConfigurationError
from common.imaging.prepare import picture
from common.networks.spec import NetworkSpec
from common.scoring import ecoc
from common.settings import ImageSettings, NetworkSettings
from common.training.data import ExamTensors
from common.training.flat_network import flat_network
from common.training.local import autocast

BATCH = 128


def probabilities(
    weights: Mapping[str, Float32[Tensor, " _"]],
    specs: Sequence[NetworkSpec],
    data: ExamTensors,
    exams: Int[Tensor, " n"],
    *,
    images: Mapping[str, ImageSettings],
    network: NetworkSettings,
    device: torch.device,
) -> Float32[Tensor, "n networks"]:
    """Probability of class 1 for each exam by each network.

    Every picture is prepared once and read by all networks.

    Args:
        weights: flat weights by network name.
        specs: the networks, in the order of the columns.
        data: the exams of a site.
        exams: which of them.
        images: the kinds of the images.
        network: backbone and size.
        device: where to compute.
    """
    needed = sorted({image for spec in specs for image in spec.images})
    rows = [torch.empty(0, len(specs))]
    with torch.inference_mode():
        for chunk in exams.split(BATCH):
            pictures = {
                name: picture(data.images[name][chunk].to(device), images[name], image_px=network.image_px)
                for name in needed
            }
            columns = [_probability(weights[spec.name], spec, pictures, network, device) for spec in specs]
            rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows)


def _probability(
    weights: Tensor,
    spec: NetworkSpec,
    pictures: Mapping[str, Tensor],
    network: NetworkSettings,
    device: torch.device,
) -> Tensor:
    built = flat_network(spec, network, device)
    built.load(weights)
    built.module.eval()
    with autocast(device):  # as in training, where the thresholds come from
        logits: Tensor = built.module([pictures[name] for name in spec.images])
    return logits.float().softmax(dim=1)[:, 1].cpu()


def bits(
    probabilities: Float32[np.ndarray, "n networks"], thresholds: Float32[np.ndarray, " networks"]
) -> Bool[np.ndarray, "n networks"]:
    """Each network's bit: whether its probability reaches its own threshold."""
    return probabilities >= thresholds


def votes(
    bits: Bool[np.ndarray, "n networks"], specs: Sequence[NetworkSpec], *, measurements: Sequence[str]
) -> Int[np.ndarray, "n models measurements"]:
    """The grade that each scoring model votes for each measurement, by ECOC.

    Args:
        bits: one column a network.
        specs: the networks, in the order of the columns.
        measurements: in the order of the votes.

    Raises:
        ConfigurationError: if a model has no network for a measurement.
    """
    folds = sorted({spec.fold for spec in specs})
    by_model = [
        [ecoc.decode(bits[:, _columns(specs, fold, measurement)]) for measurement in measurements]
        for fold in folds
    ]
    return np.array(by_model).transpose(2, 0, 1)


def _columns(specs: Sequence[NetworkSpec], fold: int, measurement: str) -> Int[np.ndarray, "replicas tasks"]:
    """Column of each replica and threshold of one scoring model."""
    chosen = {
        (spec.replica, spec.target.threshold): index
        for index, spec in enumerate(specs)
        if spec.fold == fold and spec.target.measurement == measurement
    }
    if not chosen:
        raise ConfigurationError(f"Expected networks of model {fold} for {measurement}, got none")
    replicas = sorted({replica for replica, _ in chosen})
    tasks = range(len(chosen) // len(replicas))
    return np.array([[chosen[replica, task] for task in tasks] for replica in replicas])
