"""Readers: people who grade what the pictures show, with bias and noise.

A reader sees a joint's severity on a continuous scale, not its grade: mistakes happen at borders of grades. The
three at each site, whose consensus the networks learn, are trained readers. *Ordinary* readers, who err far more,
are drawn for simulated reader studies only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.phantom.arrays import Floats, Mask
from simulation.phantom.section import Exams
from simulation.phantom.severity import WITHIN, Severity

READERS = 3
HYPERTROPHY_NOISE, VASCULARITY_NOISE = 0.25, 0.48
"""Spread of one reading; calibrated to linear kappas of about 0.87 and 0.79 between two readers of a site."""
SITE_BIAS, READER_BIAS = 0.06, 0.06
"""Spreads of what a site's readers have in common, and of each reader's own habit."""
FLOW_INFLATION = 0.12
"""Areas of flow are read higher than the strict rule says: grades 2 and 3 at lower colour fractions."""
OUTSIDE_DOUBT = 0.25
"""How far flow outside the synovium, which they know not to count, raises the vascularity that readers see."""
MIMICRY = 0.4
"""How far an effusion that looks like synovium raises the hypertrophy that readers see."""

ORDINARY_NOISE, ORDINARY_BIAS = 1.9, 0.5
"""Spread of an ordinary reader's single reading of either measurement, and of his own habit, in grades.

Calibrated to an accuracy of the combined score of 41.4 % on the phantom's mix of grades: RATING's readers alone.
One figure cannot tell noise from habit; the habit's spread is chosen so that readers differ by several percent.
"""
EXPERIENCE = {"senior": (0.45, 0.10), "intermediate": (0.95, 0.30), "junior": (ORDINARY_NOISE, ORDINARY_BIAS)}
"""Level -> spreads of a reading and of a reader's habit, in grades: from somewhat less steady than a site's trained
readers to ordinary ones. Ours: He et al. 2024 give a range of agreement of their 12, not their figures by experience.
"""
ALONE, ASSISTED, ENSEMBLE = 0.414, 0.640, 0.861
"""Combined accuracy in RATING's reader study without and with assistance, and of its ensemble (Zhou et al. 2022)."""
FOLLOWING = (ASSISTED - ALONE) / (ENSEMBLE - ALONE)
"""Chance that an assisted reader takes the ensemble's answer for his own, about 0.51: what leads from the first
accuracy to the second beside the third, if he is as often right as before whenever he does not. **An assumption**:
with it the effect of assistance is put into a simulated study, and not found by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One reader's habits, in grades.

    Attributes:
        name: as written in the table of grades.
        hypertrophy_bias: added to every hypertrophy he sees.
        vascularity_bias: added to every vascularity he sees.
    """

    name: str
    hypertrophy_bias: float
    vascularity_bias: float


def draw_readers(rng: np.random.Generator, *, prefix: str = "r", bias: float = 0.0) -> tuple[Reader, ...]:
    """The readers of a site; ``bias`` is added to what they see of either measurement, in grades."""
    site = rng.normal(0, SITE_BIAS, 2) + bias
    own = rng.normal(0, READER_BIAS, (READERS, 2))
    return tuple(
        Reader(
            name=f"{prefix}{i + 1}",
            hypertrophy_bias=float(site[0] + own[i, 0]),
            vascularity_bias=float(site[1] + own[i, 1]),
        )
        for i in range(READERS)
    )


