"""What privacy costs in weighted kappa, on phantoms.

Heads on frozen public encoders are trained at five sites with each number of patients and each budget, with noise of
every site's own and under secure aggregation, several times each, and scored on the same held-out patients as the
same heads trained without privacy. Beside them stand a site that trains alone, and the whole networks trained from
the encoders' weights without privacy.

Everything that is chosen (the rate at which a budget learns) is chosen on a **rehearsal**: a cohort of other phantoms
on other machines, which anybody can make before a campaign. Nothing is tuned on the private cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64

from common.errors import ConfigurationError
from common.evaluation import agreement, bootstrap
from common.machine import pretrained
from common.networks.spec import COMBINED
from common.sections.cohort import CohortSettings, PhantomSettings, ShiftSettings
from common.settings import Settings
from private_utility import private_heads, tuned, utility_view
from private_utility.private_heads import Campaign, Release, noise_of
from private_utility.utility_view import CellResult, Measure, Study
from simulation.cohorts import cohort, disjoint
from simulation.cohorts.cohort import Cohort
from simulation.evaluation.metrics import scorer_of
from simulation.evaluation.scorer import Patients, Tally

DELTA = 1e-5
SITES = 5
PRIVATE_SEED, REHEARSAL_SEED = 2022, 7_000_019
Say = Callable[[str], None]
_kappa = partial(agreement.kappa, weights="linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        patients: training patients of all sites, several numbers.
        held_out: patients per site who are tested on.
        epsilons: budgets.
        draws: campaigns per cell.
        rehearsals: campaigns a rate in the rehearsal.
        rates: from which the rehearsal chooses.
        open_rates: the same without privacy.
        rounds: of a campaign.
        tuned_rounds: of the whole networks, of ``training.local_steps`` each; 0: they are left out.
        alone: whether a site by itself has the fewest of these patients, too.
    """

    patients: tuple[int, ...] = (150, 450, 1500)
    held_out: int = 60
    epsilons: tuple[float, ...] = (8.0, 3.0, 1.0)
    draws: int = 10
    rehearsals: int = 5
    rates: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    open_rates: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    rounds: int = 60
    tuned_rounds: int = 8
    alone: bool = True


