"""SCAFFOLD: control variates that take a site's drift out of its steps (Karimireddy et al. 2020, algorithm 1).

Site i keeps c_i, the centre c, all of them zero at first. A step follows g - c_i + c instead of g. After K steps
(option II) c_i becomes the mean gradient of the round. With a learning rate eta_k that changes within it::

    c_i <- sum_k eta_k g_k / sum_k eta_k                     w <- w + mean of the sites' updates
                                                             c <- c + participation * mean of their changes of c_i

For plain SGD with a constant rate this is the paper's c_i - c + (x - y_i) / (K eta), and its global step size is 1.
g is the gradient of the loss alone: weight decay pulls at all sites alike and is no drift.

Beyond the paper: means are weighted by exams, as everywhere here, so c is the weighted mean of all c_i as long as
every site takes part in every round. If some do not, their weight is taken for that of an average site.

With ``training.optimiser = "adamw"`` the correction goes into the gradient before the moments are taken. That is
outside of the paper's theory, which is of SGD: AdamW divides the corrected gradient by a scale that the correction
has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.aggregation.federated import (
    UPDATE,
    WEIGHTS,
    FedAvg,
    Flat,
    LocalRound,
    ServerState,
    SiteState,
)
from common.networks.layout import Layout
from common.training.local import LocalUpdate

CONTROL = "control"


@dataclass(slots=True, kw_only=True)
class CorrectionTerm:
    """Adds c - c_i to each gradient, and takes the mean of the gradients that it was given.

    Attributes:
        correction: c - c_i, on the training device.
    """

    correction: Float32[Tensor, " trained"]
    _sum: Float32[Tensor, " trained"] = field(init=False)
    _rates: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._sum = torch.zeros_like(self.correction)

    def add(
        self,
        gradient: Float32[Tensor, " trained"],
        weights: Float32[Tensor, " trained"],
        *,
        learning_rate: float,
    ) -> None:
        """See :class:`common.training.local.GradientTerm`."""
        del weights
        self._sum.add_(gradient, alpha=learning_rate)
        self._rates += learning_rate
        gradient.add_(self.correction)

    def mean_gradient(self) -> Float32[Tensor, " trained"]:
        """Of the round, weighted by the steps' learning rates; on the CPU."""
        return (self._sum / self._rates).cpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold(FedAvg):
    """SCAFFOLD, option II. A site keeps and sends one number per parameter more than in FedAvg."""

    kept: ClassVar[tuple[str, ...]] = (CONTROL,)
    sent: ClassVar[tuple[str, ...]] = (CONTROL,)

    @property
    def keeps_state(self) -> bool:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return True

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        control = np.zeros(layout.trained_size, dtype=np.float32)
        return ServerState(arrays={WEIGHTS: weights, CONTROL: control})

    def broadcast(self, state: ServerState) -> Mapping[str, Flat]:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return state.arrays

    def trained(self, local: LocalRound) -> tuple[LocalUpdate, SiteState]:
        """See :meth:`common.aggregation.federated.FedAvg.trained`."""
        everyones = local.received[CONTROL]
        own = local.site_state.get(CONTROL, torch.zeros_like(everyones))
        term = CorrectionTerm(correction=(everyones - own).to(local.settings.device))
        answer, optimiser = local.train(local.received[WEIGHTS], term=term)
        new = term.mean_gradient() if answer.num_examples else own
        return replace(answer, extra={CONTROL: new - own}), {CONTROL: new, **optimiser}

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        control = state.arrays[CONTROL] + np.float32(participation) * means[CONTROL]
        return ServerState(arrays={WEIGHTS: state.weights + means[UPDATE], CONTROL: control})
