"""What noise cost in kappa where it was measured: a committed table of phantom runs, and what lies between them.

``utility.csv`` has a row for each kind of campaign of heads on frozen encoders, as
``python -m private_utility`` wrote it:

==========================  ====================================================================================
column                      content
==========================  ====================================================================================
``epsilon``, ``delta``      that it spent
``patients``, ``sites``     in all, and how many sites they were spread over
``secure_aggregation``      ``no``: every site adds all noise; ``yes``: a share, all surviving and one colluding
``weights``                 numbers that were trained
``sample_rate``, ``rounds``, ``noise_multiplier``  of its private steps
``kappa_loss``              weighted kappa of the same heads trained without privacy, less that with: of the score
                            that loses most, mean over several campaigns
``run``, ``version``        the file in ``docs/results`` and the cell's name, and the version of synofed
==========================  ====================================================================================

The predictor is the noise of a whole campaign over the clipping norm
(:func:`common.privacy.planning.noise_ratio.campaign`): patients, sites, weights and budget enter it together.
Nothing is said outside what was measured.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import ConfigurationError
from common.privacy.planning import noise_ratio

PHANTOM_VERSION = 4
"""Of the phantoms that the committed table was measured on (``simulation.cohorts.cohort.VERSION``)."""
COLUMNS = (
    "epsilon", "delta", "patients", "sites", "secure_aggregation", "weights", "sample_rate", "rounds",
    "noise_multiplier", "kappa_loss", "run", "version",
)  # fmt: skip

COLLUDERS = 1
"""Sites that were taken to work with the centre where noise was shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A phantom run.

    Attributes:
        noise: of its whole campaign, over the clipping norm.
        kappa_loss: weighted kappa without privacy less that with.
        run: its name.
    """

    noise: float | int
    kappa_loss: float | int
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is expected between two phantom runs.

    Attributes:
        kappa: weighted kappa that noise costs.
        runs: the nearest run with no more noise, and the nearest with no less.
    """

    kappa: float
    runs: tuple[str, ...]


def read(text: str) -> tuple[Measured, ...]:
    """The rows of a table.

    Raises:
        ConfigurationError: if it has other columns, or a value that cannot be.
    """
    reader = csv.DictReader(text.splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ConfigurationError(f"Expected a table with the columns {COLUMNS}, got {reader.fieldnames}")
    return tuple(_measured(row, line) for line, row in enumerate(reader, start=2))


def expected(table: Sequence[Measured], noise: float | int) -> Loss | None:
    """The loss at some noise, between the phantom runs; ``None`` where none has as little, or as much.

    More noise never helps, so the runs are fitted by an isotonic regression over the logarithm of the noise.
    """
    below = [row for row in table if row.noise <= noise]
    above = [row for row in table if row.noise >= noise]
    if not below or not above:
        return None
    from scipy.optimize import isotonic_regression  # noqa: PLC0415

    measured, place, runs = np.unique([row.noise for row in table], return_inverse=True, return_counts=True)
    losses = np.bincount(place, weights=[row.kappa_loss for row in table]) / runs
    fitted = isotonic_regression(losses, weights=runs).x
    nearest = (max(below, key=lambda row: row.noise).run, min(above, key=lambda row: row.noise).run)
    return Loss(
        kappa=float(np.interp(np.log(float(noise)), np.log(measured), fitted)),
        runs=tuple(dict.fromkeys(nearest)),
    )


def _measured(row: dict[str, str], line: int) -> Measured:
    try:
        shared = {"yes": True, "no": False}[row["secure_aggregation"]]
        sites, patients, rounds = int(row["sites"]), int(row["patients"]), int(row["rounds"])
        step = noise_ratio.a_step(
            noise_multiplier=float(row["noise_multiplier"]),
            weights=int(row["weights"]),
            patients=patients,
            sample_rate=float(row["sample_rate"]),
            spread=noise_ratio.shared_noise(sites, survivors=sites, colluders=COLLUDERS)
            if shared
            else noise_ratio.own_noise(sites),
        )
        loss = float(row["kappa_loss"])
        if not math.isfinite(loss):
            raise ValueError("kappa_loss is not finite")
        return Measured(noise=noise_ratio.campaign(step, steps=rounds), kappa_loss=loss, run=row["run"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"Line {line} of the table of phantom runs cannot be used: {error!r}"
        ) from None
