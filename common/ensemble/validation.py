"""A site's validation patients: by whom it judges networks that never trained on them, at no site.

A network of fold f never trained on patients of fold f. So over all its networks a site has answers about many of its
patients from networks that had not seen them.

In a campaign with differential privacy no fold is kept for validation: here the site's training patients are split
among the ensemble's members. The common networks have learnt from these patients, under noise: what they know of any
one is bounded by epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from common.ensemble.trained import TrainedNetwork
from common.exam import MISSING
from common.methods.stages import Output, method
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.inputs import labels

PATIENTS = 4
"""Fewest by whom anything is judged: a standard error over fewer says nothing."""
FOLDS = 4
"""Into how many parts training patients are split where the campaign kept none for validation."""

Answers = Mapping[str, Float32[np.ndarray, "_ classes"]]
"""Network -> probabilities of the classes, for all exams of its fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How much better one answer is than another on validation patients.

    Attributes:
        gain: mean over exams, larger is better.
        standard_error: of the gain, over patients.
        patients: their number.
    """

    gain: float
    standard_error: float
    patients: int

    def better(self, *, margin: float) -> bool:
        """Whether the gain is larger than chance often makes it, by a number of standard errors."""
        return self.patients >= PATIENTS and self.gain > margin * self.standard_error


def judged(difference: Float64[np.ndarray, " exams"], patient: Int64[np.ndarray, " exams"]) -> Judged:
    """The mean difference of two answers to the same exams, its standard error by patient.

    Args:
        difference: of each exam, above zero where the first is better.
        patient: of each exam.
    """
    if not len(difference):
        return Judged(gain=0.0, standard_error=0.0, patients=0)
    number = np.unique(patient, return_inverse=True)[1]
    exams = np.bincount(number)
    gain = float(difference.mean())
    residuals = np.bincount(number, weights=difference) - gain * exams  # of a ratio of sums over patients
    count = len(exams)
    squared = float((residuals**2).sum()) * count / max(count - 1, 1)
    return Judged(gain=gain, standard_error=squared**0.5 / len(difference), patients=count)


def with_validation(
    networks: Sequence[TrainedNetwork], data: ExamTensors, *, folds: int
) -> tuple[tuple[TrainedNetwork, ...], ExamTensors]:
    """Networks and exams, each network with a fold that it is not trained on here.

    Args:
        networks: the common ones.
        data: the site's exams.
        folds: of the campaign; 1: it kept none for validation.
    """
    if folds > 1:
        return tuple(networks), data
    training = data.fold != MISSING
    places = torch.unique(data.patient[training], return_inverse=True)[1]
    fold = data.fold.clone()
    fold[training] = (places % FOLDS).to(fold.dtype)

    def placed(spec: NetworkSpec) -> NetworkSpec:
        member = spec.fold if spec.fold >= 0 else spec.replica
        return spec.model_copy(update={"fold": member % FOLDS})

    return tuple(replace(n, spec=placed(n.spec)) for n in networks), replace(data, fold=fold)


def exams_of_fold(data: ExamTensors, spec: NetworkSpec) -> Int64[Tensor, " exams"]:
    """A network's validation exams, graded or not."""
    return torch.nonzero((data.fold == spec.fold) & (data.fold != MISSING)).flatten()


def graded(
    specs: Sequence[NetworkSpec], answers: Answers, data: ExamTensors
) -> tuple[
    Float64[np.ndarray, "answers classes"], Int64[np.ndarray, " answers"], Int64[np.ndarray, " answers"]
]:
    """What networks with as many classes say of their graded validation exams, the right class, and the patient.

    Args:
        specs: at least one.
        answers: of these networks.
        data: the site's exams.
    """
    said, classes, patients = [], [], []
    for spec in specs:
        exams = exams_of_fold(data, spec)
        wanted = labels(data, spec)[exams].numpy()
        use = wanted != MISSING
        said.append(answers[spec.name][use].astype(np.float64))
        classes.append(wanted[use].astype(np.int64))
        patients.append(data.patient[exams].numpy()[use].astype(np.int64))
    return np.concatenate(said), np.concatenate(classes), np.concatenate(patients)


def brier(
    specs: Sequence[NetworkSpec], answers: Answers, data: ExamTensors
) -> tuple[Float64[np.ndarray, " answers"], Int64[np.ndarray, " answers"]]:
    """Brier's score of every graded validation exam by every network, 0 to 1, and its patient.

    Source: Brier 1950, Monthly Weather Review 78:1-3, halved so that two classes give (p - y)**2.
    """
    losses, patients = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for spec in specs:
        probabilities, wanted, patient = graded([spec], answers, data)
        truth = np.eye(spec.target.classes)[wanted]
        losses.append(((probabilities - truth) ** 2).sum(axis=1) / 2)
        patients.append(patient)
    return np.concatenate(losses), np.concatenate(patients)


def right(
    outputs: Sequence[Output], data: ExamTensors, settings: Settings, *, measurement: str
) -> tuple[Float64[np.ndarray, " exams"], Int64[np.ndarray, " exams"]]:
    """Share of the ensemble's voters who grade each validation exam right, and its patient.

    Args:
        outputs: of all networks, each for the exams of its fold.
        data: the site's exams.
        settings: of the campaign.
        measurement: which grade.
    """
    chosen = method(settings.method)
    place = list(chosen.scores(settings)).index(measurement)
    grade = Target(measurement=measurement, kind="nominal", threshold=None)
    truth = labels(data, NetworkSpec(name="", images=(), target=grade)).numpy()
    shares, patients = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for fold in sorted({output.spec.fold for output in outputs}):
        members = [output for output in outputs if output.spec.fold == fold]
        exams = exams_of_fold(data, members[0].spec).numpy()
        use = truth[exams] != MISSING
        votes = chosen.votes(members, settings)[use][:, :, place]
        shares.append((votes == truth[exams][use][:, None]).mean(axis=1))
        patients.append(data.patient.numpy()[exams][use].astype(np.int64))
    return np.concatenate(shares), np.concatenate(patients)
