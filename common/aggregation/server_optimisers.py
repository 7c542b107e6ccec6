"""FedAdam and FedYogi: the centre takes the sites' mean update for a gradient (Reddi et al. 2021, algorithm 2).

With D_t the mean update of round t, element by element::

    m_t = beta1 m_{t-1} + (1 - beta1) D_t                                  m_0 = 0
    v_t = beta2 v_{t-1} + (1 - beta2) D_t^2                       FedAdam  v_0 = tau^2
    v_t = v_{t-1} - (1 - beta2) D_t^2 sign(v_{t-1} - D_t^2)       FedYogi  v_0 = tau^2
    w_t = w_{t-1} + eta m_t / (sqrt(v_t) + tau)

The paper corrects no bias, and starts v at no less than tau^2. ``torch.optim.Adam`` and Flower's ``FedAdam``
correct it and start v at 0, so their first steps are others. tau is no mere guard against a division by zero
but the degree of adaptivity: an element whose updates stay far below it moves by about eta m_t / (2 tau), so
eta is chosen together with tau, and neither from Adam's habits.

A network's floating buffers (BatchNorm's running means and variances) are no parameters: no gradient stands
behind them, and an adaptive step could turn a variance negative. They take the mean update as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from common.errors import ConfigurationError

Flat = Float32[np.ndarray, " size"]
Trained = Float32[np.ndarray, " trained"]

SecondMoment = Callable[[Trained, Trained, float], Trained]
"""v_t from v_{t-1}, the squared mean update and beta2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What a server optimiser remembers of one network; never changed in place.

    Attributes:
        first: m, the running mean of the parameters' updates.
        second: v, the running scale of their squares; never negative.
    """

    first: Trained
    second: Trained


def adam(before: Trained, squared: Trained, beta2: float) -> Trained:
    """FedAdam's v: forgets a large update as fast as it learned it."""
    return beta2 * before + (1 - beta2) * squared


def yogi(before: Trained, squared: Trained, beta2: float) -> Trained:
    """FedYogi's v: moves by what the update is, not by how far it is from v, so it shrinks slowly."""
    return np.asarray(before - (1 - beta2) * squared * np.sign(before - squared))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveOptimiser:
    """FedAdam with :func:`adam`, FedYogi with :func:`yogi`.

    Attributes:
        second_moment: the rule for v.
        learning_rate: eta > 0, the centre's; what a site uses is its own.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second, in [0, 1).
        tau: degree of adaptivity, > 0, on the scale of one parameter's update.

    Raises:
        ConfigurationError: if one of them is out of range.
    """

    second_moment: SecondMoment
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.tau > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigurationError(
                "Expected learning_rate > 0, tau > 0 and beta1, beta2 in [0, 1) of a server optimiser, got "
                f"{self.learning_rate}, {self.tau}, {self.beta1}, {self.beta2}"
            )

    def init(self, *, trained: int) -> Moments:
        """The moments before round 1.

        Args:
            trained: leading values of the flat vector that are parameters (``Layout.trained_size``).
        """
        return Moments(
            first=np.zeros(trained, dtype=np.float32),
            second=np.full(trained, self.tau**2, dtype=np.float32),
        )

    def step(self, weights: Flat, mean_update: Flat, moments: Moments) -> tuple[Flat, Moments]:
        """Weights and moments after a round.

        In float32 and element by element, so the same bits on every machine.

        Args:
            weights: what was sent to the sites.
            mean_update: mean of trained minus sent weights, D_t. The paper's algorithm weighs sites alike, its
                experiments (as ``weighted_mean`` does) by their numbers of examples.
            moments: of the round before.
        """
        trained = len(moments.first)
        update = mean_update[:trained]
        first = self.beta1 * moments.first + (1 - self.beta1) * update
        second = self.second_moment(moments.second, update * update, self.beta2)
        after = weights + mean_update
        after[:trained] = weights[:trained] + self.learning_rate * first / (np.sqrt(second) + self.tau)
        return after, Moments(first=first, second=second)
