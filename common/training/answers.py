"""What a network's outputs mean: its loss, and the probabilities (or the number) that they stand for."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor
from torch.nn import functional as F

from common.networks.spec import Target


def loss(outputs: Float32[Tensor, "n outputs"], wanted: Shaped[Tensor, " n"], target: Target) -> Tensor:
    """The mean loss of a batch.

    Cross-entropy for classes; for ordered ones that of each cut, "above grade 0", "above grade 1" .. (Frank and Hall
    2001, ECML), so that a far miss costs more than a near one; the squared error of a number, in units of
    ``target.spread``.

    Args:
        outputs: of the network, in float32 or what autocast gave.
        wanted: classes, or for a regression shares of the number's range.
        target: of the network.
    """
    if target.kind == "regression":
        return F.mse_loss(outputs[:, 0].float(), (wanted.float() - target.centre) / target.spread)
    if target.kind == "ordinal":
        cuts = torch.arange(target.outputs, device=wanted.device)
        return F.binary_cross_entropy_with_logits(outputs, (wanted[:, None] > cuts).to(outputs.dtype))
    return F.cross_entropy(outputs, wanted)


def probabilities(outputs: Float32[Tensor, "n outputs"], target: Target) -> Float32[Tensor, "n _"]:
    """Probabilities of the classes, ``(n, classes)``; for a regression the share of the number's range, ``(n, 1)``.

    Of ordered classes a grade's is the difference of two cuts', each taken as not above the one before it.
    """
    if target.kind == "regression":
        return (target.centre + target.spread * outputs).clamp(0, 1)
    if target.kind == "ordinal":
        above = outputs.sigmoid().cummin(dim=1).values
        ends = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
        return torch.cat([ends[0], above], dim=1) - torch.cat([above, ends[1]], dim=1)
    return outputs.softmax(dim=1)


def expected(probabilities: Float32[Tensor, "n _"], target: Target) -> Float32[Tensor, " n"]:
    """The expected grade over the highest, in [0, 1]; of two classes the probability of class 1; a number's share."""
    if target.kind == "regression":
        return probabilities[:, 0]
    return (probabilities @ torch.linspace(0, 1, target.classes)).clamp(0, 1)
