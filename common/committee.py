"""The trained ensemble: probabilities of its networks, their bits, the votes of its models, its decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int64, UInt8
from torch import Tensor

from common.errors import ConfigurationError
from common.imaging.prepare import picture
from common.networks.spec import NetworkSpec
from common.scoring import ecoc, eoss, multitude, validity
from common.settings import ImageSettings, NetworkSettings, Settings
from common.training.flat_network import flat_network
from common.training.local import autocast

BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What an ensemble says of some exams.

    Attributes:
        probabilities: of class 1, one column a network.
        votes: the grade that each scoring model votes, in the order of the folds and of the measurements.
        decision: MULTITUDE's answer, in the order of the measurements; always a valid combination.
        majority: each measurement's own plurality, beside which the decision is contested or not.
        combined: the combined score of the decision; ``None`` where the settings' rule of validity has none.
        weight: of the decision, at most models ** measurements.
        runner_up_weight: the largest of the other valid combinations.
        contested: whether nobody voted for a valid combination, or the decision differs from the majority.
    """

    probabilities: Float32[np.ndarray, "n networks"]
    votes: Int[np.ndarray, "n models measurements"]
    decision: Int64[np.ndarray, "n measurements"]
    majority: Int64[np.ndarray, "n measurements"]
    combined: Int64[np.ndarray, " n"] | None
    weight: Int64[np.ndarray, " n"]
    runner_up_weight: Int64[np.ndarray, " n"]
    contested: Bool[np.ndarray, " n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """A trained ensemble: pictures in, votes and decisions out; the same at the centre and at a site.

    Attributes:
        specs: the networks, in the order of the columns.
        weights: flat weights by network name.
        thresholds: probability from which on each network's bit is 1, in the order of ``specs``.
        settings: of the run that trained it.
    """

    specs: tuple[NetworkSpec, ...]
    weights: Mapping[str, Float32[Tensor, " _"]]
    thresholds: Float32[np.ndarray, " networks"]
    settings: Settings

    def score(
        self,
        stored: Mapping[str, UInt8[Tensor, "exams _ side side"]],
        exams: Int[Tensor, " n"],
        *,
        device: torch.device,
    ) -> Scores:
        """Score exams.

        Args:
            stored: image name -> pictures, as in ``ExamTensors.images``.
            exams: which of them.
            device: where to compute. Probabilities depend on it in their last bits, votes as good as never.
        """
        settings = self.settings
        found = probabilities(
            self.weights,
            self.specs,
            stored,
            exams,
            images=settings.images,
            network=settings.network,
            device=device,
        ).numpy()
        voted = votes(bits(found, self.thresholds), self.specs, measurements=list(settings.measurements))
        values = [measurement.grades for measurement in settings.measurements.values()]
        decided = multitude.decide(voted, values=values, is_valid=validity.predicate(settings))
        return Scores(
            probabilities=found,
            votes=voted,
            decision=decided.decision,
            majority=multitude.majority(voted, values=values),
            combined=_combined(decided.decision, settings),
            weight=decided.weight,
            runner_up_weight=decided.runner_up_weight,
            contested=decided.contested,
        )


def _combined(decision: Int64[np.ndarray, "n measurements"], settings: Settings) -> np.ndarray | None:
    if settings.validity != "eoss":
        return None
    grades = dict(zip(settings.measurements, decision.T, strict=True))
    return eoss.combined(grades["hypertrophy"], grades["vascularity"])


def probabilities(
    weights: Mapping[str, Float32[Tensor, " _"]],
    specs: Sequence[NetworkSpec],
    stored: Mapping[str, UInt8[Tensor, "exams _ side side"]],
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
        stored: image name -> pictures, as in ``ExamTensors.images``.
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
                name: picture(stored[name][chunk].to(device), images[name], image_px=network.image_px)
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
