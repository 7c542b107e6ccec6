"""What the site permits; the centre can neither see nor change it."""

from __future__ import annotations

from common.errors import PolicyError
from common.extensions import is_own
from common.settings import Positive, Section, Settings


class Policy(Section):
    """The ``[policy]`` section of ``site.toml``."""

    allow_unprotected: bool = False
    """Permit training without differential privacy and without secure aggregation."""
    methods: tuple[str, ...] = ()
    """Methods that may run; ``*`` stands for all that are built in."""
    code: tuple[str, ...] = ()
    """Methods, backbones and algorithms that are not built in and may run, as ``package.module:Name``; what they
    name has to be installed at the site. ``*`` stands for anything that is installed: for simulations."""
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
        self._check_code(settings)
        permitted = is_own(settings.method) or "*" in self.methods or settings.method in self.methods
        if not permitted:
            raise PolicyError(
                f"The campaign's method is {settings.method!r}: add it to policy.methods in site.toml to "
                f"permit it"
            )
        if settings.federation.rounds > self.maximum_rounds:
            raise PolicyError(
                f"The campaign has {settings.federation.rounds} rounds, policy.maximum_rounds in site.toml "
                f"is {self.maximum_rounds}: raise it there to permit that"
            )

    def _check_code(self, settings: Settings) -> None:
        """Whether everything that is not built in may run: asked before any of it is imported."""
        if "*" in self.code:
            return
        for setting, name in _code(settings).items():
            if is_own(name) and name not in self.code:
                raise PolicyError(
                    f"The campaign's {setting} is {name!r}, which is not built in: add it to policy.code in "
                    f"site.toml to permit it"
                )


def _code(settings: Settings) -> dict[str, str]:
    """The settings that may name code that runs at a site; ``federation.rule`` runs at the centre only."""
    return {
        "method": settings.method,
        "network.backbone": settings.network.backbone,
        "andersen.backbone": settings.andersen.backbone,
        "andersen.binary_backbone": settings.andersen.binary_backbone,
        "federation.algorithm": settings.federation.algorithm,
    }
