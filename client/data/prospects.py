"""What a campaign would find to train here, from the site's tables alone: no picture is read for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from client.data import withdrawn
from client.data.tables.sources import Sources
from client.data.tables.tables import grades_of, shares_of
from client.site.keys import site_secret
from client.site.site import Site
from common.exam import Exam
from common.methods.stages import networks
from common.settings import Settings

if TYPE_CHECKING:
    from common.training.data import ExamTensors
    from common.training.trainable import Prospect


def prospects(site: Site, settings: Settings) -> Mapping[str, Prospect]:
    """Measurement -> what the site would train of it, if all pictures can be read.

    Raises:
        DataError: if the tables cannot be used.
    """
    from common.training import trainable  # noqa: PLC0415  torch

    specs = networks(settings).values()
    secret = site_secret(site.folder)
    data = without_pictures(exams_of_tables(site, settings, secret=secret), settings, secret=secret)
    return trainable.prospects(
        data, specs, minimum_cohort=site.policy.minimum_cohort, of_class=site.policy.of_class(settings)
    )


def exams_of_tables(site: Site, settings: Settings, *, secret: bytes) -> tuple[Exam, ...]:
    """The exams that the store would have, as the tables have them: no picture is looked at.

    Args:
        site: the site.
        settings: the plan.
        secret: decides who is held out where the manifest does not say.

    Raises:
        DataError: if the tables cannot be used.
    """
    from client.data.tables.ungraded import with_ungraded  # noqa: PLC0415  scikit-learn

    tables = with_ungraded(Sources.of(site).tables(settings), settings, secret=secret)
    return withdrawn.without(site.folder, tables).exams


def without_pictures(exams: Sequence[Exam], settings: Settings, *, secret: bytes) -> ExamTensors:
    """Exams as tensors of grades, folds and patients alone.

    Raises:
        DataError: if there are fewer training patients than folds, or only some exams have a given fold.
    """
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from client.data.tables.folds import folds_of  # noqa: PLC0415  scikit-learn
    from common.training.data import ExamTensors  # noqa: PLC0415

    assigned = folds_of(exams, settings, secret=secret)
    _, patients = np.unique(np.array([exam.patient_id for exam in exams], dtype=str), return_inverse=True)
    return ExamTensors(
        images={},
        grades={
            name: torch.tensor(given, dtype=torch.int8) for name, given in grades_of(exams, settings).items()
        },
        fold=torch.from_numpy(assigned),
        patient=torch.from_numpy(patients.astype(np.int32)),
        numbers={name: torch.tensor(given) for name, given in shares_of(exams, settings).items()},
    )
