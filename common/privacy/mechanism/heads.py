"""Small heads on frozen features, and each patient's gradient of them in factors.

A head reads the features that a frozen encoder gave of a patient's images and answers with one of a few classes. It
is linear, or has one hidden layer (ReLU). The gradient of a linear layer over one patient is a sum of outer products
``error x input`` over the patient's rows; its norm follows from the rows' inner products, so it need never be
written out (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679, "ghost clipping").

The encoder's norms may move beside a linear head, to first order: each image then brings the encoder's numbers and
their derivatives by each move (``HeadShape.read``), and the head reads the numbers where the moves take them, scaled
to unit length. The gradient by the moves is written out: that of a layer's biases.

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

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from common.errors import ConfigurationError
from common.exam import MISSING

SHORTEST = 1e-12
"""Length below which numbers are not scaled up to unit length, as in ``torch.nn.functional.normalize``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """A head's layers.

    Attributes:
        features: numbers that it reads.
        classes: that it tells apart; four grades by default.
        hidden: width of the hidden layer; ``None``: linear.
        moves: of the encoder's norms, which train beside a linear head; 0: the encoder stays as it is.
    """

    features: int
    classes: int = 4
    hidden: int | None = None
    moves: int = 0

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each linear layer."""
        if self.hidden is None:
            return ((self.features, self.classes),)
        return ((self.features, self.hidden), (self.hidden, self.classes))

    @property
    def size(self) -> int:
        """Numbers in its flat vector: layer by layer, weights (outputs x inputs), then biases; then the moves."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layers) + self.moves

    @property
    def read(self) -> int:
        """Numbers that are read of an image: the features, then each one's derivatives by the moves."""
        return self.features * (1 + self.moves)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRows:
    """What heads of one shape read of all patients, padded to one number of rows each.

    Attributes:
        features: ``HeadShape.read`` numbers a row, zero where there is none.
        grades: the row's grade for each head, -1 where there is none.
        gram: inner products of a patient's rows, computed once since the features never change; nan for a patient
            with a feature that was not finite, which then makes the patient's whole norm nan.
    """

    features: Float32[Tensor, "heads patients rows features"]
    grades: Int64[Tensor, "heads patients rows"]
    gram: Float64[Tensor, "heads patients rows rows"]

    @property
    def patients(self) -> int:
        """How many there are."""
        return self.grades.shape[1]

    def of(self, patients: Int64[Tensor, " chosen"]) -> PatientRows:
        """The rows of some patients, by index."""
        return PatientRows(
            features=self.features[:, patients], grades=self.grades[:, patients], gram=self.gram[:, patients]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Heads of one shape with their data: tasks x members, computed together.

    Attributes:
        shape: the layers of each.
        rows: what they read; patients in the same order for every head of a release.
        class_weights: public constants, one per class.
    """

    shape: HeadShape
    rows: PatientRows
    class_weights: Float32[Tensor, "heads classes"]

    @property
    def size(self) -> int:
        """Numbers in the flat vector: head after head."""
        return len(self.class_weights) * self.shape.size


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradients:
    """Gradients of one linear layer of each head, in factors: sum over rows of errors x (inputs, 1).

    Attributes:
        inputs: of the layer.
        errors: gradients of the patient's mean loss by the layer's outputs.
        gram: inner products of the inputs of a patient's rows.
    """

    inputs: Float32[Tensor, "heads patients rows inputs"]
    errors: Float32[Tensor, "heads patients rows outputs"]
    gram: Float64[Tensor, "heads patients rows rows"]


def patient_rows(
    features: Float32[Tensor, "heads exams views features"],
    grades: Int64[Tensor, "heads exams"],
    patient: Int64[Tensor, " exams"],
    *,
    patients: int,
    images: int,
) -> PatientRows:
    """Sort exams by patient.

    Args:
        features: that each head reads of each exam's image, under each of its augmentations.
        grades: of the exam in each head's task, -1 for none.
        patient: index of the exam's patient, 0 .. ``patients`` - 1.
        patients: how many there are, also those without an exam.
        images: how many exams of a patient are read, the first in the given order.

    Raises:
        ConfigurationError: for an index out of range, or no image.
    """
    if images < 1 or (len(patient) and not 0 <= int(patient.min()) <= int(patient.max()) < patients):
        raise ConfigurationError(f"Expected images >= 1 and patients' indices in 0..{patients - 1}")
    order = torch.argsort(patient, stable=True)
    owner = patient[order]
    rank = torch.arange(len(order)) - torch.searchsorted(owner, torch.arange(patients))[owner]
    order, owner, rank = order[rank < images], owner[rank < images], rank[rank < images]
    heads, _, views, size = features.shape
    padded = torch.zeros(heads, patients, images, views, size)
    padded[:, owner, rank] = features[:, order]
    padded_grades = torch.full((heads, patients, images), MISSING)
    padded_grades[:, owner, rank] = grades[:, order]
    rows = padded.flatten(2, 3)
    finite = rows.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
    rows = torch.where(finite, rows, 0.0)
    return PatientRows(
        features=rows,
        grades=padded_grades.repeat_interleave(views, dim=2),
        gram=torch.where(finite, _gram(rows), torch.nan),
    )


def logits(
    weights: Float32[Tensor, " size"], shape: HeadShape, features: Float32[Tensor, "heads rows features"]
) -> Float32[Tensor, "heads rows classes"]:
    """Answers of heads of one shape.

    Raises:
        ConfigurationError: if the number of weights does not match the number of heads.
    """
    *hidden, last = layers(weights, shape, heads=len(features))
    for layer in hidden:
        features = F.relu(_linear(features, layer))
    return _linear(features, last)


Layer: TypeAlias = tuple[Float32[Tensor, "heads outputs inputs"], Float32[Tensor, "heads outputs"]]


def layers(weights: Float32[Tensor, " size"], shape: HeadShape, *, heads: int) -> list[Layer]:
    """Views of a flat vector as weights and biases of heads of one shape.

    Raises:
        ConfigurationError: if it is of another length.
    """
    if len(weights) != heads * shape.size:
        raise ConfigurationError(f"Expected {heads} x {shape.size} weights of heads, got {len(weights)}")
    parts = weights.view(heads, shape.size).split([n for i, o in shape.layers for n in (i * o, o)], dim=1)
    return [
        (parts[2 * number].unflatten(1, (outputs, inputs)), parts[2 * number + 1])
        for number, (inputs, outputs) in enumerate(shape.layers)
    ]


def initial_weights(shape: HeadShape, generator: torch.Generator) -> Float32[Tensor, " size"]:
    """One head's weights and biases, uniform in +-1 / sqrt(inputs), PyTorch's own rule; nothing has moved.

    They are public, so a seed is right.
    """
    parts = [
        (torch.rand((inputs + 1) * outputs, generator=generator) * 2 - 1) * inputs**-0.5
        for inputs, outputs in shape.layers
    ]
    return torch.cat([*parts, torch.zeros(shape.moves)])


def patient_gradients(weights: Float32[Tensor, " size"], heads: Heads) -> list[LayerGradients]:
    """Each patient's gradient of their own mean loss, layer by layer, in factors."""
    if heads.shape.moves:
        return _with_moves(weights, heads)
    *hidden, last = layers(weights, heads.shape, heads=len(heads.class_weights))
    rows = heads.rows
    read = rows.features.flatten(1, 2)
    if not hidden:
        return [LayerGradients(inputs=rows.features, errors=_errors(read, last, heads), gram=rows.gram)]
    between = F.relu(_linear(read, hidden[0]))
    errors = _errors(between, last, heads)
    before = (errors.flatten(1, 2) @ last[0]).mul_(between > 0).unflatten(1, errors.shape[1:3])
    between = between.view_as(before)
    return [
        LayerGradients(inputs=rows.features, errors=before, gram=rows.gram),
        LayerGradients(inputs=between, errors=errors, gram=_gram(between)),
    ]


def _with_moves(weights: Float32[Tensor, " size"], heads: Heads) -> list[LayerGradients]:
    shape, rows, count = heads.shape, heads.rows, len(heads.class_weights)
    linear, moves = weights.view(count, shape.size).split([shape.size - shape.moves, shape.moves], dim=1)
    (last,) = layers(linear.flatten(), replace(shape, moves=0), heads=count)
    still, slopes = rows.features.split([shape.features, shape.features * shape.moves], dim=-1)
    slopes = slopes.unflatten(-1, (shape.features, shape.moves))
    numbers = still + torch.einsum("hprfm,hm->hprf", slopes, moves)
    length = numbers.norm(dim=-1, keepdim=True).clamp(min=SHORTEST)
    inputs = numbers / length
    errors = _errors(inputs.flatten(1, 2), last, heads)
    by_input = torch.einsum("hprc,hcf->hprf", errors, last[0])
    along = (by_input * inputs).sum(-1, keepdim=True)
    by_number = (by_input - along * inputs) / length
    by_move = torch.einsum("hprf,hprfm->hpm", by_number, slopes)[:, :, None]
    nothing = by_move.new_zeros(*by_move.shape[:3], 0)
    spoilt = 0 * rows.gram  # nan where a row was not finite
    return [
        LayerGradients(inputs=inputs, errors=errors, gram=_gram(inputs) + spoilt),
        LayerGradients(inputs=nothing, errors=by_move, gram=_gram(nothing)),
    ]


def _errors(
    inputs: Float32[Tensor, "heads all inputs"], last: Layer, heads: Heads
) -> Float32[Tensor, "heads patients rows classes"]:
    """Gradient of each patient's mean weighted cross-entropy by the answers."""
    grades = heads.rows.grades
    graded, grade = grades >= 0, grades.clamp(min=0)
    share = graded / graded.sum(2, keepdim=True).clamp(min=1)
    weight = (heads.class_weights.gather(1, grade.flatten(1)).view_as(share) * share)[..., None]
    answers: Tensor = _linear(inputs, last).unflatten(1, grades.shape[1:])
    return answers.softmax(-1).mul_(weight).scatter_add_(-1, grade[..., None], -weight)


def _linear(
    inputs: Float32[Tensor, "heads all inputs"], layer: Layer
) -> Float32[Tensor, "heads all outputs"]:
    weight, bias = layer
    return torch.baddbmm(bias[:, None], inputs, weight.mT)


def _gram(rows: Float32[Tensor, "heads patients rows inputs"]) -> Float64[Tensor, "heads patients rows rows"]:
    wide = rows.double()
    return wide @ wide.mT