def read(
    rng: np.random.Generator, readers: tuple[Reader, ...], exams: Exams
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hypertrophy and vascularity that each reader gives to each exam, ``(readers, exams)``; valid pairs all.

    Args:
        rng: of the patient.
        readers: the site's.
        exams: what they look at.
    """
    seen = _seen(
        exams.severity,
        mimicry=exams.mimicry,
        shown_fraction=exams.shown_fraction,
        flow_outside=exams.flow_outside,
    )
    return _read(rng, readers, seen, noise=(HYPERTROPHY_NOISE, VASCULARITY_NOISE))


def draw_ordinary_readers(rng: np.random.Generator, *, count: int, prefix: str) -> tuple[Reader, ...]:
    """Readers without special training, who have nothing in common."""
    own = rng.normal(0, ORDINARY_BIAS, (count, 2))
    return tuple(
        Reader(name=f"{prefix}{i + 1}", hypertrophy_bias=float(h), vascularity_bias=float(v))
        for i, (h, v) in enumerate(own)
    )


def draw_severity(
    rng: np.random.Generator, hypertrophy: NDArray[np.int64], vascularity: NDArray[np.int64]
) -> Severity:
    """Severities of joints of which only the true grades ``(exams,)`` are known: anywhere within the grade.

    The phantom itself draws them so, but for areas of flow in a sliver of synovium.
    """
    h, v = (grades + 0.5 + WITHIN * (rng.random(len(grades)) - 0.5) for grades in (hypertrophy, vascularity))
    return Severity(hypertrophy=h, vascularity=v)


def read_alone(
    rng: np.random.Generator, readers: tuple[Reader, ...], severity: Severity
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hypertrophy and vascularity that ordinary readers give, ``(readers, exams)``; valid pairs all.

    What misleads in a single picture (effusions, flow that is not shown) is not known here: it is part of the
    noise.
    """
    none = np.zeros(len(severity))
    seen = _seen(severity, mimicry=none, shown_fraction=none + 1, flow_outside=none > 0)
    return _read(rng, readers, seen, noise=(ORDINARY_NOISE, ORDINARY_NOISE))


def read_by_experience(
    rng: np.random.Generator, severity: Severity, *, each: int
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Readers of each level of :data:`EXPERIENCE`, and the pairs that they give, ``(readers, exams)``.

    Args:
        rng: of the study.
        severity: of the joints.
        each: readers of a level.
    """
    none = np.zeros(len(severity))
    seen = _seen(severity, mimicry=none, shown_fraction=none + 1, flow_outside=none > 0)
    names: list[str] = []
    pairs = []
    for level, (noise, habit) in EXPERIENCE.items():
        own = rng.normal(0, habit, (each, 2))
        readers = tuple(
            Reader(name=f"{level}-{i + 1}", hypertrophy_bias=float(h), vascularity_bias=float(v))
            for i, (h, v) in enumerate(own)
        )
        names += [reader.name for reader in readers]
        pairs.append(_read(rng, readers, seen, noise=(noise, noise)))
    hypertrophy, vascularity = (np.concatenate(grades) for grades in zip(*pairs, strict=True))
    return names, hypertrophy, vascularity


def read_assisted(
    rng: np.random.Generator,
    readers: tuple[Reader, ...],
    severity: Severity,
    *,
    answers: tuple[NDArray[np.int64], NDArray[np.int64]],
    following: float = FOLLOWING,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same at a second reading, shown an ensemble's answers.

    Args:
        rng: of the study.
        readers: the same as of :func:`read_alone`.
        severity: of the same joints.
        answers: hypertrophy and vascularity of the ensemble, ``(exams,)``, valid pairs.
        following: chance that a reader takes the ensemble's answer, whole, whatever he sees; an assumption.
    """
    own = read_alone(rng, readers, severity)
    follows = rng.random(own[0].shape) < following
    hypertrophy, vascularity = (
        np.where(follows, answer, grades) for answer, grades in zip(answers, own, strict=True)
    )
    return hypertrophy, vascularity


def _read(
    rng: np.random.Generator,
    readers: tuple[Reader, ...],
    seen: tuple[Floats, Floats],
    *,
    noise: tuple[float, float],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    hypertrophy, vascularity = seen
    shape = (len(readers), len(hypertrophy))
    bias = np.array([[reader.hypertrophy_bias, reader.vascularity_bias] for reader in readers])
    see_h = hypertrophy + bias[:, :1] + rng.normal(0, noise[0], shape)
    see_v = vascularity + bias[:, 1:] + rng.normal(0, noise[1], shape)
    grades_h, grades_v = _grade(see_h), _grade(see_v)
    # A reader who has seen no synovium takes faint colour for noise; who is sure of the colour, looks again.
    grades_v = np.where((grades_h == 0) & (see_v < 1.6), 0, grades_v)
    return np.where(grades_v > 0, np.maximum(grades_h, 1), grades_h), grades_v


def _seen(
    severity: Severity, *, mimicry: Floats, shown_fraction: Floats, flow_outside: Mask
) -> tuple[Floats, Floats]:
    """Severity as the pictures show it to everybody: effusions and vessels mislead, weak flow is missed."""
    hypertrophy = severity.hypertrophy + MIMICRY * mimicry * (severity.hypertrophy < 2)
    visible = np.sqrt(np.clip(shown_fraction, 0, 1))
    strength = 0.35 + (severity.vascularity - 0.35) * visible
    inflated = strength + FLOW_INFLATION * (severity.vascularity >= 2)
    # Without flow there is nothing to be in two minds about: keep such joints well inside grade 0.
    without = 0.35 + OUTSIDE_DOUBT * flow_outside
    return hypertrophy, np.where(severity.vascularity < 1, without, inflated)


def _grade(seen: Floats) -> NDArray[np.int64]:
    return np.clip(np.floor(seen), 0, 3).astype(np.int64)