QUICK = Size(
    patients=(50,),
    held_out=10,
    epsilons=(8.0,),
    draws=2,
    rehearsals=1,
    rates=(1.0, 2.0),
    open_rates=(2.0,),
    tuned_rounds=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is trained.

    Attributes:
        patients: at all sites.
        sites: over which they are spread; 1: each of the cohort's by itself, in turn.
        epsilon: ``None``: no privacy.
        secure: noise added once for all sites.
    """

    patients: int
    sites: int = SITES
    epsilon: float | None = None
    secure: bool = False


def cells(size: Size) -> Iterator[Cell]:
    """All that is trained with frozen encoders; the one without privacy before those that are compared with it."""
    for patients in size.patients:
        yield Cell(patients=patients)
        for epsilon in size.epsilons:
            yield from (Cell(patients=patients, epsilon=epsilon, secure=secure) for secure in (False, True))
    alone = (min(size.patients),) if size.alone else ()
    for patients in alone:
        yield Cell(patients=patients, sites=1)
        yield from (Cell(patients=patients, sites=1, epsilon=epsilon) for epsilon in size.epsilons)


def phantoms(size: Size, *, rehearsal: bool) -> PhantomSettings:
    """The private cohort, or that on which everything is chosen."""
    largest = max(size.patients) // SITES
    patients = (max(largest, min(size.patients)) if size.alone else largest) + size.held_out
    return PhantomSettings(
        sites=SITES,
        patients=patients,
        exams_per_patient=3,
        held_out=size.held_out / patients,
        unseen_device=False,
        seed=REHEARSAL_SEED if rehearsal else PRIVATE_SEED,
        shift=ShiftSettings(devices="drawn" if rehearsal else "own"),
    )


def studied(settings: Settings, phantom: PhantomSettings) -> Settings:
    """The campaign's settings on a cohort that its encoders do not know.

    Raises:
        ConfigurationError: if they do.
    """
    changed = settings.model_copy(update={"cohort": CohortSettings(phantom=phantom)})
    disjoint.check(changed)
    return pretrained.resolved(changed)


class Bench:
    """A cohort on which cells are trained and scored."""

    def __init__(self, campaign: Campaign, cohort: Cohort, size: Size, *, max_grad_norm: float) -> None:
        self.campaign = campaign
        self.cohort = cohort
        self._size = size
        self._max_grad_norm = max_grad_norm
        self.scorer = scorer_of(
            campaign.exams.assign(**{f"decision_{m}": 0 for m in campaign.settings.measurements}),
            campaign.settings,
            seed=campaign.settings.seed,
        )
        self._patients = Patients.of(campaign.exams)

    def answered(self, cell: Cell, *, rate: float, draws: int) -> Iterator[pd.DataFrame]:
        """The held-out exams as so many campaigns grade them; of a lone site, as so many at the five in turn."""
        release = self.release(cell, rate=rate)
        campaigns = self._campaigns(cell)
        if cell.epsilon is None:
            draws = len(campaigns)
        turns = (campaigns[draw % len(campaigns)] for draw in range(draws))
        return (private_heads.answers(one, private_heads.train(one, release)) for one in turns)

    def tallies(self, cell: Cell, *, rate: float, draws: int) -> list[Tally]:
        """Confusion matrices of so many campaigns."""
        return [self.tally(answered) for answered in self.answered(cell, rate=rate, draws=draws)]

    def best(self, cell: Cell, rates: Sequence[float], *, draws: int) -> float:
        """The rate at which the combined score's mean kappa is largest here."""
        found = {rate: self.combined(self.tallies(cell, rate=rate, draws=draws)) for rate in rates}
        return max(found, key=lambda rate: found[rate])

    def release(self, cell: Cell, *, rate: float) -> Release:
        """How a cell's rounds leave."""
        rounds = self._size.rounds
        return Release(
            noise_multiplier=None if cell.epsilon is None else _noise(cell.epsilon, rounds),
            max_grad_norm=self._max_grad_norm,
            secure=cell.secure,
            learning_rate=rate,
            rounds=rounds,
        )

    def tally(self, answered: pd.DataFrame) -> Tally:
        """Confusion matrices of the ensemble's decisions, by patient."""
        return self.scorer.tally(answered, self._patients)

    def combined(self, tallies: Sequence[Tally]) -> float:
        """Mean weighted kappa of the combined score."""
        return float(np.mean([_kappa(tally[COMBINED].sum(axis=0)) for tally in tallies]))

    def measured(self, tallies: Sequence[Tally], reference: Sequence[Tally]) -> dict[str, Measure]:
        """Score -> weighted kappa and what is lost of the reference's, with paired intervals over patients."""
        weights = self.scorer.weights(self._patients)
        found = {}
        for name in self.scorer.grades():
            (kappas, drawn), (full, full_drawn) = (
                _values([tally[name] for tally in system], weights) for system in (tallies, reference)
            )
            found[name] = Measure(
                kappa=bootstrap.summary(float(kappas.mean()), drawn),
                loss=bootstrap.summary(float(full.mean() - kappas.mean()), full_drawn - drawn),
                draws=len(tallies),
                draws_sd=float(kappas.std(ddof=1)) if len(tallies) > 1 else 0.0,
            )
        return found

    @property
    def tested(self) -> tuple[int, int]:
        """Held-out exams and patients."""
        return len(self.campaign.exams), len(self._patients)

    def _campaigns(self, cell: Cell) -> list[Campaign]:
        chosen = self.campaign.first(cell.patients // cell.sites)
        return [chosen] if cell.sites > 1 else [chosen.alone(site) for site in range(len(chosen.sites))]


@lru_cache(maxsize=32)
def _noise(epsilon: float, rounds: int) -> float:
    return noise_of(epsilon, delta=DELTA, rounds=rounds)


def _values(
    system: Sequence[Int64[np.ndarray, "patients grades grades"]],
    weights: Int64[np.ndarray, "replicates patients"],
) -> tuple[Float64[np.ndarray, " draws"], Float64[np.ndarray, " replicates"]]:
    """Kappa of each draw from all exams as they are, and of each replicate the mean over the draws."""
    values = np.array([_kappa(tally.sum(axis=0)) for tally in system])
    drawn = [np.asarray(_kappa(bootstrap.replicate_confusions(tally, weights))) for tally in system]
    return values, np.asarray(np.mean(drawn, axis=0))


class Desk:
    """Where cells are worked on: rehearsed, trained, scored.

    Raises:
        SynofedError: if the encoders know one of the cohorts, or cannot be read.
    """

    def __init__(self, settings: Settings, size: Size, cohorts: Path) -> None:
        torch.set_num_threads(1)
        self._size = size
        self._rehearsal, self.private = (
            bench(settings, size, cohorts=cohorts, rehearsal=rehearsal) for rehearsal in (True, False)
        )

    def trained(self, cell: Cell) -> tuple[float, list[Tally]]:
        """The rate that did best on the rehearsal's own held-out patients, and what it gave on the private cohort."""
        rates = self._size.open_rates if cell.epsilon is None else self._size.rates
        draws = self._size.rehearsals * (len(self._rehearsal.campaign.sites) if cell.sites == 1 else 1)
        rate = self._rehearsal.best(cell, rates, draws=draws)
        return rate, self.private.tallies(cell, rate=rate, draws=self._size.draws)

    def whole(self, patients: int, rate: float) -> Tally:
        """The networks trained whole, from the encoders and the heads that this rate gives without privacy."""
        chosen = self.private.campaign.first(patients // SITES)
        heads = private_heads.train(chosen, self.private.release(Cell(patients=patients), rate=rate))
        answered = tuned.answers(
            chosen, self.private.cohort, heads, patients=patients // SITES, rounds=self._size.tuned_rounds
        )
        return self.private.tally(answered)


def study(
    settings: Settings, size: Size, *, cohorts: Path, workers: int = 1, say: Say = lambda text: None
) -> Study:
    """Rehearse, choose, train and score every cell.

    Args:
        settings: of a private campaign of method ``probe`` whose encoders are there.
        size: how much.
        cohorts: folder of the two cohorts, made if they are not there.
        workers: processes that share the cells.
        say: told what is done.

    Raises:
        SynofedError: if the encoders know one of the cohorts, or cannot be read.
    """
    desk = Desk(settings, size, cohorts)
    say("cohorts and features are there")
    every = list(cells(size))
    rows: list[CellResult] = []
    references: dict[tuple[int, int], tuple[float, list[Tally]]] = {}
    with _pool(workers, (settings, size, cohorts)) as pool:
        for cell, (rate, tallies) in zip(every, pool.map(_trained, every), strict=True):
            _, reference = references.setdefault((cell.patients, cell.sites), (rate, tallies))
            rows.append(
                _row(
                    cell, desk.private, rate=rate, scores=desk.private.measured(tallies, reference), size=size
                )
            )
            say(utility_view.line(rows[-1]))
        patients = size.patients if size.tuned_rounds else ()
        rates = [references[count, SITES][0] for count in patients]
        for count, rate, tally in zip(patients, rates, pool.map(_whole, patients, rates), strict=True):
            scores = desk.private.measured([tally], references[count, SITES][1])
            row = _row(Cell(patients=count), desk.private, rate=rate, scores=scores, size=size)
            rows.append(replace(row, frozen=False))
            say(utility_view.line(rows[-1]))
    exams, tested = desk.private.tested
    campaign = desk.private.campaign
    return Study(
        rows=tuple(rows),
        exams=exams,
        patients=tested,
        weights=len(campaign.start),
        delta=DELTA,
        encoders=campaign.settings.network.weights_sha256,
    )


_desk: Desk | None = None
"""Of a worker."""


def _pool(workers: int, made_of: tuple[Settings, Size, Path]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=made_of
    )


def _start_worker(settings: Settings, size: Size, cohorts: Path) -> None:
    global _desk  # noqa: PLW0603  one per process
    _desk = Desk(settings, size, cohorts)


def _trained(cell: Cell) -> tuple[float, list[Tally]]:
    assert _desk is not None, "the worker has started"
    return _desk.trained(cell)


def _whole(patients: int, rate: float) -> Tally:
    assert _desk is not None, "the worker has started"
    return _desk.whole(patients, rate)


def bench(settings: Settings, size: Size, *, cohorts: Path, rehearsal: bool) -> Bench:
    """The private cohort, or the rehearsal's, made if it is not there.

    Args:
        settings: of a private campaign of method ``probe`` whose encoders are there.
        size: how much.
        cohorts: folder of the two.
        rehearsal: which.

    Raises:
        SynofedError: if the encoders know the cohort, or cannot be read.
    """
    phantom = phantoms(size, rehearsal=rehearsal)
    if settings.privacy is None or settings.method != "probe":
        raise ConfigurationError('Expected a configuration of method "probe" with [privacy]')
    changed = studied(settings, phantom)
    assert phantom.seed is not None
    made = cohort.ensure(phantom, seed=phantom.seed, out=cohorts / ("rehearsal" if rehearsal else "private"))
    campaign = private_heads.opened(made, changed)
    return Bench(campaign, made, size, max_grad_norm=settings.privacy.max_grad_norm)


def _row(cell: Cell, bench: Bench, *, rate: float, scores: dict[str, Measure], size: Size) -> CellResult:
    release = bench.release(cell, rate=rate)
    return CellResult(
        patients=cell.patients,
        sites=cell.sites,
        epsilon=cell.epsilon,
        secure=cell.secure,
        frozen=True,
        rounds=size.rounds,
        noise_multiplier=release.noise_multiplier,
        rate=rate,
        scores=scores,
    )
