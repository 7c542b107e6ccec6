"""How the ensemble that came back grades this site's own patients, beside its own readers; nothing of it leaves.

Where the site made networks of its own (:mod:`client.ensemble.personal`), or trained alone
(:mod:`client.ensemble.alone`), these stand beside it.

Patients that were held out are a test; those that the networks were trained on are not, and are kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from client.data.site_store import site_store
from client.data.store import Answers, Store, consensus, graded, with_combined
from client.ensemble import alone, delivery, personal
from client.site import training_device
from client.site.site import Site
from common.ensemble.committee import BATCH, Committee
from common.ensemble.statement import Statement
from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.agreement import accuracy, kappa
from common.evaluation.bootstrap import Estimate
from common.exam import MISSING
from common.privacy.planning import notice
from common.scoring import eoss
from common.settings import Settings
from common.text.json_values import finite
from common.text.notices import RESEARCH_ONLY

Progress = Callable[[int, int], None]

HELD_OUT, TRAINED_ON = "held out", "trained on"
CONSENSUS = "consensus"
ENSEMBLE, PERSONAL, ALONE = "ensemble", "own networks", "trained alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two gradings of the same exams agree.

    Attributes:
        first: whose grades are the rows of ``confusion``.
        second: whose are the columns.
        exams: graded by both.
        accuracy: share of equal grades.
        kappa_linear: Cohen's kappa with linear weights.
        confusion: counts, first x second.
    """

    first: str
    second: str
    exams: int
    accuracy: Estimate
    kappa_linear: Estimate
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One set of the site's patients.

    Attributes:
        name: ``held out`` or ``trained on``.
        exams: all that can be read and have some grade.
        patients: their number.
        contested: share of exams on which the networks were divided.
        ensemble: score -> the ensemble against the consensus, then against each reader.
        own: system -> score -> the same of the site's own networks, and of what it trained alone, where it has any.
        readers: score -> each pair of readers.
    """

    name: str
    exams: int
    patients: int
    contested: float
    ensemble: Mapping[str, tuple[Agreement, ...]]
    own: Mapping[str, Mapping[str, tuple[Agreement, ...]]]
    readers: Mapping[str, tuple[Agreement, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of it.

    Attributes:
        site: the site's name.
        statement: what the centre signed.
        consensus: the rule that makes one grade of several readers'.
        replicates: of the bootstrap over patients.
        parts: held-out patients first; a part without exams is left out.
        notices: what stands under every number.
    """

    site: str
    statement: Statement
    consensus: str
    replicates: int
    parts: tuple[Part, ...]
    notices: tuple[str, ...]


def measure(site: Site, plan_hash: str, *, progress: Progress = lambda done, total: None) -> Report:
    """Grade all exams of a site with the ensemble that it has, and compare.

    Args:
        site: the site.
        plan_hash: the campaign's.
        progress: told of exams graded, out of all.

    Raises:
        DataError: if there is no ensemble, the site's tables cannot be read, or no exam is graded.
        VerificationError: if the ensemble was changed since it came.
    """
    statement, committee = delivery.opened(site, plan_hash)
    settings = committee.settings
    store = graded(site_store(site, settings))
    if not len(store.tensors):
        raise DataError("Expected exams with a grade to compare with, no reader gave any")
    device = training_device.found(site.file.compute.device)
    answers, contested = _graded(committee.on(device), store, progress)
    opinions = {
        ENSEMBLE: answers,
        CONSENSUS: consensus(store, settings.validity),
        **_readers(store, settings),
    }
    by_itself = alone.opened(site, plan_hash, settings, fingerprint=store.fingerprint)
    others = {
        PERSONAL: personal.opened(site, plan_hash, name=statement.campaign),
        ALONE: None if by_itself is None else by_itself.committee,
    }
    for name, own in others.items():
        if own is not None:
            opinions[name] = _graded(own.on(device), store, progress)[0]
    held_out = store.tensors.fold.numpy() == MISSING
    parts = [
        _part(name, use, store, contested, opinions, settings)
        for name, use in ((HELD_OUT, held_out), (TRAINED_ON, ~held_out))
        if use.any()
    ]
    return Report(
        site=site.name,
        statement=statement,
        consensus=site.file.data.consensus,
        replicates=settings.evaluate.bootstrap,
        parts=tuple(parts),
        notices=(RESEARCH_ONLY, notice.sentence(settings)),
    )


