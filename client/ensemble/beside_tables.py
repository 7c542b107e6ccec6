"""What a site tells beside tables of grades where its policy permits: sums of numbers, and single exams.

Both are of the exams that stand behind tables, in blocks of patients as :mod:`client.ensemble.held_out` freezes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from client.data.store import Store
from client.ensemble.held_out import Behind
from client.ledger import ledger_file
from client.ledger.identifiers import tag
from client.site.site import Site
from common.ensemble.committee import Scores
from common.evaluation.inside import number_sums
from common.evaluation.inside.number_sums import NumberSums
from common.exam import MISSING
from common.settings import Settings

NUMBER = "number "
"""Stands before a number's name among what is frozen: no name of a measurement has a space."""
THOUSANDTHS = 1000
OFFSET = 10**12
"""Added to a number's thousandths where it is frozen, which is so never below 0 (numbers are within a billion)."""


def permitted(site: Site, settings: Settings) -> bool:
    """Whether sums of numbers are told."""
    return bool(settings.numbers) and site.policy.permits("number_sums")


def references(
    store: Store, exams: Int64[np.ndarray, " exams"], settings: Settings
) -> dict[str, Int64[np.ndarray, " exams"]]:
    """What is frozen of some exams' numbers, by their names there; ``MISSING`` where readers gave none."""
    found = {}
    for name, of_range in settings.numbers.items():
        shares = store.tensors.numbers[name].numpy()[exams].astype(np.float64)
        value = of_range.smallest + shares * (of_range.largest - of_range.smallest)
        codes = np.round(np.nan_to_num(value) * THOUSANDTHS).astype(np.int64) + OFFSET
        found[NUMBER + name] = np.where(np.isnan(value), MISSING, codes)
    return found


def codes(settings: Settings) -> dict[str, int]:
    """Of each number, by its name there, what all that is frozen of it lies below."""
    return {NUMBER + name: 2 * OFFSET + 1 for name in settings.numbers}


def sums_of(
    one: Behind, scores: Scores, patients: Int64[np.ndarray, " exams"], settings: Settings
) -> NumberSums:
    """The sums of a number on one machine."""
    name = one.score.removeprefix(NUMBER)
    return number_sums.sums(
        (one.reference - OFFSET) / THOUSANDTHS,
        scores.number(name)[one.rows],
        number=name,
        device=one.device,
        patients=len(np.unique(patients[one.rows])),
    )


def order(
    site: Site, plan_hash: str, one: Behind, exam_ids: Sequence[str], settings: Settings
) -> Int64[np.ndarray, " exams"] | None:
    """In which order a table's exams are told one by one; ``None``: they are not.

    Args:
        site: the site.
        plan_hash: of the campaign.
        one: the exams behind the table.
        exam_ids: of all that were asked.
        settings: of the campaign.
    """
    if not (settings.campaign.cases and site.policy.permits("cases")):
        return None
    key, what = ledger_file.site_secret(site.folder), f"case: {plan_hash} {one.score} {one.device}"
    tags = [tag(key, what, exam_ids[row]) for row in one.rows.tolist()]
    return np.array(sorted(range(len(tags)), key=tags.__getitem__), dtype=np.int64)


def booked_as(settings: Settings, site: Site) -> str:
    """What the ledger calls what leaves."""
    told: Mapping[str, bool] = {
        "tables": True,
        "sums of numbers": permitted(site, settings),
        "single exams": settings.campaign.cases and site.policy.permits("cases"),
    }
    return ", ".join(name for name, leaves in told.items() if leaves)
