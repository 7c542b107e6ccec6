"""The fold membership audit of a run: its networks on the patients who trained them.

A run's predictions hold held-out exams alone, so the networks are asked again, on the training exams in the sites'
stores. Only a simulation can do that at the centre: there the sites' folders lie beside the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import Store, graded
from client.site.site import Site
from common.ensemble.committee import Committee
from common.errors import DataError, SynofedError
from common.exam import MISSING
from common.machine import network_files
from common.methods.stages import Output
from common.privacy.audit.membership import Membership, membership
from common.settings import Settings


def fold_membership(
    networks: Path, sites: Sequence[Path], settings: Settings, *, delta: float | int = 0.0
) -> Membership:
    """Attack a run's networks.

    Args:
        networks: the run's folder of networks.
        sites: folders of the sites that trained them.
        settings: the run's.
        delta: of the claim that is held against; 0 where there is none.

    Raises:
        DataError: if networks were not trained by fold, so that all patients trained all of them.
        ConfigurationError: if there are too few patients.
    """
    ensemble = network_files.committee(list(network_files.load_all(networks)), settings)
    folds = sorted({spec.fold for spec in ensemble.specs})
    if len(folds) < 2 or folds != list(range(len(folds))):
        raise DataError(
            "Expected networks of at least two folds, got fewer: where all patients trained all networks, nobody "
            "was left out of one, and there is no fold membership audit"
        )
    stores = (graded(site_store(Site.open(folder), settings)) for folder in sites)
    told = pd.concat(list(_patients(ensemble, stores)), ignore_index=True)
    return membership(
        told[[f"without {fold}" for fold in folds]].to_numpy(np.float64).T,
        told["fold"].to_numpy(np.int64),
        delta=delta,
    )


def told(run: Path, sites: Sequence[Path], settings: Settings) -> str:
    """What an audit says of it, or why there is none."""
    if settings.private:
        return "None: private campaigns have no folds, everybody who is not held out takes part in all of it."
    if not sites:
        return "None: the folders of the sites are not here, and the run's predictions hold held-out exams alone."
    try:
        found = fold_membership(run / "networks", sites, settings)
    except SynofedError as error:
        return f"None: {error}"
    return (
        f"Networks of {found.folds} folds on the {found.patients} patients who trained them. Area under the curve of "
        f"in against out {found.area:.3f} (0.5 is chance); epsilon of one fold's networks is at least "
        f"{found.bound:.2f} (with this many patients no attack can show more than {found.ceiling:.2f}). A low bound "
        f"proves nothing."
    )


def _patients(ensemble: Committee, stores: Iterable[Store]) -> Iterable[pd.DataFrame]:
    """Each training patient's fold and mean loss under the networks without each fold."""
    for store in stores:
        training = torch.nonzero(store.tensors.fold != MISSING).flatten()
        outputs = ensemble.outputs(store.tensors.images, training)
        exams = store.exams.iloc[training.numpy()].reset_index(drop=True)
        columns: dict[str, object] = {"patient": exams["patient_id"], "fold": exams["fold"]}
        for fold in sorted({output.spec.fold for output in outputs}):
            losses = [_losses(one, store, training) for one in outputs if one.spec.fold == fold]
            columns[f"without {fold}"] = np.nanmean(np.stack(losses), axis=0)
        yield pd.DataFrame(columns).dropna().groupby("patient").mean().reset_index()


def _losses(output: Output, store: Store, exams: Tensor) -> Float32[np.ndarray, " exams"]:
    """Cross-entropy of each exam; nan where it has no grade or the network does not learn from it."""
    target = output.spec.target
    grades = store.tensors.grades[target.measurement][exams].numpy().astype(np.int64)
    truth = grades > target.threshold if target.kind == "binary" and target.threshold is not None else grades
    known = (grades >= target.at_least) & (grades != MISSING)
    chosen = output.probabilities[np.arange(len(grades)), np.where(known, truth, 0).astype(np.int64)]
    losses: Float32[np.ndarray, " exams"] = np.where(known, -np.log(np.maximum(chosen, 1e-12)), np.nan)
    return losses
