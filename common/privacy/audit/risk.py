"""What steps are worth to an attacker, in words that need no epsilon: by the library riskcal.

An attack says of a person whether they took part. Its *advantage* is its true positive rate less its false positive
rate, at best; whoever guesses for as many who took part as did not is right for ``(1 + advantage) / 2`` of them. Both
follow from the trade-off curve of the steps, and hold for every attack there is.

========================  ====================================================================
steps                     curve
========================  ====================================================================
none                      no advantage: as many false positives as true ones
of the whole cohort       one Gaussian's, exact
sampled                   the privacy loss distribution's, for adding and removing a patient
========================  ====================================================================

Source: Kulynych, Gomez et al. 2024, arXiv 2407.02191.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.privacy.accounting import accounting
from common.privacy.accounting.accounting import PrivateSteps

TRUE_POSITIVES = 0.5
"""Of those who took part, how many the attack is to find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """The best attack on steps.

    Attributes:
        advantage: true less false positive rate, at most, in [0, 1].
        false_positives: rate of them, at least, of an attack that finds :data:`TRUE_POSITIVES` of who took part.
    """

    advantage: float
    false_positives: float

    @property
    def right(self) -> float:
        """Share of right guesses where as many took part as did not, at most."""
        return (1 + self.advantage) / 2

    def __str__(self) -> str:
        return (
            f"Of 100 people like you, of whom 50 took part, tossing a coin is right about 50; the best attack on "
            f"all that left is right about {100 * self.right:.0f} at most (advantage {self.advantage:.2f}). An "
            f"attack that finds {100 * TRUE_POSITIVES:.0f} of 100 who took part takes at least "
            f"{100 * self.false_positives:.0f} of 100 who did not for such."
        )


def risk(steps: Sequence[PrivateSteps]) -> Risk:
    """Of everything that was released.

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
    """
    merged = accounting.merge(steps)
    if not merged:
        return Risk(advantage=0.0, false_positives=TRUE_POSITIVES)
    from riskcal import analysis  # noqa: PLC0415  seconds

    at = 1 - TRUE_POSITIVES  # the curve of adding and removing is its own inverse
    if all(step.sample_rate == 1 for step in merged):
        mu = accounting.gaussian_mu(merged)
        return Risk(
            advantage=float(analysis.get_advantage_from_gdp(mu)),
            false_positives=float(analysis.get_beta_from_gdp(mu=mu, alpha=at)),
        )
    losses = accounting.composed(merged)
    return Risk(
        advantage=float(analysis.get_advantage_from_pld(losses)),
        false_positives=float(analysis.get_beta_from_pld(losses, alpha=at)),
    )
