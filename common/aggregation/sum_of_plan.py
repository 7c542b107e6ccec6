"""The sum that a plan means, made from it on each side: nobody sends it."""

from __future__ import annotations

from collections.abc import Mapping

from common.aggregation.update_sum import Summed, UpdateSum
from common.errors import ConfigurationError
from common.networks.spec import NetworkSpec
from common.privacy.accounting import of_plan
from common.privacy.mechanism.private_sum import PrivateSum
from common.settings import Settings
from common.training.local_settings import selects


def planned_sum(
    settings: Settings, networks: Mapping[str, NetworkSpec], sizes: Mapping[str, int]
) -> PrivateSum | UpdateSum:
    """How some networks of a plan are summed.

    Args:
        settings: of the campaign; with secure aggregation.
        networks: that are summed as one vector, by name, in order.
        sizes: numbers in the update of each.

    Raises:
        ConfigurationError: if the plan has no secure aggregation, or its numbers do not fit.
    """
    secure, privacy = settings.federation.secure, settings.privacy
    if secure is None:
        raise ConfigurationError("Expected a plan with [federation.secure], got one without")
    if privacy is None or privacy.mechanism == "none":
        graded = privacy is None
        return UpdateSum(
            networks={
                name: Summed(
                    size=sizes[name],
                    classes=spec.target.classes if graded and selects(spec, settings) else 0,
                )
                for name, spec in networks.items()
            },
            secure=secure,
        )
    return PrivateSum(
        max_grad_norm=privacy.max_grad_norm,
        noise_multiplier=of_plan.steps(privacy, 1).noise_multiplier,
        patients=privacy.patients,
        sites=secure.sites,
        survivors=secure.survivors,
        colluders=secure.colluders,
        length=sum(sizes[name] for name in networks),
    )
