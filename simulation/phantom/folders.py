"""A phantom site's folder, laid out as a hospital has it: tables, settings and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.sections.cohort import PhantomSettings
from common.text import csv_text
from simulation.phantom.devices import Device
from simulation.phantom.patients import Patient, make_patient
from simulation.phantom.random import stream
from simulation.phantom.section import Exams
from simulation.phantom.shifts import SiteShift

BROKEN_SHARE = 0.005
"""Share of exams with an impossible pair of grades or a gap, as real tables have them."""
MANIFEST = (
    "exam_id", "patient_id", "visit", "side", "joint", "digit", "view", "device", "gs_path", "gs_roi",
    "doppler_path", "doppler_roi", "diagnosis", "split",
)  # fmt: skip
SIGNS = ("extracapsular", "erosive", "paratenon_mm", "paratenon_db", "peritendinous_mm2", "erosion_mm")
"""Further columns of the truth, where diagnoses show."""
GRADES = ("exam_id", "reader", "session", "hypertrophy", "vascularity")
AGE_AND_SEX = ("age", "sex")
"""Further columns of the manifest where a cohort has them."""
MEAN_AGE, SPREAD_OF_AGE, YOUNGEST, OLDEST = 57.0, 13.0, 18, 95
WOMEN = 0.72
"""Share of patients; these and the ages are plausible for rheumatoid arthritis, and of no source."""
CLIP_PARTS = ("path", "roi", "frames", "frame_rate")
CLIPS = ("gs_clip", "doppler_clip")
"""Images that a cohort with moving pictures has, too; each with these columns in the manifest."""
TRUTH = ("exam_id", "hypertrophy", "vascularity", "colour_fraction", "flow_outside", "effusion", "notch")
MINIMUM_COHORT = 5
"""Patients that a phantom site's policy asks for behind an update, as a hospital's does unless it says otherwise."""
SITE_TOML = """\
name = "{name}"

[data]
consensus = "median"

[policy]
allow_unprotected = true
approval = "automatic"
methods = ["*"]
code = ["*"]
metrics = ["counts", "losses", "score_histograms", "stacking_sums", "number_sums"]
federated_evaluation = true
minimum_cohort = {minimum_cohort}
maximum_update_bytes = 100_000_000_000
{budget}"""
NO_BUDGET = "keep_outbox_days = 0\n"
BUDGET = "maximum_epsilon = {epsilon}\nkeep_outbox_days = 90\n"
"""Private replies are small, and an audit looks at them."""
DIAGNOSIS = f"diagnosis = true\ndiagnosis_cohort = {MINIMUM_COHORT}\n"
Rows = list[tuple[str | int | float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One patient to be made and written; small enough to be sent to another process."""

    seed: int
    settings: PhantomSettings
    site: str
    trains: bool
    index: int
    device: Device
    folder: Path
    shift: SiteShift
    exams: int
    diagnosis: str = ""
    """That shows in the pictures; empty: the patient's own generator draws one, which shows in nothing."""

    @property
    def graded(self) -> bool:
        """Whether readers graded the patient's exams: those of the first patients of a site."""
        return self.index < self.shift.patients


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Rows of a patient for each of the site's tables."""

    manifest: Rows
    grades: Rows
    truth: Rows


def make(job: Job) -> Patient:
    """The patient of a job; the same whenever it is asked for."""
    settings = job.settings
    return make_patient(
        job.seed,
        job.site,
        job.index,
        job.device,
        exams=job.exams,
        roi_px=settings.image_px,
        severity=job.shift.severity,
        reader_bias=job.shift.reader_bias,
        clips=job.settings.clips,
        mix=settings.hypertrophy_mix,
        any_joints=settings.joints == "any",
        diagnosis=job.diagnosis,
        strength=settings.diagnosis.strength if settings.diagnosis else 0.0,
    )


def exam_ids(job: Job) -> list[str]:
    """The names of the patient's exams, in the order of the joints."""
    return [f"{job.site}-p{job.index:03d}-e{i:02d}" for i in range(job.exams)]


def picture_path(job: Job, exam_id: str, kind: str) -> Path:
    """Where a picture lies; ``kind`` is ``gs``, ``doppler``, or one of :data:`CLIPS`."""
    return job.folder / "images" / f"{exam_id}_{kind}.{'tif' if kind in CLIPS else 'png'}"


def write_patient(job: Job) -> Tables:
    """Make one patient, write the pictures, and return the rows of the tables."""
    patient, ids = make(job), exam_ids(job)
    for i, name in enumerate(ids):
        for kind, picture in (("gs", patient.exams.grey[i]), ("doppler", patient.exams.doppler[i])):
            Image.fromarray(picture).save(picture_path(job, name, kind), compress_level=1)
        if patient.clips is not None:
            for kind, frames in zip(CLIPS, (patient.clips.grey[i], patient.clips.doppler[i]), strict=True):
                first, *others = map(Image.fromarray, frames)
                first.save(
                    picture_path(job, name, kind),
                    save_all=True,
                    append_images=others,
                    compression="tiff_deflate",
                )
    return Tables(
        manifest=_manifest_rows(job, patient, ids),
        grades=_grade_rows(job, patient, ids),
        truth=_truth_rows(patient, ids, signs=bool(job.diagnosis)),
    )


