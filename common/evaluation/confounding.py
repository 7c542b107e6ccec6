"""Whether the machine alone tells what a network is to learn: a shortcut that no split of the patients takes away.

Folds that are stratified by machine and target hold the same mixture of both, in training as in test. They do not
unlink the two: where most patients with psoriatic arthritis were scanned on one of two machines, a network that knows
the machines' looks does well in every fold, and fails where the machine says something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

NOTABLE = 0.2
"""Cramer's V from which on a link is told.

For two machines and two classes, both shared out evenly, who knows the machine alone reaches an AUC of (1 + V) / 2:
0.60 at 0.2. Published networks tell diagnoses apart with 0.65 to 0.67 (Schlereth et al., EULAR 2025): of a link of
this size on, an appreciable part of such a result could be the machine's. A smaller one would be told of most
clinics, where patients are never shared out over machines by lot.
"""
LEVEL = 0.01
"""A link is told only if so few of the permutations of the patients give one as strong."""
PERMUTATIONS = 999
FEWEST_PATIENTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a nominal property of patients' exams, such as the machine, goes with another one.

    Attributes:
        patients: who have both.
        cramers_v: 0: none, to 1: one tells the other; corrected for chance, so that without a link it is 0 or near.
        p_value: share of permutations of the patients that give as strong a link, itself counted.
    """

    patients: int
    cramers_v: float
    p_value: float

    @property
    def notable(self) -> bool:
        """Whether it should be told, see :data:`NOTABLE`."""
        return self.cramers_v >= NOTABLE and self.p_value <= LEVEL


def link(patients: Sequence[str], one: Sequence[str], other: Sequence[str]) -> Link | None:
    """The link between two properties of exams, patient by patient.

    A patient counts once: where the exams of one have several values, each for its share. The table of shares has
    phi^2 = chi^2 / n. Permutations give whole patients the machines of others, which keeps what is alike within a
    patient together; the mean phi^2 of the permutations is what chance alone gives, and is taken off:
    V = root of max(0, phi^2 - mean) / (min(rows, columns) - 1 - mean), as Bergsma's correction (2013, J Korean Stat
    Soc 42:323) does by a formula that holds for independent exams only. The permutations are always the same.

    Args:
        patients: of each exam.
        one: its value of one property; an empty text is no value.
        other: its value of the other.

    Returns:
        The link; ``None`` where fewer than ``FEWEST_PATIENTS`` have both, or all have the same.
    """
    rows = [(p, a, b) for p, a, b in zip(patients, one, other, strict=True) if a and b]
    who = sorted({patient for patient, *_ in rows})
    first, second = (_shares(who, [(row[0], row[i]) for row in rows]) for i in (1, 2))
    if len(who) < FEWEST_PATIENTS or min(first.shape[1], second.shape[1]) < 2:
        return None
    found = _phi2(first, second)
    rng = np.random.default_rng(0)
    by_chance = np.array([_phi2(first[rng.permutation(len(who))], second) for _ in range(PERMUTATIONS)])
    mean, most = float(by_chance.mean()), min(first.shape[1], second.shape[1]) - 1
    corrected = max(found - mean, 0.0) / max(most - mean, 1e-12)
    return Link(
        patients=len(who),
        cramers_v=float(min(np.sqrt(corrected), 1.0)),
        p_value=float((1 + (by_chance >= found - 1e-12).sum()) / (1 + PERMUTATIONS)),
    )


def sentence(link: Link, *, one: str, other: str) -> str:
    """What a notable link means, for those who train or read results.

    Args:
        link: between the two.
        one: what could be a shortcut, for example ``the machine``.
        other: what networks are to learn, for example ``diagnosis``.
    """
    return (
        f"{one[0].upper()}{one[1:]} tells {other} to a degree (Cramer's V {link.cramers_v:.2f} over {link.patients} "
        f"patients, p {link.p_value:.3f}): a network may learn {one} in its place. Stratified folds do not cure "
        f"that; patients of every {other} on every machine do, or a test on a machine that was not trained on"
    )


def _shares(who: Sequence[str], values: Sequence[tuple[str, str]]) -> Float64[np.ndarray, "patients values"]:
    """The share of each patient's exams that has each value; rows sum to 1."""
    columns = {value: j for j, value in enumerate(sorted({value for _, value in values}))}
    rows = {patient: i for i, patient in enumerate(who)}
    counts = np.zeros((len(who), len(columns)))
    for patient, value in values:
        counts[rows[patient], columns[value]] += 1
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _phi2(first: Float64[np.ndarray, "patients a"], second: Float64[np.ndarray, "patients b"]) -> float:
    """Pearson's phi^2 of the patients' table: sum of observed^2 / (row x column) - 1, in shares."""
    table = first.T @ second / len(first)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0))
    return float((table**2 / expected).sum() - 1)
