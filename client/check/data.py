"""The site's data: tables, usable exams, what is left out, how well its readers agree.

On the screen stand counts alone; the rows behind them go to a file of the site.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from client.check.report import DetailRow, Finding, ok, problem, warning
from client.site.site import Site
from common.errors import DataError, SynofedError
from common.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from client.data.doctor.findings import Report
    from client.data.store import Store
    from client.data.tables.agreement import ReaderAgreement
    from client.data.tables.tables import Reading
    from common.exam import Quarantined

DOCTOR_PICTURES = 200
"""Up to this many pictures, the doctor looks at each; a picture of 1024 x 768 takes it 0.15 s."""
POOR_KAPPA = 0.4
_KINDS: tuple[tuple[str, str], ...] = (
    (r"^no reader gave a grade$", "no reader gave a grade"),
    (r"^grades line .* cannot be: ", "grades that cannot stand together"),
    (r"^excluded in the manifest: |excluded it in the reading room: ", "excluded by the site"),
    (r"^no agreement", "readers who did not agree"),
    (r"^grades line ", "a grade that does not exist"),
    (r"_path: ", "a picture that cannot be used"),
)


def findings(site: Site, store: Store, settings: Settings) -> Iterator[Finding]:
    """What the store holds for a plan."""
    left_out = Counter(kind_of(entry) for entry in store.quarantined)
    graded = store.tensors.graded.numpy()
    exams, patients = _counts(store.exams[graded])
    yield ok(
        "data",
        f"{exams} usable exams of {patients} patients. Fingerprint {store.fingerprint[:12]}",
        exams=exams,
        patients=patients,
        fingerprint=store.fingerprint[:12],
    )
    if not graded.all():
        exams, patients = _counts(store.exams[~graded])
        yield ok(
            "data",
            f"{exams} more exams of {patients} patients have no grade: used for pretraining by puzzles only",
            ungraded=exams,
            patients=patients,
        )
    minimum = (
        site.policy.minimum_cohort if settings.private else 0
    )  # else would_train says it, network by network
    for name in settings.measurements:
        yield _measurement(name, store, minimum=minimum)
    if left_out:
        counted = ", ".join(f"{count} x {kind}" for kind, count in left_out.most_common())
        yield warning(
            "data", f"{sum(left_out.values())} exams are left out: {counted}", left_out=dict(left_out)
        )
    for note in store.notes:
        yield warning("data", _counted(note))


def would_train(site: Site, store: Store, settings: Settings) -> Iterator[Finding]:
    """What of the plan's networks the site would train; a plan of which it would train none is a problem."""
    from common.methods.stages import networks  # noqa: PLC0415
    from common.training import trainable  # noqa: PLC0415  torch

    found = trainable.prospects(
        store.tensors,
        networks(settings).values(),
        minimum_cohort=site.policy.minimum_cohort,
        of_class=site.policy.of_class(settings),
    )
    for name, prospect in found.items():
        said = prospect.sentence(name)
        facts = {"measurement": name, "networks": prospect.networks, "trained": prospect.trained}
        if not any(one.trained for one in found.values()):
            advice = "The site would not take part in this plan: it needs more graded exams for training"
            yield problem("data", DataError, said, advice, **facts)
        elif prospect.trained < prospect.networks:
            yield warning("data", said, "These networks have no weight of this site", **facts)
        else:
            yield ok("data", said, **facts)


def unusable(error: SynofedError) -> tuple[Finding, list[DetailRow]]:
    """Tables or pictures that cannot be used: the count for the screen, the rows for the file."""
    first, *rows = str(error).splitlines()
    return problem("data", error, found=first.rstrip(":")), [
        ("data", "", "", "", row.strip()) for row in rows
    ]


def details(store: Store) -> list[DetailRow]:
    """The exams left out, one per row."""
    return [("left out", "manifest", str(e.line), e.exam_id, e.reason) for e in store.quarantined]


def agreement(readings: Sequence[Reading], settings: Settings) -> tuple[list[Finding], list[DetailRow]]:
    """How well readers agree: one line per measurement, the pairs of readers for the file."""
    from client.data.tables.agreement import reader_agreement  # noqa: PLC0415  torch

    pairs = reader_agreement(readings, settings)
    by_readers = [name for name, measurement in settings.measurements.items() if not measurement.column]
    said = [_agreed(name, [p for p in pairs if p.measurement == name]) for name in by_readers]
    rows: list[DetailRow] = [
        (
            "agreement",
            "grades",
            "",
            "",
            f"{p.measurement}: {' and '.join(p.readers)}, {p.exams} exams, linear kappa {p.kappa_linear:.3f}, "
            f"quadratic {p.kappa_quadratic:.3f}",
        )
        for p in pairs
    ]
    return said, rows


def doctor(report: Report | None, *, pictures: int) -> Finding:
    """What the doctor of ``synofed data check`` found, in counts."""
    if report is None:
        return ok(
            "data",
            f"The doctor did not look at {pictures} pictures: synofed data check does",
            pictures=pictures,
        )
    counted = {row.title: row.problems + row.warnings for row in report.rows() if row.problems + row.warnings}
    if not counted:
        return ok("data", f"The doctor found nothing in {report.pictures} pictures", pictures=report.pictures)
    looks = len(report.findings) - report.problems
    listed = ", ".join(f"{count} x {title}" for title, count in counted.items())
    return warning(
        "data",
        f"The doctor found {report.problems} problems and {looks} things to look at: {listed}",
        "synofed data check lists them",
        checks=counted,
    )


def kind_of(entry: Quarantined) -> str:
    """Why an exam is left out, in words that name no row, file or patient."""
    return next((kind for sign, kind in _KINDS if re.search(sign, entry.reason)), "another reason")


def _counts(exams: pd.DataFrame) -> tuple[int, int]:
    """Exams and patients."""
    return len(exams), exams["patient_id"].nunique()


def _measurement(name: str, store: Store, *, minimum: int) -> Finding:
    exams, patients = store.usable[name], store.patients[name]
    said = f"{name}: {exams} exams of {patients} patients have a grade"
    facts: Mapping[str, object] = {"measurement": name, "exams": exams, "patients": patients}
    if patients == 0:
        return problem("data", DataError, said, "This plan can learn nothing from it here", **facts)
    if patients < minimum:
        advice = f"policy.minimum_cohort is {minimum}: nothing that is trained on it leaves"
        return warning("data", said, advice, **facts)
    return ok("data", said, **facts)


def _agreed(name: str, pairs: Sequence[ReaderAgreement]) -> Finding:
    known = sorted(pair.kappa_linear for pair in pairs if pair.kappa_linear == pair.kappa_linear)
    if not known:
        return ok("data", f"{name}: no two readers graded the same exams, so there is no kappa")
    typical = median(known)
    span = f"{known[0]:.2f} to {known[-1]:.2f}, median {typical:.2f}" if len(known) > 1 else f"{typical:.2f}"
    said = f"{name}: linear kappa between {'two' if len(known) == 1 else 'several'} readers {span}"
    facts: Mapping[str, object] = {
        "measurement": name,
        "pairs": len(known),
        "kappa_linear": round(typical, 3),
    }
    if typical < POOR_KAPPA:
        return warning("data", said, "That is poor: check whether columns or readers were mixed up", **facts)
    return ok("data", said, **facts)


def _counted(note: str) -> str:
    """A note without what it names."""
    head, colon, named = note.partition(": ")
    return f"{len(named.split(', '))} {head}" if colon else head
