"""Scores the held-out exams of simulated sites with a trained ensemble, one row per exam."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from client.data.site_store import site_store
from client.data.store import Store
from client.data.tables.rows import read_rows
from client.site.site import Site
from common.exam import MISSING
from common.networks.spec import without_fold
from common.sections.measurements import MeasurementSettings
from common.settings import Settings
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.engine.places import Place, Places, in_order
from simulation.evaluation import ensembles, trivial
from simulation.evaluation.blocks import numbers, subgroups
from simulation.evaluation.ensembles import Ensemble
from simulation.evaluation.score import score_columns


def predictions(ensemble: Ensemble, cohort: Cohort, places: Places) -> pd.DataFrame:
    """Score every held-out exam of a cohort; where folds judge, every exam, by the networks of its fold.

    Args:
        ensemble: the trained ensemble.
        cohort: the sites; the truth is read here, never by the client.
        places: each scores one site at a time.

    Returns:
        One row per exam: ``exam_id, patient_id, site, device, trained_site, joint, age, sex``, and for each
        measurement ``truth_<m>`` (where the site has ``truth.csv``), ``label_<m>``, ``reader_<name>_<m>``,
        ``flow_<image>`` (area of flow in a Doppler image, in pixels, from which alone something is graded),
        ``vote_<m>_<k>``, ``decision_<m>``, ``majority_<m>``, then ``contested, tie, weight, runner_up_weight`` and
        ``p:<network>`` (``p:<network>:<class>`` where it tells more than two apart).
        A grade that is not there is -1. Of numbers there are ``truth_<n>``, ``label_<n>``, ``reader_<name>_<n>`` and
        ``number_<n>_<k>`` of each network in their own unit, NaN where not known, and ``number_<n>``, their mean.
        Where folds judge there is a column ``fold``, networks are named without theirs, and the exams of a site come
        fold by fold.
    """
    pieces = [places.submit(_site, ensemble, site) for site in cohort.sites]
    return pd.concat(in_order(pieces), ignore_index=True)


def _site(place: Place, ensemble: Ensemble, site: CohortSite) -> pd.DataFrame:
    settings, committee = ensemble.settings, ensembles.opened(place, ensemble)
    store = site_store(Site.open(site.folder), settings)
    parts = []
    for fold, exams in tested(store, settings):
        asked = committee if fold is None else committee.of_fold(fold)
        columns = _known(site, store, exams, settings)
        scores = asked.score(store.tensors.images, exams)
        columns |= score_columns(scores)
        named = {without_fold(name, fold): values for name, values in scores.probabilities().items()}
        columns |= {f"p:{name}": values for name, values in named.items()}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def tested(store: Store, settings: Settings) -> list[tuple[int | None, torch.Tensor]]:
    """Which exams are graded, and by the networks of which fold; ``None``: by all."""
    fold = store.tensors.fold
    if settings.evaluate.design == "held_out":
        return [(None, torch.nonzero(fold == MISSING).flatten())]
    members = ((one, torch.nonzero(fold == one).flatten()) for one in range(settings.folds))
    return [(one, exams) for one, exams in members if len(exams)]


def known(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """The columns of :func:`predictions` that are known before anything is trained, in the same order of exams."""
    frames = []
    for site in cohort.sites:
        store = site_store(Site.open(site.folder), settings)
        frames += [pd.DataFrame(_known(site, store, exams, settings)) for _, exams in tested(store, settings)]
    return pd.concat(frames, ignore_index=True)


def _known(site: CohortSite, store: Store, held_out: torch.Tensor, settings: Settings) -> dict[str, object]:
    """What is known of the exams that are graded, by their places in the store."""
    exams = store.exams.iloc[held_out.numpy()].reset_index(drop=True)
    columns: dict[str, object] = {
        "exam_id": exams["exam_id"],
        "patient_id": exams["patient_id"],
        "site": site.name,
        "device": exams["device"],
        "trained_site": site.trains,
        **{name: exams[name] for name in subgroups.TOLD},
    }
    if settings.evaluate.design == "folds":
        columns["fold"] = exams["fold"]
    columns |= references(store, site.folder, exams["exam_id"], held_out.numpy(), settings.measurements)
    if settings.numbers:
        truth = _truth(site.folder, exams["exam_id"])
        columns |= numbers.references(store, truth, exams["exam_id"], held_out.numpy(), settings.numbers)
        columns |= numbers.classes(columns, settings.measurements)
    return columns | trivial.flow_columns(store, held_out, settings)


def references(
    store: Store,
    folder: Path,
    exam_ids: pd.Series,
    held_out: NDArray[np.int64],
    measurements: Mapping[str, MeasurementSettings],
) -> dict[str, object]:
    """Columns of what is known of held-out exams: ``truth_<m>``, ``label_<m>``, ``reader_<name>_<m>``.

    Where there is a truth, a diagnosis is what the manifest says: a phantom's is drawn from it.

    Args:
        store: of the site.
        folder: of the site, where its ``truth.csv`` lies if it has one.
        exam_ids: of the exams.
        held_out: their places in the store.
        measurements: of the run.
    """
    columns: dict[str, object] = {}
    truth = _truth(folder, exam_ids)
    readers = store.reader_grades
    for name, measured in measurements.items():
        if truth is not None and name in truth:
            columns[f"truth_{name}"] = _grades(truth[name])
        elif truth is not None and measured.column:
            columns[f"truth_{name}"] = store.tensors.grades[name].numpy()[held_out]
        columns[f"label_{name}"] = store.tensors.grades[name].numpy()[held_out]
        for reader, rows in readers.groupby("reader", sort=True):
            if name in rows:
                one_each = rows.drop_duplicates("exam_id").set_index("exam_id")
                columns[f"reader_{reader}_{name}"] = _grades(one_each[name].reindex(exam_ids))
    return columns


def _truth(folder: Path, exam_ids: pd.Series) -> pd.DataFrame | None:
    """The rows of a phantom site's ``truth.csv``, one an exam in their order; ``None`` where it has none."""
    path = folder / "truth.csv"
    if not path.exists():
        return None
    table = read_rows(path, ["exam_id"])
    rows = pd.DataFrame([row for _, row in table.rows], columns=list(table.columns))
    return rows.drop_duplicates("exam_id").set_index("exam_id").reindex(exam_ids)


def _grades(values: pd.Series) -> NDArray[np.int64]:
    return np.asarray(pd.to_numeric(values).fillna(-1), dtype=np.int64)
