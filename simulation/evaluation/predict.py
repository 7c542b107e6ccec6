"""Scores the held-out exams of simulated sites with a trained ensemble, one row per exam."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from client.data.site_store import site_store
from client.data.store import Store
from client.data.tables.rows import read_rows
from client.site.site import Site
from common.ensemble.committee import Committee
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.settings import Settings
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.engine import interruption
from simulation.evaluation import trivial
from simulation.evaluation.score import score_columns


def predictions(
    networks: Sequence[TrainedNetwork],
    cohort: Cohort,
    settings: Settings,
    *,
    devices: Sequence[str],
) -> pd.DataFrame:
    """Score every held-out exam of every site of a cohort.

    Args:
        networks: the trained ensemble.
        cohort: the sites; the truth is read here, never by the client.
        settings: the configuration.
        devices: a worker scores one site on each.

    Returns:
        One row per exam: ``exam_id, patient_id, site, device, trained_site``, and for each measurement
        ``truth_<m>`` (where the site has ``truth.csv``), ``label_<m>``, ``reader_<name>_<m>``, ``flow_<image>``
        (area of flow in a Doppler image, in pixels, from which alone something is graded), ``vote_<m>_<k>``,
        ``decision_<m>``, ``majority_<m>``, then ``contested, tie, weight, runner_up_weight`` and
        ``p:<network>`` (``p:<network>:<class>`` where it tells more than two apart).
        A grade that is not there is -1.
    """
    ensemble = network_files.committee(networks, settings)
    by_device = {device: ensemble.on(torch.device(device)) for device in devices}
    with interruption.threads(len(devices)) as pool:
        turns = itertools.cycle(devices)
        frames = pool.map(_site, [by_device[next(turns)] for _ in cohort.sites], cohort.sites)
        return pd.concat(list(frames), ignore_index=True)


def _site(ensemble: Committee, site: CohortSite) -> pd.DataFrame:
    settings = ensemble.settings
    store, held_out, columns = _known(site, settings)
    scores = ensemble.score(store.tensors.images, held_out)
    columns |= score_columns(scores)
    columns |= {f"p:{name}": values for name, values in scores.probabilities().items()}
    return pd.DataFrame(columns)


def known(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """The columns of :func:`predictions` that are known before anything is trained, in the same order of exams."""
    return pd.concat(
        [pd.DataFrame(_known(site, settings)[2]) for site in cohort.sites],
        ignore_index=True,
    )


def _known(site: CohortSite, settings: Settings) -> tuple[Store, torch.Tensor, dict[str, object]]:
    """A site's store, the places of its held-out exams, and what is known of these."""
    store = site_store(Site.open(site.folder), settings)
    held_out = torch.nonzero(store.tensors.fold < 0).flatten()
    exams = store.exams.iloc[held_out.numpy()].reset_index(drop=True)
    columns: dict[str, object] = {
        "exam_id": exams["exam_id"],
        "patient_id": exams["patient_id"],
        "site": site.name,
        "device": exams["device"],
        "trained_site": site.trains,
    }
    columns |= references(store, site.folder, exams["exam_id"], held_out.numpy(), settings.measurements)
    columns |= trivial.flow_columns(store, held_out, settings)
    return store, held_out, columns


def references(
    store: Store, folder: Path, exam_ids: pd.Series, held_out: NDArray[np.int64], measurements: Iterable[str]
) -> dict[str, object]:
    """Columns of what is known of held-out exams: ``truth_<m>``, ``label_<m>``, ``reader_<name>_<m>``.

    Args:
        store: of the site.
        folder: of the site, where its ``truth.csv`` lies if it has one.
        exam_ids: of the exams.
        held_out: their places in the store.
        measurements: their names.
    """
    columns: dict[str, object] = {}
    truth = _table(folder / "truth.csv", exam_ids)
    readers = store.reader_grades
    for name in measurements:
        if truth is not None and name in truth:
            columns[f"truth_{name}"] = _grades(truth[name])
        columns[f"label_{name}"] = store.tensors.grades[name].numpy()[held_out]
        for reader, rows in readers.groupby("reader", sort=True):
            one_each = rows.drop_duplicates("exam_id").set_index("exam_id")
            columns[f"reader_{reader}_{name}"] = _grades(one_each[name].reindex(exam_ids))
    return columns


def _table(path: Path, exam_ids: pd.Series) -> pd.DataFrame | None:
    if not path.exists():
        return None
    table = read_rows(path, ["exam_id"])
    rows = pd.DataFrame([row for _, row in table.rows], columns=list(table.columns))
    return rows.drop_duplicates("exam_id").set_index("exam_id").reindex(exam_ids)


def _grades(values: pd.Series) -> NDArray[np.int64]:
    return np.asarray(pd.to_numeric(values).fillna(-1), dtype=np.int64)
