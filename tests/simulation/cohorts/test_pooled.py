"""All sites' training exams as one site's: where each patient is, and the exams that nobody graded."""

from pathlib import Path

import pytest
import torch

from client.data.site_store import site_store
from client.data.store import Store
from client.site.site import Site
from common.methods.stages import networks
from common.settings import Settings
from common.training.inputs import training_exams
from simulation.cohorts import pooled
from simulation.cohorts.cohort import CohortSite
from tests.site_folders import PUZZLES, make_settings, make_site_folder, ungrade

UNGRADED = {"north": (0, 1, 2, 3, 16), "south": (5, 9)}
"""Of north all exams of a patient, one of another and one of a patient who is held out."""


@pytest.fixture
def sites(tmp_path: Path) -> list[CohortSite]:
    made = []
    for seed, (name, places) in enumerate(UNGRADED.items()):
        folder = make_site_folder(tmp_path / name, name=name, patients=8, seed=seed, held_out_patients=3)
        ungrade(folder, places)
        made.append(CohortSite(name=name, folder=folder, trains=True))
    return made


def opened(folder: Path, settings: Settings) -> Store:
    return site_store(Site.open(folder), settings)


@pytest.mark.parametrize(("text", "ungraded"), [(PUZZLES, 6), ("", 0)])
def test_the_pooled_site_has_for_each_network_the_exams_of_all_sites(
    sites: list[CohortSite], tmp_path: Path, text: str, ungraded: int
) -> None:
    settings = make_settings(text=text)
    whole = opened(pooled.site(tmp_path / "pooled", sites, settings), settings)
    parts = {site.name: opened(site.folder, settings) for site in sites}
    assert int((~whole.tensors.graded).sum()) == ungraded
    place = dict(zip(whole.exams["exam_id"], whole.tensors.fold.tolist(), strict=True))
    for name, part in parts.items():
        for exam, fold in zip(part.exams["exam_id"], part.tensors.fold.tolist(), strict=True):
            assert place.get(f"{name}/{exam}", -1) == fold
    assert (whole.tensors.fold >= 0).all()
    for spec in networks(settings).values():
        counts = [len(training_exams(part.tensors, spec)) for part in parts.values()]
        chosen = training_exams(whole.tensors, spec)
        assert len(chosen) == sum(counts)
        if spec.target.kind != "permutation":
            assert torch.equal(whole.tensors.graded[chosen], torch.ones(len(chosen), dtype=torch.bool))
