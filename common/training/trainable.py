"""What of a plan a site's exams can train: asked by training itself, and by all who say it beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from common.exam import MISSING
from common.networks.spec import NetworkSpec
from common.training.data import ExamTensors
from common.training.inputs import labels, training_exams

NONE: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What stands behind one network's training at one site.

    Attributes:
        exams: for training, outside of the network's fold, with a label.
        patients: of these exams.
        classes: that these exams have of the network's target.
        needed: classes that there must be: 2, or 1 for puzzles.
        minimum: patients that there must be, the site's ``policy.minimum_cohort``.
        rarest: patients of the class that fewest have.
        of_class: patients that there must be of each class: of a diagnosis, the site's ``policy.diagnosis_cohort``.
    """

    exams: int
    patients: int
    classes: int
    needed: int
    minimum: int
    rarest: int = 0
    of_class: int = 0

    @property
    def objection(self) -> str:
        """Why the network trains nothing here; empty if it trains."""
        if not self.exams:
            return "no training exam has a grade of it"
        if self.patients < self.minimum:
            return f"{self.patients} patients stand behind a network, policy.minimum_cohort is {self.minimum}"
        if self.classes < self.needed:
            return "all training exams are of one class"
        if self.rarest < self.of_class:
            return f"{self.rarest} patients have one of the diagnoses, policy.diagnosis_cohort is {self.of_class}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a site would train of one measurement.

    Attributes:
        exams: for training, with a label.
        patients: of these exams.
        networks: of the plan.
        trained: of these, those that would train here.
        objection: why the others would not, of the first of them; empty where there are none.
    """

    exams: int
    patients: int
    networks: int
    trained: int
    objection: str

    def sentence(self, measurement: str) -> str:
        """For a person: what would train, and why the rest would not."""
        said = f"{measurement}: {self.exams} training exams of {self.patients} patients"
        if self.trained == self.networks:
            return f"{said}, for all {self.networks} networks"
        rule = next(
            (r for r in ("minimum_cohort", "diagnosis_cohort") if f"policy.{r}" in self.objection), ""
        )
        below = f"below policy.{rule}: " if rule else ""
        if not self.trained:
            return f"{said}; {below}this site would train nothing for {measurement} ({self.objection})"
        left = self.networks - self.trained
        return (
            f"{said}; {below}this site would train {self.trained} of {self.networks} networks for {measurement} "
            f"(of the other {left}: {self.objection})"
        )


def behind(
    data: ExamTensors, spec: NetworkSpec, *, minimum_cohort: int, of_class: Mapping[str, int] = NONE
) -> Behind:
    """What stands behind a network's training.

    Args:
        data: the site's exams; pictures are not looked at.
        spec: the network.
        minimum_cohort: patients that must stand behind an update that leaves.
        of_class: measurement -> patients that must stand behind each of its classes, where that is asked for.
    """
    exams = training_exams(data, spec)
    patients = patients_of_classes(data, spec, exams)
    return Behind(
        exams=len(exams),
        patients=len(data.patient[exams].unique()),
        classes=len(patients),
        needed=1 if spec.target.kind == "permutation" else 2,
        minimum=minimum_cohort,
        rarest=min(patients, default=0),
        of_class=of_class.get(spec.target.measurement, 0),
    )


def patients_of_classes(data: ExamTensors, spec: NetworkSpec, exams: Tensor) -> list[int]:
    """Patients behind each class that some exams have of a network's target."""
    classes, patients = labels(data, spec)[exams], data.patient[exams]
    return [len(patients[classes == one].unique()) for one in classes.unique()]


def trains(
    data: ExamTensors, spec: NetworkSpec, *, minimum_cohort: int, of_class: Mapping[str, int] = NONE
) -> bool:
    """Whether a network trains at a site; if not, its update has no weight there."""
    return not behind(data, spec, minimum_cohort=minimum_cohort, of_class=of_class).objection


def prospects(
    data: ExamTensors,
    specs: Iterable[NetworkSpec],
    *,
    minimum_cohort: int,
    of_class: Mapping[str, int] = NONE,
) -> Mapping[str, Prospect]:
    """Measurement -> what a site would train of it, over all networks of a plan."""
    of: dict[str, list[NetworkSpec]] = {}
    for spec in specs:
        of.setdefault(subject(spec), []).append(spec)
    return {
        name: _prospect(data, members, minimum_cohort=minimum_cohort, of_class=of_class)
        for name, members in of.items()
    }


def hopeless(specs: Sequence[NetworkSpec], trained: Collection[str]) -> list[NetworkSpec]:
    """The networks of a group that learn what none of its networks is trained for.

    A single network may go without: a rare grade is missing in one fold, or everywhere. Where nothing of a
    measurement is trained, the ensemble knows nothing of it.

    Args:
        specs: of the group.
        trained: names of those that a site has training examples for.
    """
    known = {subject(spec) for spec in specs if spec.name in trained}
    return [spec for spec in specs if subject(spec) not in known]


def subject(spec: NetworkSpec) -> str:
    """What a network learns, for a person: its measurement, or the puzzles of an image."""
    if spec.target.kind == "permutation":
        return f"puzzles of {spec.target.measurement}"
    return spec.target.measurement


def named(specs: Iterable[NetworkSpec]) -> str:
    """Networks in few words: their measurements, and the first names."""
    listed = list(specs)
    subjects = ", ".join(dict.fromkeys(subject(spec) for spec in listed))
    names = ", ".join(spec.name for spec in listed[:3])
    return f"{subjects} ({names}{f' and {len(listed) - 3} more' if len(listed) > 3 else ''})"


def _prospect(
    data: ExamTensors, specs: list[NetworkSpec], *, minimum_cohort: int, of_class: Mapping[str, int]
) -> Prospect:
    graded = (data.fold != MISSING) & (labels(data, specs[0]) != MISSING)
    objections = list(_objections(data, specs, minimum_cohort=minimum_cohort, of_class=of_class))
    return Prospect(
        exams=int(graded.sum()),
        patients=len(data.patient[graded].unique()),
        networks=len(specs),
        trained=len(specs) - len(objections),
        objection=objections[0] if objections else "",
    )


def _objections(
    data: ExamTensors, specs: list[NetworkSpec], *, minimum_cohort: int, of_class: Mapping[str, int]
) -> Iterator[str]:
    for spec in specs:
        objection = behind(data, spec, minimum_cohort=minimum_cohort, of_class=of_class).objection
        if objection:
            yield objection
