"""In which tasks of a campaign with sums this site takes part: declared when it is approved, kept as long as it runs.

Sums without noise hide a site among those that add something. A site that has nothing to add would add zeros and
pass for one: of three such sites the sum is the one update that there is. So a site takes part in a task (a
measurement, or one of its thresholds) only if it can train every network of it, and the centre asks no other site.
That says something about the cohort, so people see it on the approval page, may add to it, and it stays: a site that
stopped in mid-campaign would tell that patients withdrew. One whose cohort shrinks adds zeros from then on.

With noise the sum is protected by it, whoever adds what: everybody takes part, and nothing is derived from data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client.data.site_store import site_store
from client.site.site import Site
from common.errors import DataError, PolicyError
from common.networks.spec import COMBINED
from common.settings import Settings

PARTS_OF_COMBINED = ("hypertrophy", "vascularity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the site has for one task.

    Attributes:
        name: ``measurement``, or ``measurement>threshold``.
        patients: behind the training of its networks, at least.
        lacks: why it takes no part; empty: it can.
    """

    name: str
    patients: int
    lacks: str


def tasks(site: Site, settings: Settings) -> tuple[Task, ...]:
    """All tasks of a campaign, in the order of its plan.

    Raises:
        DataError: if the data cannot be read.
    """
    from common.methods.stages import networks  # noqa: PLC0415  torch: exams are read
    from common.training.inputs import training_exams  # noqa: PLC0415
    from common.training.trainable import patients_of_classes  # noqa: PLC0415

    data, least = site_store(site, settings).tensors, site.policy.minimum_cohort
    of_class = site.policy.of_class(settings)
    found: dict[str, Task] = {}
    for spec in networks(settings).values():
        exams = training_exams(data, spec)
        patients = len(data.patient[exams].unique())
        by_class = patients_of_classes(data, spec, exams)
        classes, each = len(by_class), of_class.get(spec.target.measurement, 0)
        lacks = ""
        if patients < least:
            lacks = f"fewer than {least} patients to train on (policy.minimum_cohort)"
        elif classes < 2 and spec.target.kind != "permutation":
            lacks = "all exams on one side" if spec.target.kind == "binary" else "one grade alone"
        elif min(by_class, default=0) < each:
            lacks = f"fewer than {each} patients of a class (policy.diagnosis_cohort)"
        known = found.get(spec.target.task)
        if known is not None:
            patients, lacks = min(known.patients, patients), known.lacks or lacks
        found[spec.target.task] = Task(name=spec.target.task, patients=patients, lacks=lacks)
    return tuple(found.values())


def exclude(site: Site, settings: Settings, *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """The tasks in which the site takes no part: those it has nothing for, and those that its people name.

    Args:
        site: the site.
        settings: of a campaign.
        without: measurements or tasks.

    Raises:
        DataError: if nothing is left to take part in, or the data cannot be read.
        PolicyError: if a name is no task of the campaign's, or it has no sums in which sites take part by task.
    """
    if not settings.sums_tasks:
        if without:
            raise PolicyError(
                "Expected a campaign with secure sums and without noise for --without, this is another: every site "
                "takes part in all of it, or leaves it"
            )
        return ()
    known = tasks(site, settings)
    names = [task.name for task in known]
    unknown = sorted(name for name in without if not any(_covers(name, task) for task in names))
    if unknown:
        raise PolicyError(f"Expected --without of {', '.join(names)} or a measurement, got {unknown!s:.200}")
    left = [task.name for task in known if task.lacks or any(_covers(name, task.name) for name in without)]
    from common.methods import groups  # noqa: PLC0415  torch

    if all(group.tasks & set(left) for group in groups.planned(settings)):  # one task out, and its group is
        reasons = "; ".join(f"{task.name}: {task.lacks or 'left out'}" for task in known)
        raise DataError(f"Nothing is left of the campaign to take part in: leave it ({reasons})")
    return tuple(left)


def participation_lines(site: Site, settings: Settings, without: Iterable[str] | None) -> tuple[str, ...]:
    """One line per task, for the approval page; ``without`` as decided, ``None`` before.

    Raises:
        DataError: if the data cannot be read.
    """
    lines = []
    for task in tasks(site, settings):
        out = bool(task.lacks) if without is None else task.name in set(without)
        why = f": {task.lacks}" if task.lacks else ""
        lines.append(
            f"{task.name}: {'takes no part' if out else 'takes part'}, {task.patients} patients{why}"
        )
    return tuple(lines)


def _covers(name: str, task: str) -> bool:
    measurement = task.partition(">")[0]
    return name in (task, measurement) or (measurement == COMBINED and name in PARTS_OF_COMBINED)
