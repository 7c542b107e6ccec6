"""Who trains what: a campaign in which nothing can be trained, or too few sites train, ends with the reason.

A site that answers but had no training example for any network of a group is no participant of that round. A network
that no site has a training example for would enter the ensemble as it started: the campaign fails instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.aggregation import rules
from common.errors import CampaignError, ConfigurationError
from common.methods.stages import networks
from common.networks.spec import NetworkSpec
from common.sections.federation import FederationSettings
from common.settings import Settings
from common.training.trainable import named, subject

NOTHING = "had nothing to train"
"""Why a site that answered is no participant of a round."""
ADVICE = (
    "Look at synofed site check there: it says what each site has against its policy.minimum_cohort. Add exams, take "
    "fewer rating.folds or grades, or leave out what nobody has; then begin the campaign anew under another name"
)


def nothing_trained(specs: Iterable[NetworkSpec], *, where: str) -> CampaignError:
    """The end of a campaign whose networks, or some of them, no site can train: for single updates and sums alike.

    Args:
        specs: the networks that got no training example from any site.
        where: the group, or the plan, that they belong to.
    """
    return CampaignError(
        f"{where}: no site has a training example for {named(specs)}: nowhere are there graded exams of two "
        f"classes, of as many patients as policy.minimum_cohort asks for. Nothing is signed or handed out. {ADVICE}"
    )


def check_prospects(settings: Settings, usable: Mapping[str, Mapping[str, int]], *, sites: int) -> None:
    """Whether a campaign can train anything, as far as its sites say what they have; before a round.

    Args:
        settings: the campaign's.
        usable: site -> measurement -> training exams, 0 where it would train nothing; only of sites that tell.
        sites: all that take part.

    Raises:
        CampaignError: if nobody has anything for a measurement, or fewer sites train than the quorum.
    """
    planned = list(networks(settings).values())
    untrained = [
        spec
        for spec in planned
        if len(usable) == sites and all(told.get(subject(spec), 0) == 0 for told in usable.values())
    ]
    if untrained:
        raise nothing_trained(untrained, where="The campaign cannot begin")
    idle = sorted(site for site, told in usable.items() if not any(told.values()))
    needed = settings.federation.needed(sites)
    if settings.federation.secure is None and sites - len(idle) < needed:
        raise CampaignError(
            f"The campaign cannot begin: expected {needed} of {sites} sites that train (federation.quorum), "
            f"{', '.join(idle)} {NOTHING}. Leave out who cannot train, or set federation.quorum to at most "
            f"{sites - len(idle)}. {ADVICE}"
        )


def check_quorum(federation: FederationSettings, *, sites: int) -> None:
    """Whether this number of sites can reach the quorum, and is enough for the aggregation rule.

    Raises:
        ConfigurationError: if they cannot, or are not.
    """
    if federation.quorum != "all" and federation.quorum > sites:
        raise ConfigurationError(
            f"Expected federation.quorum of at most {sites}, the sites that train, got {federation.quorum}: lower "
            f"it, or add sites"
        )
    rules.check_sites(federation, sites=sites)


def lacking(usable: Mapping[str, int]) -> str:
    """What a site says that it would not train; empty if there is nothing."""
    nothing = sorted(name for name, exams in usable.items() if not exams)
    return f"would train nothing for {', '.join(nothing)}" if nothing else ""
