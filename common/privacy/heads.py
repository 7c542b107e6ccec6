"""Small heads on frozen features, and each patient's gradient of them in factors.

A head reads the features that a frozen encoder gave of a patient's images and answers with one of a few classes. It
is linear, or has one hidden layer (ReLU). The gradient of a linear layer over one patient is a sum of outer products
``error x input`` over the patient's rows; its norm follows from the rows' inner products, so it need never be
written out (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679, "ghost clipping").

A patient's loss is the mean over their graded rows of weight(grade) x cross-entropy. The weights are public
constants; a row is one image under one augmentation, and every image has the same number of them, so augmentations
lie inside the mean and are no records of their own.

==========================================  ==================================================
case                                        a patient's gradient
==========================================  ==================================================
no graded image for a head                  zero for that head
more images than ``images``                 that of the first ``images``
a feature that is not finite                zero, for all heads (:mod:`.patient_step`)
==========================================  ==================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from common.errors import ConfigurationError

NO_GRADE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """A head's layers.

    Attributes:
        features: numbers that it reads.
        classes: that it tells apart; four grades by default.
        hidden: width of the hidden layer; ``None``: linear.
    """

    features: int
    classes: int = 4
    hidden: int | None = None

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each linear layer."""
        if self.hidden is None:
            return ((self.features, self.classes),)
        return ((self.features, self.hidden), (self.hidden, self.classes))

    @property
    def size(self) -> int:
        """Numbers in its flat vector: layer by layer, weights (outputs x inputs), then biases."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRows:
    """What a head reads of all patients, padded to one number of rows each.

    Attributes:
        features: zero where there is none.
        grades: the row's grade, -1 where there is none.
        gram: inner products of a patient's rows, computed once since the features never change; nan for a patient
            with a feature that was not finite, which then makes the patient's whole norm nan.
    """

    features: Float32[Tensor, "patients rows features"]
    grades: Int64[Tensor, "patients rows"]
    gram: Float64[Tensor, "patients rows rows"]

    def of(self, patients: Int64[Tensor, " chosen"]) -> PatientRows:
        """The rows of some patients, by index."""
        return PatientRows(
            features=self.features[patients], grades=self.grades[patients], gram=self.gram[patients]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One head with its data.

    Attributes:
        shape: its layers.
        rows: what it reads; patients in the same order for every head.
        class_weights: public constants, one a class.
    """

    shape: HeadShape
    rows: PatientRows
    class_weights: Float32[Tensor, " classes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradients:
    """Gradients of one linear layer, in factors: sum over rows of errors x (inputs, 1).

    Attributes:
        inputs: of the layer.
        errors: gradients of the patient's mean loss by the layer's outputs.
        gram: inner products of the inputs of a patient's rows.
    """

    inputs: Float32[Tensor, "patients rows inputs"]
    errors: Float32[Tensor, "patients rows outputs"]
    gram: Float64[Tensor, "patients rows rows"]


def patient_rows(
    features: Float32[Tensor, "exams views features"],
    grades: Int64[Tensor, " exams"],
    patient: Int64[Tensor, " exams"],
    *,
    patients: int,
    images: int,
) -> PatientRows:
    """Sort exams by patient.

    Args:
        features: of each exam's image, under each of its augmentations.
        grades: -1 for none.
        patient: index of the exam's patient, 0 .. ``patients`` - 1.
        patients: how many there are, also those without an exam.
        images: how many of a patient's are read, the first in the given order.

    Raises:
        ConfigurationError: for an index out of range, or no image.
    """
    if images < 1 or (len(patient) and not 0 <= int(patient.min()) <= int(patient.max()) < patients):
        raise ConfigurationError(f"Expected images >= 1 and patients' indices in 0..{patients - 1}")
    order = torch.argsort(patient, stable=True)
    sorted_patient = patient[order]
    first = torch.searchsorted(sorted_patient, torch.arange(patients))
    rank = torch.arange(len(order)) - first[sorted_patient]
    order, sorted_patient, rank = order[rank < images], sorted_patient[rank < images], rank[rank < images]
    views, size = features.shape[1:]
    padded = torch.zeros(patients, images, views, size)
    padded[sorted_patient, rank] = features[order]
    padded_grades = torch.full((patients, images), NO_GRADE)
    padded_grades[sorted_patient, rank] = grades[order]
    rows = padded.reshape(patients, images * views, size)
    finite = rows.isfinite().all(dim=(1, 2))
    rows = torch.where(finite[:, None, None], rows, 0.0)
    gram = torch.where(finite[:, None, None], _gram(rows), torch.nan)
    return PatientRows(features=rows, grades=padded_grades.repeat_interleave(views, 1), gram=gram)


def logits(
    weights: Float32[Tensor, " size"], shape: HeadShape, features: Float32[Tensor, "*rows features"]
) -> Float32[Tensor, "*rows classes"]:
    """A head's answers.

    Raises:
        ConfigurationError: if the weights are not the head's.
    """
    *hidden, (last, bias) = layers(weights, shape)
    for weight, offset in hidden:
        features = F.relu(F.linear(features, weight, offset))
    return F.linear(features, last, bias)


def layers(
    weights: Float32[Tensor, " size"], shape: HeadShape
) -> list[tuple[Float32[Tensor, "outputs inputs"], Float32[Tensor, " outputs"]]]:
    """Views of a flat vector as weights and biases.

    Raises:
        ConfigurationError: if it is of another length.
    """
    if len(weights) != shape.size:
        raise ConfigurationError(f"Expected {shape.size} weights of a head, got {len(weights)}")
    views = []
    for inputs, outputs in shape.layers:
        weight, bias, weights = weights.split(
            [inputs * outputs, outputs, len(weights) - (inputs + 1) * outputs]
        )
        views.append((weight.view(outputs, inputs), bias))
    return views


def initial_weights(shape: HeadShape, generator: torch.Generator) -> Float32[Tensor, " size"]:
    """Weights and biases uniform in +-1 / sqrt(inputs), PyTorch's own rule. They are public, so a seed is right."""
    parts = [
        (torch.rand((inputs + 1) * outputs, generator=generator) * 2 - 1) * inputs**-0.5
        for inputs, outputs in shape.layers
    ]
    return torch.cat(parts)


def patient_gradients(weights: Float32[Tensor, " size"], head: Head) -> list[LayerGradients]:
    """Each patient's gradient of their own mean loss, layer by layer, in factors."""
    views = layers(weights, head.shape)
    outputs, rows = views[-1], head.rows
    if head.shape.hidden is None:
        return [
            LayerGradients(inputs=rows.features, errors=_errors(rows.features, outputs, head), gram=rows.gram)
        ]
    hidden = F.relu(F.linear(rows.features, *views[0]))
    errors = _errors(hidden, outputs, head)
    before = (errors @ outputs[0]).mul_(hidden > 0)
    return [
        LayerGradients(inputs=rows.features, errors=before, gram=rows.gram),
        LayerGradients(inputs=hidden, errors=errors, gram=_gram(hidden)),
    ]


def _errors(
    inputs: Float32[Tensor, "patients rows inputs"],
    layer: tuple[Float32[Tensor, "classes inputs"], Float32[Tensor, " classes"]],
    head: Head,
) -> Float32[Tensor, "patients rows classes"]:
    """Gradient of each patient's mean weighted cross-entropy by the answers."""
    grades = head.rows.grades
    graded = grades >= 0
    share = graded / graded.sum(1, keepdim=True).clamp(min=1)
    weight = head.class_weights[grades.clamp(min=0)] * share
    errors = F.linear(inputs, *layer).softmax(-1)
    errors.scatter_add_(-1, grades.clamp(min=0)[..., None], -torch.ones_like(weight)[..., None])
    return errors.mul_(weight[..., None])


def _gram(rows: Float32[Tensor, "patients rows inputs"]) -> Float64[Tensor, "patients rows rows"]:
    wide = rows.double()
    return wide @ wide.mT
