"""From a backbone's many features to the few numbers that a private head reads."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int
from torch import Tensor
from torch.nn import functional as F

SHRINKAGE = 0.01
"""Share of the mean variance that is added to every direction's within grades, against directions of none."""
RIDGE = 1e-3
"""Of a head's squared weights, over the mean loss."""


def projection(
    features: Float32[Tensor, "n features"], grades: Int[Tensor, " n"], *, size: int
) -> tuple[Float32[Tensor, "size features"], Float32[Tensor, " size"]]:
    """Weight and bias of a linear map to numbers of mean 0 that vary alike within grades, and without correlation.

    First come the directions that tell grades apart (Fisher's discriminants, one less than grades), then those in
    which exams of one grade differ most.

    Args:
        features: of public pictures.
        grades: theirs.
        size: how many numbers, at most as many as features.

    Source:
        Linear discriminant analysis: Rao 1948, doi 10.1111/j.2517-6161.1948.tb00008.x.
    """
    wide = features.double()
    groups = [wide[grades == grade] for grade in grades.unique()]
    means = torch.stack([group.mean(0) for group in groups])
    within = sum((torch.cov(group.T, correction=0) * len(group) for group in groups), torch.zeros(()))
    within = within / len(wide)
    within = within + SHRINKAGE * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64)
    variances, axes = torch.linalg.eigh(within)
    white = axes / variances.sqrt()
    _, _, between = torch.linalg.svd((means - means.mean(0)) @ white, full_matrices=False)
    by_variance = torch.eye(len(within), dtype=torch.float64).flip(1)
    directions, _ = torch.linalg.qr(torch.cat([between[: len(groups) - 1].T, by_variance], dim=1))
    weight = (white @ directions[:, :size]).T
    return weight.float(), -(weight @ wide.mean(0)).float()


def head(
    features: Float32[Tensor, "n features"], grades: Int[Tensor, " n"], *, classes: int
) -> tuple[Float32[Tensor, "classes features"], Float32[Tensor, " classes"]]:
    """Weight and bias of the linear head that tells the grades apart best: ridged multinomial regression.

    Args:
        features: as a head reads them, of public pictures.
        grades: theirs.
        classes: how many there are.
    """
    read, weight = features.double(), torch.zeros(classes, features.shape[1], dtype=torch.float64)
    weight, bias = weight.requires_grad_(), torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimiser.zero_grad()
        value = F.cross_entropy(read @ weight.T + bias, grades.long()) + RIDGE * weight.square().sum()
        value.backward()
        return float(value.detach())

    optimiser.step(loss)
    return weight.detach().float(), bias.detach().float()
