"""Which site a patient goes to, and who is held out for testing; patients are never split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from client.ledger.identifiers import respelled
from common.errors import ConfigurationError, DataError

DRAWS = 1000
"""Dirichlet partitions that are drawn before giving up on one in which every site can train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What a partition may depend on.

    Attributes:
        patient_id: as in the manifest.
        grade: the highest grade of the patient's exams.
        group: value of the column that is split by, the most frequent one; empty where none is.
        split: ``train``, ``test`` or empty, as the manifest says.
    """

    patient_id: str
    grade: int
    group: str = ""
    split: str = ""


Partition = dict[str, list[Patient]]
"""Site name -> its patients."""


def by_group(patients: Sequence[Patient], *, sites: int | None, names: Mapping[str, str]) -> Partition:
    """A site for each group, or for several: the largest group goes to the site with fewest patients so far.

    Args:
        patients: with their groups.
        sites: how many; ``None``: one per group.
        names: group -> site name, used where each site has one group.

    Raises:
        ConfigurationError: if there are fewer groups than sites.
    """
    groups = Counter(patient.group for patient in patients)
    count = len(groups) if sites is None else sites
    if len(groups) < count:
        raise ConfigurationError(
            f"Expected at least {count} groups for {count} sites, got {sorted(groups)}: lower sites, or "
            f"split by dirichlet or size"
        )
    load, home = [0] * count, {}
    for group, size in sorted(groups.items(), key=lambda item: (-item[1], item[0])):
        home[group] = load.index(min(load))
        load[home[group]] += size
    labels = site_names(count)
    if len(groups) == count:
        labels = [name for _, name in sorted((home[group], names[group]) for group in groups)]
    return _collect(patients, [home[patient.group] for patient in patients], labels)


def by_size(patients: Sequence[Patient], *, weights: Sequence[float], rng: np.random.Generator) -> Partition:
    """Random patients, as many per site as its weight says (largest remainders)."""
    home = _cut(rng.permutation(len(patients)), np.asarray(weights, dtype=np.float64))
    return _collect(patients, home.tolist(), site_names(len(weights)))


def by_dirichlet(
    patients: Sequence[Patient],
    *,
    sites: int,
    alpha: float,
    least_patients: int,
    held_out: float,
    rng: np.random.Generator,
) -> Partition:
    """Shares of each grade over the sites drawn from a Dirichlet distribution.

    A draw that leaves some site with too few patients to train on is drawn again, from the same generator:
    the partition is that of the first draw that serves, so it too is fixed by the seed.

    Source: Hsu, Qi and Brown 2019, arXiv 1909.06335.

    Args:
        patients: patients with their highest grades.
        sites: how many.
        alpha: concentration: small makes sites differ, large makes them alike.
        least_patients: training patients that every site needs.
        held_out: share that will be held out where patients have no split.
        rng: for shares and order.

    Raises:
        ConfigurationError: if no draw serves.
    """
    grades = sorted({patient.grade for patient in patients})
    members = [np.array([i for i, p in enumerate(patients) if p.grade == grade]) for grade in grades]
    for _ in range(DRAWS):
        home = np.empty(len(patients), dtype=np.int64)
        for indices in members:
            shares = rng.dirichlet(np.full(sites, alpha))
            home[indices] = _cut(rng.permutation(len(indices)), shares)
        partition = _collect(patients, home.tolist(), site_names(sites))
        if all(training_patients(p, held_out=held_out) >= least_patients for p in partition.values()):
            return partition
    raise ConfigurationError(
        f"Expected {sites} sites with at least {least_patients} training patients each: {DRAWS} draws with "
        f"alpha {alpha} from {len(patients)} patients gave none; raise alpha, or lower sites or rating.folds"
    )


def by_assignment(patients: Sequence[Patient], assignment: Mapping[str, str]) -> Partition:
    """Sites as a table says.

    Args:
        patients: all patients.
        assignment: patient_id -> site name.

    Raises:
        DataError: if patients have no site.
    """
    missing = [p.patient_id for p in patients if p.patient_id not in assignment]
    if missing:
        spelt = respelled(missing, assignment)
        why = f"; {len(spelt)} of them have one but for zeros, case or separators" if spelt else ""
        raise DataError(
            f"Expected a site for every patient_id; {len(missing)} have none: {missing[:10]}{why}"
        )
    labels = sorted({assignment[p.patient_id] for p in patients})
    return _collect(patients, [labels.index(assignment[p.patient_id]) for p in patients], labels)


@runtime_checkable
class OwnPartition(Protocol):
    """A partition of one's own, as ``by = "package.module:Name"`` names it."""

    def __call__(self, patients: Sequence[Patient], *, sites: int, rng: np.random.Generator) -> Partition:
        """Site name -> its patients; each patient once.

        Args:
            patients: in the order of the manifest.
            sites: how many.
            rng: for whatever is drawn; the seed of the run decides it.
        """
        ...


def by_own(
    patients: Sequence[Patient], rule: OwnPartition, *, sites: int, rng: np.random.Generator
) -> Partition:
    """Sites as a rule of one's own says.

    Raises:
        ConfigurationError: if it leaves a patient out, or has one twice or one that does not exist.
    """
    parts = {str(name): list(members) for name, members in rule(patients, sites=sites, rng=rng).items()}
    placed = sorted(patient.patient_id for members in parts.values() for patient in members)
    if placed != sorted(patient.patient_id for patient in patients):
        raise ConfigurationError(
            f"Expected each of {len(patients)} patients at exactly one site in your partition, got "
            f"{len(placed)} places for {len(set(placed))} patients"
        )
    return parts


def choose_held_out(patients: Sequence[Patient], *, share: float, rng: np.random.Generator) -> dict[str, str]:
    """The split of a site's patients: as they have it, or else a random share of each grade for testing.

    Returns:
        patient_id -> ``train`` or ``test``.
    """
    if all(patient.split for patient in patients):
        return {patient.patient_id: patient.split for patient in patients}
    shuffled = [patients[i] for i in rng.permutation(len(patients))]
    ordered = sorted(shuffled, key=lambda patient: patient.grade)
    # Every 1/share-th patient in the order of grades: the share is exact, and each grade has its part of it.
    steps = np.floor(np.arange(len(ordered) + 1) * share + 0.5)
    return {p.patient_id: ("test" if steps[i + 1] > steps[i] else "train") for i, p in enumerate(ordered)}


def training_patients(patients: Sequence[Patient], *, held_out: float) -> int:
    """How many patients :func:`choose_held_out` leaves for training."""
    if patients and all(patient.split for patient in patients):
        return sum(patient.split == "train" for patient in patients)
    return len(patients) - int(np.floor(len(patients) * held_out + 0.5))


def site_names(count: int) -> list[str]:
    """``site-1`` and so on, with leading zeros so that their order is also the alphabet's."""
    digits = len(str(count))
    return [f"site-{index + 1:0{digits}d}" for index in range(count)]


def _cut(order: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """The part that each member of an order falls into, when it is cut in proportion to the shares."""
    exact = shares / shares.sum() * len(order)
    sizes = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(sizes - exact, kind="stable")
    sizes[by_remainder[: len(order) - int(sizes.sum())]] += 1
    home = np.empty(len(order), dtype=np.int64)
    home[order] = np.repeat(np.arange(len(shares)), sizes)
    return home


def _collect(patients: Sequence[Patient], home: Sequence[int], names: Sequence[str]) -> Partition:
    partition: Partition = {name: [] for name in names}
    for patient, index in zip(patients, home, strict=True):
        partition[names[index]].append(patient)
    return partition
