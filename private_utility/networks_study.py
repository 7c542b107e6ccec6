"""Which networks give more for the same epsilon: the goal's cell alone, several designs on the same patients.

A design is a configuration of `synofed pretrain` and a method's settings. Its rate is chosen on the rehearsal's
phantoms, as in the study; on the private cohort it is trained with fresh noise several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from common import settings as configuration
from common.evaluation import bootstrap
from common.settings import Settings
from private_utility import utility_study
from private_utility.networks_view import Compared, Comparison, Payer
from private_utility.utility_study import DELTA, SITES, Bench, Cell, Size
from simulation.engine.progress import Display
from simulation.evaluation.scorer import Patients, Scorer, Tally
from simulation.runs import pretrain

PATIENTS, EPSILON = 450, 3.0
"""Of the goal."""
OWN = "the campaign's own"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is compared.

    Attributes:
        name: in the report.
        config: of `synofed pretrain`, which makes its encoders; their neck is the heads'. ``None``: the
            campaign's own.
        encoders: how many of them, the first; ``None``: all.
        start: of the heads.
        train: what trains of each member.
    """

    name: str
    config: Path | None = None
    encoders: int | None = None
    start: Literal["random", "encoder"] = "random"
    train: Literal["heads", "norms"] = "heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A design's campaigns on the private cohort."""

    design: Design
    bench: Bench
    rate: float
    open: pd.DataFrame
    private: tuple[pd.DataFrame, ...]

    def tallies(self, frames: Sequence[pd.DataFrame]) -> list[Tally]:
        return [self.bench.tally(frame) for frame in frames]


def compare(
    settings: Settings,
    designs: Sequence[Design],
    *,
    size: Size,
    folder: Path,
    display: Display,
    say: Say = lambda text: None,
) -> Comparison:
    """Pretrain, rehearse, train and score every design.

    Args:
        settings: of a private campaign of method ``probe``.
        designs: the first is what the others are compared with.
        size: how many campaigns; of its patients the first number counts.
        folder: of encoders and cohorts, made if they are not there.
        display: shows how encoders are made.
        say: told what is done.

    Raises:
        SynofedError: if encoders cannot be made, or know one of the cohorts.
    """
    cell = Cell(patients=size.patients[0], epsilon=EPSILON, secure=True)
    tried = []
    for design in designs:
        changed = designed(settings, design, folder=folder, display=display)
        tried.append(_tried(changed, design, cell, size, folder))
        say(f"{design.name}: rate {tried[-1].rate:g}")
    first = tried[0]
    exams, patients = first.bench.tested
    noise = first.bench.release(cell, rate=first.rate).noise_multiplier
    assert noise is not None, "the cell has an epsilon"
    return Comparison(
        patients=cell.patients,
        sites=SITES,
        epsilon=EPSILON,
        delta=DELTA,
        rounds=size.rounds,
        noise_multiplier=noise,
        draws=size.draws,
        exams=exams,
        tested=patients,
        designs=tuple(_compared(one, first) for one in tried),
        payers=tuple(payer for one in tried for payer in _payers(one)),
    )


def designed(settings: Settings, design: Design, *, folder: Path, display: Display) -> Settings:
    """The campaign's settings with a design's encoders, which are made if they are not there.

    Raises:
        SynofedError: if they cannot be made.
    """
    if design.config is None:
        return settings
    recipe = configuration.load(design.config)
    out = folder / "encoders" / design.config.stem
    pretrain.pretrain(recipe, out=out, display=display)
    probe = settings.probe.model_copy(
        update={
            "encoders": design.encoders or recipe.probe.encoders,
            "neck": recipe.probe.neck,
            "start": design.start,
            "train": design.train,
        }
    )
    network = recipe.network.model_copy(update={"weights": str(out)})
    return settings.model_copy(update={"probe": probe, "network": network})


def _tried(settings: Settings, design: Design, cell: Cell, size: Size, folder: Path) -> _Tried:
    rehearsal, private = (
        utility_study.bench(settings, size, cohorts=folder / "cohorts", rehearsal=other)
        for other in (True, False)
    )
    open_cell = replace(cell, epsilon=None, secure=False)
    rate = rehearsal.best(cell, size.rates, draws=size.rehearsals)
    open_rate = rehearsal.best(open_cell, size.open_rates, draws=1)
    return _Tried(
        design=design,
        bench=private,
        rate=rate,
        open=next(private.answered(open_cell, rate=open_rate, draws=1)),
        private=tuple(private.answered(cell, rate=rate, draws=size.draws)),
    )


def _compared(one: _Tried, first: _Tried) -> Compared:
    private = one.tallies(one.private)
    ours = one.bench.measured(private, one.tallies([one.open]))
    against = one.bench.measured(private, first.tallies(first.private))
    campaign = one.bench.campaign
    return Compared(
        name=one.design.name,
        encoders=campaign.settings.network.weights_sha256,
        made=OWN if one.design.config is None else one.design.config.name,
        start=one.design.start,
        members=campaign.settings.probe.encoders,
        weights=len(campaign.start),
        rate=one.rate,
        scores=ours,
        gained={
            name: bootstrap.Estimate(value=-m.loss.value, low=-m.loss.high, high=-m.loss.low)
            for name, m in against.items()
        },
    )


def _payers(one: _Tried) -> Iterator[Payer]:
    scorer, patients = one.bench.scorer, Patients.of(one.open)
    owner, weights = patients.number(one.open), scorer.weights(patients)
    truth = scorer.answers(one.open, scorer.source)
    exams_of = {
        f"site {site} ({device})": rows for (site, device), rows in one.open.groupby(["site", "device"])
    }
    for score, grades in scorer.grades().items():
        without = _error(scorer, one.open, score)
        with_ = np.mean([_error(scorer, frame, score) for frame in one.private], axis=0)
        groups = {f"grade {grade}": truth[score] == grade for grade in range(grades)}
        groups |= {name: one.open.index.isin(rows.index) for name, rows in exams_of.items()}
        for group, among in groups.items():
            if among.any():
                yield Payer(
                    design=one.design.name,
                    score=score,
                    group=group,
                    exams=int(among.sum()),
                    patients=len(np.unique(owner[among])),
                    open=float(without[among].mean()),
                    private=float(with_[among].mean()),
                    more=_mean(with_ - without, among, owner, weights),
                )


def _error(scorer: Scorer, frame: pd.DataFrame, score: str) -> Float64[np.ndarray, " exams"]:
    """Distance of each exam's grade from the true one."""
    truth, answer = scorer.answers(frame, scorer.source)[score], scorer.answers(frame, "decision")[score]
    distance: Float64[np.ndarray, " exams"] = np.abs(answer - truth).astype(np.float64)
    return distance


def _mean(
    values: Float64[np.ndarray, " exams"],
    among: Bool[np.ndarray, " exams"],
    owner: Int64[np.ndarray, " exams"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> bootstrap.Estimate:
    """The mean over some exams, with its interval over patients."""
    size = weights.shape[1]
    sums = np.bincount(owner[among], weights=values[among], minlength=size)
    counts = np.bincount(owner[among], minlength=size)
    with np.errstate(invalid="ignore"):
        drawn = (weights @ sums) / (weights @ counts)
    return bootstrap.summary(float(values[among].mean()), drawn)
