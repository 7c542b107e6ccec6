"""A site with a reading room, and an ensemble that was never trained to be asked there."""

from __future__ import annotations

from pathlib import Path

from client.reading.assistant import Assistant
from client.reading.opened import Exams
from client.reading.room import ReadingRoom
from client.reading.worklist import EULAR_OMERACT
from client.site.site import Site
from common.ensemble.heatmaps import HeatmapSettings
from tests.simulation.evaluation.test_heatmaps import settings, untrained
from tests.site_folders import make_site_folder


def make_site(folder: Path, *, patients: int = 4, exams_per_patient: int = 2) -> Site:
    return Site.open(make_site_folder(folder, patients=patients, exams_per_patient=exams_per_patient))


def exams_of(site: Site) -> Exams:
    return Exams(site, ReadingRoom(site.folder, EULAR_OMERACT))


def assistant(site: Site) -> Assistant:
    return Assistant(
        name="untrained",
        committee=untrained(settings(site.folder)),
        thresholds={"hypertrophy": 0.9},
        machines=frozenset({"Resona 7"}),
        others_known=True,
        heatmap=HeatmapSettings(steps=2, noisy_copies=1),
    )