def as_json(report: Report) -> dict[str, object]:
    """The report as JSON's types; what cannot be computed is null."""
    return {
        "site": report.site,
        "campaign": report.statement.campaign,
        "plan_hash": report.statement.plan_hash,
        "status": report.statement.status,
        "consensus": report.consensus,
        "bootstrap": report.replicates,
        "parts": [finite(asdict(part)) for part in report.parts],
        "notice": list(report.notices),
    }


def _graded(
    committee: Committee, store: Store, progress: Progress
) -> tuple[Answers, Bool[np.ndarray, " exams"]]:
    """The ensemble's grades, and on which exams its networks were divided."""
    total = len(store.tensors)
    grades: dict[str, list[NDArray[np.int64]]] = {}
    contested = []
    for exams in torch.arange(total).split(BATCH):
        scores = committee.score(store.tensors.images, exams)
        for name, values in scores.answers().items():
            grades.setdefault(name, []).append(np.asarray(values, dtype=np.int64))
        contested.append(scores.contested)
        progress(int(exams[-1]) + 1, total)
    return {name: np.concatenate(parts) for name, parts in grades.items()}, np.concatenate(contested)


def _readers(store: Store, settings: Settings) -> dict[str, Answers]:
    """Each reader's grades; of several readings of an exam the first that has a grade."""
    exam_ids = pd.Index(store.exams["exam_id"])
    found: dict[str, Answers] = {}
    for reader, readings in store.reader_grades.groupby("reader"):
        first = readings.groupby("exam_id").first().reindex(exam_ids)
        grades = {
            name: first[name].fillna(MISSING).to_numpy().astype(np.int64)
            if name in first
            else np.full(len(first), MISSING)
            for name in settings.measurements
        }
        found[str(reader)] = with_combined(grades, settings.validity)
    return found


def _part(
    name: str,
    use: Bool[np.ndarray, " exams"],
    store: Store,
    contested: Bool[np.ndarray, " exams"],
    opinions: Mapping[str, Answers],
    settings: Settings,
) -> Part:
    patients, patient = np.unique(store.tensors.patient.numpy()[use], return_inverse=True)
    draws = bootstrap.resamples(
        len(patients),
        replicates=settings.evaluate.bootstrap,
        generator=np.random.default_rng(settings.seed),
    )
    readers = [opinion for opinion in opinions if opinion not in (ENSEMBLE, PERSONAL, ALONE, CONSENSUS)]

    def compared(score: str, first: str, second: str) -> Agreement:
        one, other = opinions[first][score][use], opinions[second][score][use]
        both = (one != MISSING) & (other != MISSING)
        grades = settings.measurements[score].grades if score in settings.measurements else eoss.GRADES
        counts = bootstrap.patient_confusions(
            one[both], other[both], patient[both], grades=grades, patients=len(patients)
        )
        return Agreement(
            first=first,
            second=second,
            exams=int(both.sum()),
            accuracy=bootstrap.estimate(accuracy, counts, draws),
            kappa_linear=bootstrap.estimate(partial(kappa, weights="linear"), counts, draws),
            confusion=tuple(tuple(int(count) for count in row) for row in counts.sum(axis=0)),
        )

    scores = [score for score in opinions[ENSEMBLE] if score in opinions[CONSENSUS]]

    def against_people(answer: str) -> dict[str, tuple[Agreement, ...]]:
        return {s: tuple(compared(s, other, answer) for other in (CONSENSUS, *readers)) for s in scores}

    return Part(
        name=name,
        exams=int(use.sum()),
        patients=len(patients),
        contested=float(contested[use].mean()),
        ensemble=against_people(ENSEMBLE),
        own={name: against_people(name) for name in (PERSONAL, ALONE) if name in opinions},
        readers={
            score: tuple(compared(score, one, other) for one, other in combinations(readers, 2))
            for score in scores
        },
    )
