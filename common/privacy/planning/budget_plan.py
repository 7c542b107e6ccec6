"""What a private campaign would cost and whether anything can be learnt from it, before a budget is spent.

For every design (:mod:`common.privacy.planning.designs`), with each site's own noise and under secure aggregation:
the noise that keeps a patient within epsilon, or the epsilon of a given noise; how much noise that is beside the
signal (:mod:`common.privacy.planning.noise_ratio`); the kappa that it cost on phantoms, where such runs are committed
(:mod:`common.privacy.planning.utility`); and a verdict. Epsilon is for one patient added or removed, over
everything that the design releases of the patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from common.errors import ConfigurationError
from common.privacy.accounting import accounting, adjacency
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.planning import noise_ratio, utility
from common.privacy.planning.designs import Design, Key
from common.privacy.planning.noise_ratio import Verdict
from common.privacy.planning.onlookers import Onlookers, onlookers
from common.privacy.planning.utility import Loss, Measured
from common.sections.privacy import LEAST_NOISE, MOST_NOISE

MINIMUM_SITES = 3
"""Of a sum under secure aggregation, where one may work with the centre: it hides nobody behind fewer than two."""


LEAST_EPSILON, MOST_EPSILON = 1e-3, 1e3
"""Between these a plan is made: less cannot be trained with, more protects nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Whom a campaign would be trained on.

    Attributes:
        patients: at all sites together.
        sites: that they are spread over evenly.
        survivors: sites that a sum under secure aggregation needs (U); ``None``: all.
        colluders: of them, how many may work with the centre (t).

    Raises:
        ConfigurationError: unless there is a site, and a patient for each.
    """

    patients: int
    sites: int
    survivors: int | None = None
    colluders: int = 1

    def __post_init__(self) -> None:
        if self.sites < 1 or self.patients < 1:
            raise ConfigurationError(
                f"Expected at least one patient and one site, got {self.patients} and {self.sites}"
            )
        if self.patients < self.sites:
            raise ConfigurationError(
                f"Expected a patient for each of {self.sites} sites, got {self.patients} in all: --total-patients is "
                f"the number at all sites together"
            )

    @property
    def a_site(self) -> float:
        """Patients of an average site."""
        return self.patients / self.sites

    @property
    def needed(self) -> int:
        """Sites that a sum under secure aggregation needs."""
        return self.sites if self.survivors is None else self.survivors

    def spread(self, *, secure_aggregation: bool) -> float:
        """How many times one release's noise there is in the sum over the sites."""
        if not secure_aggregation:
            return noise_ratio.own_noise(self.sites)
        return noise_ratio.shared_noise(self.sites, survivors=self.needed, colluders=self.colluders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is given: an epsilon, or the noise.

    Attributes:
        delta: in (0, 1).
        sample_rate: q in (0, 1].
        epsilon: that no patient shall exceed; ``None``: the noise is given.
        noise_multiplier: sigma; ``None``: epsilon is given.

    Raises:
        ConfigurationError: for values out of range, or if not exactly one of the last two is given.
    """

    delta: float | int
    sample_rate: float | int
    epsilon: float | int | None = None
    noise_multiplier: float | int | None = None

    def __post_init__(self) -> None:
        accounting.check_delta(self.delta)
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ConfigurationError("Expected an epsilon or a noise multiplier, and not both")
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ConfigurationError(f"Expected a finite epsilon > 0, got {self.epsilon}: a usual value is 3")
        for name, given, least, most in (
            ("epsilon", self.epsilon, LEAST_EPSILON, MOST_EPSILON),
            ("noise multiplier", self.noise_multiplier, LEAST_NOISE, MOST_NOISE),
        ):
            if given is not None and 0 < given < math.inf and not least <= given <= most:
                raise ConfigurationError(f"Expected the {name} from {least:g} to {most:g}, got {given:g}")
        PrivateSteps(sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier or 1.0, count=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignCost:
    """A design under a budget.

    Attributes:
        design: what is trained, and how.
        secure_aggregation: whether noise is added once for all sites.
        noise_multiplier: sigma of each release; the smallest of four digits that keeps within epsilon.
        epsilon: of the patient who takes part in most.
        noise_to_signal: of one step: noise in the mean gradient over the clipping norm.
        campaign_noise: the same over all steps of one vector.
        verdict: what that has meant so far.
        loss: weighted kappa that so much noise cost on phantoms; ``None`` where no run is committed.
    """

    design: Design
    secure_aggregation: bool
    noise_multiplier: float | int
    epsilon: float
    noise_to_signal: float
    campaign_noise: float
    verdict: Verdict
    loss: Loss | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequences:
    """What else happens to a patient's epsilon.

    Attributes:
        odds: how many times the odds that a patient took part can rise at most.
        round_again: epsilon if one round has to be computed again.
        campaign_again: if the whole campaign is started anew.
        two_sites: of a patient who is treated, and takes part, at two sites.
        one_dropout: under secure aggregation, if noise were shared among all sites and one dropped out; ``None``
            where there is no such sum.
        onlookers: under secure aggregation, against whom the row's epsilon holds; ``None`` where there is no sum.
    """

    odds: float
    round_again: float
    campaign_again: float
    two_sites: float
    one_dropout: float | None
    onlookers: Onlookers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All designs, and the one that is configured.

    Attributes:
        cohort: whom it would be trained on.
        budget: what is given.
        rows: designs, without and with secure aggregation.
        chosen: the row that the configuration asks for.
        consequences: of that row.
        patients_for_goal: at all sites, from which on that row is worth a trial at the same epsilon.
    """

    cohort: Cohort
    budget: Budget
    rows: tuple[DesignCost, ...]
    chosen: DesignCost
    consequences: Consequences
    patients_for_goal: int


def plan(
    designs: Sequence[Design],
    *,
    cohort: Cohort,
    budget: Budget,
    chosen: Key,
    secure_aggregation: bool,
    steps_per_round: int = 1,
    table: Sequence[Measured] = (),
) -> Plan:
    """Every design under one budget.

    Args:
        designs: to be compared.
        cohort: whom they would be trained on.
        budget: epsilon or noise.
        chosen: the design that is configured.
        secure_aggregation: whether that is configured too.
        steps_per_round: private steps in a round of the configured design.
        table: phantom runs.

    Raises:
        ConfigurationError: if the cohort cannot aggregate securely as asked.
    """
    ways = (False, True) if cohort.sites >= MINIMUM_SITES else (False,)
    rows = tuple(
        _row(design, way, cohort=cohort, budget=budget, table=table) for design in designs for way in ways
    )
    found = [row for row in rows if row.design.key == chosen and row.secure_aggregation == secure_aggregation]
    if not found:
        raise ConfigurationError(
            f"Expected at least {MINIMUM_SITES} sites for secure aggregation, got {cohort.sites}"
        )
    row = found[0]
    return Plan(
        cohort=cohort,
        budget=budget,
        rows=rows,
        chosen=row,
        consequences=_consequences(row, cohort, budget, steps_per_round),
        patients_for_goal=math.ceil(cohort.patients * row.campaign_noise / noise_ratio.GOAL),
    )


def after_dropouts(
    steps: Sequence[PrivateSteps],
    *,
    sites: int,
    colluders: int,
    dropped: int,
    delta: float | int,
) -> float:
    """Epsilon if each of the sites added sigma^2 / (sites - colluders), and some of them dropped out.

    Raises:
        ConfigurationError: if no honest site would be left.
    """
    left = sites - colluders - dropped
    if left < 1:
        raise ConfigurationError(
            f"Expected an honest site to be left of {sites}, {colluders} collude and {dropped} dropped out"
        )
    factor = math.sqrt(left / (sites - colluders))
    weaker = [
        PrivateSteps(
            sample_rate=one.sample_rate, noise_multiplier=one.noise_multiplier * factor, count=one.count
        )
        for one in steps
    ]
    return accounting.epsilon(weaker, delta=delta)


def odds(epsilon: float | int) -> float:
    """How many times the odds that a patient took part can rise: e^epsilon."""
    return math.exp(min(epsilon, 700.0))


def rounded_up(value: float | int) -> float:
    """To four digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / step - 1e-9) * step:.4g}")


def _row(
    design: Design, secure_aggregation: bool, *, cohort: Cohort, budget: Budget, table: Sequence[Measured]
) -> DesignCost:
    sigma = budget.noise_multiplier
    if sigma is None:
        assert budget.epsilon is not None, "one of the two is given"
        sigma = _sigma(budget.epsilon, budget.sample_rate, design.charged, budget.delta)
    epsilon = _epsilon(_steps(budget, sigma, design.charged), budget.delta)
    step = noise_ratio.a_step(
        noise_multiplier=sigma,
        weights=design.weights,
        patients=cohort.patients * design.share,
        sample_rate=budget.sample_rate,
        spread=cohort.spread(secure_aggregation=secure_aggregation),
    )
    campaign = noise_ratio.campaign(step, steps=design.steps)
    heads_alone = design.heads and not design.norms
    loss = utility.expected(table, campaign) if heads_alone else None
    return DesignCost(
        design=design,
        secure_aggregation=secure_aggregation,
        noise_multiplier=sigma,
        epsilon=epsilon,
        noise_to_signal=step,
        campaign_noise=campaign,
        verdict=noise_ratio.verdict(
            campaign, epsilon=epsilon, heads=heads_alone, kappa_loss=None if loss is None else loss.kappa
        ),
        loss=loss,
    )


def _consequences(row: DesignCost, cohort: Cohort, budget: Budget, steps_per_round: int) -> Consequences:
    count, sigma, delta = row.design.charged, row.noise_multiplier, budget.delta
    vectors = 1 if row.design.heads else row.design.networks
    again = _epsilon(_steps(budget, sigma, 2 * count), delta)
    steps = _steps(budget, sigma, count)
    shared = row.secure_aggregation
    return Consequences(
        odds=odds(row.epsilon),
        round_again=_epsilon(_steps(budget, sigma, count + steps_per_round * vectors), delta),
        campaign_again=again,
        two_sites=_group(steps, delta) if shared else again,
        one_dropout=_one_dropout(steps, cohort, delta) if shared else None,
        onlookers=onlookers([steps], survivors=cohort.needed, colluders=cohort.colluders, delta=delta)
        if shared
        else None,
    )


def _one_dropout(steps: PrivateSteps, cohort: Cohort, delta: float | int) -> float | None:
    if cohort.sites - cohort.colluders < 2:
        return None
    return after_dropouts([steps], sites=cohort.sites, colluders=cohort.colluders, dropped=1, delta=delta)


def _steps(budget: Budget, sigma: float | int, count: int) -> PrivateSteps:
    return PrivateSteps(sample_rate=budget.sample_rate, noise_multiplier=sigma, count=count)


@lru_cache(maxsize=256)
def _sigma(epsilon: float | int, sample_rate: float | int, count: int, delta: float | int) -> float:
    return rounded_up(accounting.noise_multiplier(epsilon, sample_rate=sample_rate, count=count, delta=delta))


@lru_cache(maxsize=256)
def _epsilon(steps: PrivateSteps, delta: float | int) -> float:
    return accounting.epsilon([steps], delta=delta)


@lru_cache(maxsize=256)
def _group(steps: PrivateSteps, delta: float | int) -> float:
    """Two records of one patient in the same sums."""
    return adjacency.group_epsilon([steps], patients=2, delta=delta)
