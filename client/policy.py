"""What the site permits; the centre can neither see nor change it."""

from __future__ import annotations

from common.errors import PolicyError
from common.settings import Positive, Section, Settings


class Policy(Section):
    """The ``[policy]`` section of ``site.toml``."""

    allow_unprotected: bool = False
    """Permit training without differential privacy and without secure aggregation."""
    methods: tuple[str, ...] = ()
    """Methods that may run; ``*`` stands for all that are built in."""
    maximum_rounds: Positive = 1000
    score_histograms: bool = False
    """Permit histograms of validation scores (two of 256 bins a network) to leave."""
    minimum_cohort: Positive = 5
    """Patients that must stand behind any counts that leave."""

    @property
    def permits_histograms(self) -> bool:
        """Whether histograms of validation scores may leave."""
        return self.score_histograms

    def check_plan(self, settings: Settings) -> None:
        """Whether a campaign may run here.

        Raises:
            PolicyError: naming the line of ``site.toml`` that forbids it.
        """
        if not self.allow_unprotected:
            raise PolicyError(
                "The campaign trains without differential privacy or secure aggregation: set "
                "policy.allow_unprotected = true in site.toml to permit that"
            )
        built_in = "*" in self.methods and ":" not in settings.method
        if settings.method not in self.methods and not built_in:
            raise PolicyError(
                f"The campaign's method is {settings.method!r}: add it to policy.methods in site.toml to "
                f"permit it"
            )
        if settings.federation.rounds > self.maximum_rounds:
            raise PolicyError(
                f"The campaign has {settings.federation.rounds} rounds, policy.maximum_rounds in site.toml "
                f"is {self.maximum_rounds}: raise it there to permit that"
            )
