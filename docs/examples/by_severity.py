"""A partition of one's own: mild patients at the first site, severe ones at the last.

    cohort.public.by = "by_severity:by_severity"          (or: synofed cohort split --by by_severity:by_severity)

A harsher label shift than ``dirichlet`` with a small alpha, and the same at every seed but for ties. A patient's
exams stay together, whoever splits: a partition is asked about patients and never sees an exam.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulation.cohorts.partition import Partition, Patient, site_names


def by_severity(patients: Sequence[Patient], *, sites: int, rng: np.random.Generator) -> Partition:
    """Patients in the order of their highest grade, cut into equal parts."""
    shuffled = [patients[i] for i in rng.permutation(len(patients))]
    ordered = sorted(shuffled, key=lambda patient: patient.grade)
    parts = np.array_split(np.arange(len(ordered)), sites)
    return {name: [ordered[i] for i in part] for name, part in zip(site_names(sites), parts, strict=True)}
