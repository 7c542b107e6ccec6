"""Site folders of random pictures, made with the product's own code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.data.site_store import site_store
from client.site.site import Site
from common.settings import Settings
from common.training.data import ExamTensors
from tests.site_folders import make_site_folder


def make(folder: Path, settings: Settings, *, histograms: bool = True) -> list[Path]:
    """Site folders of the cohort's size, opened once so that their stores are built.

    Args:
        folder: that they go into.
        settings: with a phantom cohort, whose numbers are used, not its pictures.
        histograms: whether the sites' policy permits them; without, the federation scores nothing.
    """
    assert settings.cohort is not None and settings.cohort.phantom is not None
    size = settings.cohort.phantom
    folders = []
    for index in range(size.sites):
        path = make_site_folder(
            folder / f"site-{index}",
            name=f"site-{index}",
            patients=size.patients,
            exams_per_patient=size.exams_per_patient,
            held_out_patients=round(size.held_out * size.patients),
            seed=index,
        )
        if not histograms:
            policy = (path / "site.toml").read_text(encoding="utf-8")
            policy = policy.replace(', "score_histograms"', "")
            (path / "site.toml").write_text(policy, encoding="utf-8")
        folders.append(path)
    opened(folders, settings)
    return folders


def opened(folders: Sequence[Path], settings: Settings) -> dict[str, ExamTensors]:
    """Exams of each site by its name, from its store."""
    return {site.name: site_store(site, settings).tensors for site in map(Site.open, folders)}
