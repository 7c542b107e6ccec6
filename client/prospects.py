"""What a campaign would find to train here, from the site's tables alone: no picture is read for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from client import withdrawn
from client.ingest.tables import read_tables
from client.keys import site_secret
from client.site import Site
from common.methods.stages import networks
from common.settings import Settings

if TYPE_CHECKING:
    from common.training.data import ExamTensors
    from common.training.participation import Prospect


def prospects(site: Site, settings: Settings) -> Mapping[str, Prospect]:
    """Measurement -> what the site would train of it, if all pictures can be read.

    Raises:
        DataError: if the tables cannot be used.
    """
    from common.training import participation  # noqa: PLC0415  torch

    specs = networks(settings).values()
    data = exams_of_tables(site, settings)
    return participation.prospects(data, specs, minimum_cohort=site.policy.minimum_cohort)


def exams_of_tables(site: Site, settings: Settings) -> ExamTensors:
    """Grades, folds and patients as the store would have them, without any pictures.

    Raises:
        DataError: if the tables cannot be used.
    """
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from client.ingest.folds import folds  # noqa: PLC0415  scikit-learn
    from common.training.data import MISSING, ExamTensors  # noqa: PLC0415

    file = site.file.data
    tables = read_tables(
        site.data_folder, manifest=file.manifest, grades=file.grades, rule=file.consensus, settings=settings
    )
    exams = withdrawn.without(site.folder, tables).exams
    assigned = folds(
        exams, secret=site_secret(site.folder), held_out=settings.evaluate.held_out, count=settings.folds
    )
    _, patients = np.unique(np.array([exam.patient_id for exam in exams], dtype=str), return_inverse=True)
    return ExamTensors(
        images={},
        grades={
            name: torch.tensor(
                [MISSING if (grade := exam.targets[name]) is None else grade for exam in exams],
                dtype=torch.int8,
            )
            for name in settings.measurements
        },
        fold=torch.from_numpy(assigned),
        patient=torch.from_numpy(patients.astype(np.int32)),
    )