def _manifest_rows(job: Job, patient: Patient, ids: list[str]) -> Rows:
    split = "train" if job.trains and job.index not in _held_out(job) else "test"
    exams = patient.exams
    told = _age_and_sex(job) if job.settings.age_and_sex else ()
    return [
        (
            name, f"{job.site}-p{job.index:03d}", patient.visit.isoformat(), joint.side,
            joint.kind, joint.digit,
            "dorsal longitudinal", job.device.name, f"images/{name}_gs.png",
            " ".join(map(str, exams.grey_roi[i])), f"images/{name}_doppler.png",
            " ".join(map(str, exams.doppler_roi[i])), patient.diagnosis, split, *_clip_cells(patient, name, i),
            *told,
        )
        for i, (name, joint) in enumerate(zip(ids, patient.joints, strict=True))
    ]  # fmt: skip


def _age_and_sex(job: Job) -> tuple[int, str]:
    """A patient's, of a generator of their own: pictures and grades are those that they would be without."""
    rng = stream(job.seed, job.site, "age and sex", job.index)
    age = int(np.clip(rng.normal(MEAN_AGE, SPREAD_OF_AGE), YOUNGEST, OLDEST))
    return age, "F" if rng.random() < WOMEN else "M"


def _clip_cells(patient: Patient, name: str, index: int) -> list[str]:
    """What the manifest says of an exam's clips."""
    clips, cells = patient.clips, list[str]()
    if clips is None:
        return cells
    for image, rois in zip(CLIPS, (clips.grey_roi, clips.doppler_roi), strict=True):
        roi, rate = " ".join(map(str, rois[index])), f"{clips.frame_rate[index]:.2f}"
        cells += [f"images/{name}_{image}.tif", roi, str(clips.grey.shape[1]), rate]
    return cells


def _held_out(job: Job) -> set[int]:
    """Patients of the site who are tested on: the same set whichever patient asks."""
    patients = job.shift.patients
    order = stream(job.seed, job.site, "split").permutation(patients)
    return {int(p) for p in order[: round(job.settings.held_out * patients)]}


def _grade_rows(job: Job, patient: Patient, ids: list[str]) -> Rows:
    if not job.graded:
        return []
    rng = stream(job.seed, job.site, "slips", job.index)
    rows: Rows = []
    for i, name in enumerate(ids):
        slip = str(
            rng.choice(
                ["none", "impossible", "gap"], p=[1 - BROKEN_SHARE, BROKEN_SHARE / 2, BROKEN_SHARE / 2]
            )
        )
        for reader in range(len(patient.hypertrophy)):
            grades: tuple[str | int, str | int] = (
                int(patient.hypertrophy[reader, i]),
                int(patient.vascularity[reader, i]),
            )
            if slip != "none":
                grades = (0, 2) if slip == "impossible" else (grades[0], "")
            rows.append((name, f"{job.site}-r{reader + 1}", 1, *grades))
    return rows


def _truth_rows(patient: Patient, ids: list[str], *, signs: bool) -> Rows:
    exams = patient.exams
    hypertrophy, vascularity = exams.severity.grades
    return [
        (
            name,
            int(hypertrophy[i]),
            int(vascularity[i]),
            round(float(exams.colour_fraction[i]), 5),
            int(exams.flow_outside[i]),
            int(exams.effusion[i]),
            int(exams.notch[i]),
            *(_sign_cells(exams, i) if signs else ()),
        )
        for i, name in enumerate(ids)
    ]


def _sign_cells(exams: Exams, i: int) -> tuple[float, ...]:
    signs = exams.signs
    columns = (
        signs.extracapsular, signs.erosive, signs.paratenon_mm, signs.paratenon_db, exams.peritendinous_mm2,
        signs.erosion_mm,
    )  # fmt: skip
    return tuple(round(float(column[i]), 5) for column in columns)


def write_site(
    folder: Path,
    name: str,
    parts: list[Tables],
    *,
    maximum_epsilon: float | None = None,
    diagnosis: bool = False,
    age_and_sex: bool = False,
) -> None:
    """Write the settings and the tables of a site whose pictures are there.

    Args:
        folder: of the site.
        name: of the site.
        parts: rows of its patients, in order.
        maximum_epsilon: privacy budget of a patient; ``None``: there is none.
        diagnosis: whether its policy permits networks that learn one.
        age_and_sex: whether the rows end with them.
    """
    budget = NO_BUDGET if maximum_epsilon is None else BUDGET.format(epsilon=float(maximum_epsilon))
    (folder / "site.toml").write_text(
        SITE_TOML.format(name=name, minimum_cohort=MINIMUM_COHORT, budget=budget) + DIAGNOSIS * diagnosis,
        encoding="utf-8",
    )
    rows = [row for part in parts for row in part.manifest]
    told = AGE_AND_SEX * age_and_sex
    moving = bool(rows) and len(rows[0]) > len(MANIFEST) + len(told)
    clips = tuple(f"{image}_{part}" for image in CLIPS for part in CLIP_PARTS) if moving else ()
    _write_table(folder / "manifest.csv", (*MANIFEST, *clips, *told), rows)
    _write_table(folder / "grades.csv", GRADES, [row for part in parts for row in part.grades])
    signs = any(len(row) > len(TRUTH) for part in parts for row in part.truth)
    _write_table(
        folder / "truth.csv", (*TRUTH, *SIGNS * signs), [row for part in parts for row in part.truth]
    )


def _write_table(path: Path, columns: tuple[str, ...], rows: Rows) -> None:
    path.write_text(csv_text.table(columns, rows), encoding="utf-8", newline="")
