"""Diagnoses that show weakly, in what no grade and no machine knows of."""

from collections import Counter
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from common.errors import ConfigurationError
from common.sections.cohort import DiagnosisSettings, PhantomSettings, ShiftSettings
from common.sections.section import section
from simulation.cohorts import cohort
from simulation.phantom.devices import FITTED
from simulation.phantom.diagnosis import EROSIVE_APART, RHEUMATOID, Signs, draw_signs
from simulation.phantom.folders import MANIFEST, SIGNS, TRUTH, Job, make
from simulation.phantom.random import stream
from simulation.phantom.screen import Texts
from simulation.phantom.section import Exams, make_exams
from simulation.phantom.severity import exact

SCANS = 7
PLAIN = Texts(patient="PH1", date="2024-01-01", joint="RT MCP2", annotated=False, calipers=None)
OTHERS = ("PsA", "SpA")


def settings_of(**more: object) -> PhantomSettings:
    """340 patients on two machines that both sites have."""
    return section(
        PhantomSettings,
        {
            "sites": 2,
            "patients": 170,
            "exams_per_patient": 7,
            "unseen_device": False,
            "image_px": 64,
            "machines": [asdict(replace(FITTED[0], name="one")), asdict(replace(FITTED[3], name="two"))],
            "shift": {"devices": "shared"},
            "diagnosis": DiagnosisSettings(),
        }
        | more,
        source="a test",
    )


def jobs_of(settings: PhantomSettings, *, seed: int = 0) -> list[Job]:
    names = [f"site-{letter}" for letter in "abcdefgh"[: settings.sites]]
    return cohort.jobs(settings, seed=seed, folders={name: Path(name) for name in names})


@lru_cache(maxsize=8)
def latents(diagnosis: str, strength: float, patients: int = 4000) -> Signs:
    """Signs of one scan of each of so many patients, who are independent of each other."""
    drawn = [
        draw_signs(stream(1, diagnosis, i), diagnosis, joints=1, strength=strength) for i in range(patients)
    ]
    return Signs(**{name: np.concatenate([getattr(d, name) for d in drawn]) for name in Signs.__slots__})


def auc(values: np.ndarray, others: np.ndarray) -> float:
    """Of values of those who have it, against the others'."""
    return float(roc_auc_score(np.r_[np.ones(len(values)), np.zeros(len(others))], np.r_[values, others]))


def standard_error(positive: int, negative: int) -> float:
    """Of an AUC where there is nothing to tell: of a Mann-Whitney statistic without ties."""
    return float(np.sqrt((positive + negative + 1) / (12 * positive * negative)))


@pytest.mark.parametrize("rheumatoid", RHEUMATOID)
def test_who_knew_the_latent_of_one_scan_would_tell_psoriatic_from_rheumatoid(rheumatoid: str) -> None:
    """Equal-variance normal, distance 0.954: AUC 0.75; the standard error of 4000 each is 0.0055."""
    found = auc(latents("PsA", 1.0).extracapsular, latents(rheumatoid, 1.0).extracapsular)
    assert found == pytest.approx(0.75, abs=0.02)


def test_erosions_tell_positive_from_negative() -> None:
    """Distance 0.6: AUC = Phi(0.6 / root of 2) = 0.664."""
    positive, negative = latents("RA+", 1.0), latents("RA-", 1.0)
    assert auc(positive.erosive, negative.erosive) == pytest.approx(0.664, abs=0.02)
    assert positive.erosive.mean() - negative.erosive.mean() == pytest.approx(EROSIVE_APART, abs=0.07)
    assert abs(auc(positive.extracapsular, negative.extracapsular) - 0.5) < 3 * standard_error(4000, 4000)


def test_half_of_the_variance_is_the_patients() -> None:
    drawn = [draw_signs(stream(2, i), "RA+", joints=2, strength=1.0) for i in range(3000)]
    for name in ("extracapsular", "erosive"):
        pairs = np.array([getattr(one, name) for one in drawn])
        assert pairs.var() == pytest.approx(1, abs=0.06)
        assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(0.5, abs=0.05)


def test_strength_nothing_means_nothing() -> None:
    bound = 3 * standard_error(4000, 4000)
    for first, second in (("PsA", "RA+"), ("PsA", "RA-"), ("RA+", "RA-")):
        one, other = latents(first, 0.0), latents(second, 0.0)
        for name in ("extracapsular", "erosive", "paratenon_mm", "paratenon_db", "erosion_mm"):
            assert abs(auc(getattr(one, name), getattr(other, name)) - 0.5) < bound, (first, second, name)


def test_permuted_diagnoses_mean_nothing() -> None:
    values = np.r_[latents("PsA", 1.0).extracapsular, latents("RA+", 1.0).extracapsular]
    shuffled = stream(3, "permuted").permutation(values)
    assert abs(auc(shuffled[:4000], shuffled[4000:]) - 0.5) < 3 * standard_error(4000, 4000)


@lru_cache(maxsize=2)
def drawn_scans(strength: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Whether each patient has SpA/PsA, and what is drawn in the first scan of each, of both machines."""
    settings = settings_of(
        patients=60,
        exams_per_patient=1,
        diagnosis=DiagnosisSettings(strength=strength, mix={"RA+": 1, "PsA": 1}),
    )
    made = [make(job) for job in jobs_of(settings)]
    columns = {
        "paratenon_mm": [p.exams.signs.paratenon_mm[0] for p in made],
        "paratenon_db": [-p.exams.signs.paratenon_db[0] for p in made],
        "peritendinous_mm2": [p.exams.peritendinous_mm2[0] for p in made],
    }
    return np.array([p.diagnosis in OTHERS for p in made]), {k: np.array(v) for k, v in columns.items()}


@pytest.mark.soak
def test_what_is_drawn_tells_diagnoses_apart_only_where_it_should() -> None:
    bound = 3 * standard_error(60, 60)
    for strength in (0.0, 1.0):
        other, columns = drawn_scans(strength)
        assert other.sum() == 60
        for name, values in columns.items():
            found = auc(values[other], values[~other])
            if strength:
                assert found > 0.5 + bound / 3, name
            else:
                assert abs(found - 0.5) < bound, name


def exams_with(signs: Signs | None) -> Exams:
    return make_exams(
        stream(1, "exam"),
        exact(2.5, 0.5, joints=4),
        FITTED[0],
        kinds=["MCP", "PIP", "DIP", "wrist"],
        texts=[PLAIN] * 4,
        signs=signs,
    )


def test_no_signs_are_signs_that_are_absent() -> None:
    plain, absent = exams_with(None), exams_with(Signs.absent(4))
    assert np.array_equal(plain.grey, absent.grey)
    assert np.array_equal(plain.doppler, absent.doppler)


def test_signs_change_neither_grade_nor_what_readers_see_of_it() -> None:
    strong = Signs(extracapsular=np.full(4, 2.5), erosive=np.full(4, 2.5), places=np.full((4, 3), 0.5))
    plain, marked = exams_with(None), exams_with(strong)
    assert not np.array_equal(plain.grey, marked.grey)
    assert (marked.peritendinous_mm2 > 0).all()
    assert (
        marked.colour_fraction == 0
    ).all()  # vascularity 0: flow along the tendon is none of the synovium's
    assert [list(g) for g in marked.severity.grades] == [list(g) for g in plain.severity.grades]
    assert np.array_equal(marked.flow_outside, plain.flow_outside)


def test_the_published_patients_are_dealt_exactly() -> None:
    jobs = jobs_of(settings_of(one_exam_more=0.288))
    assert Counter(job.diagnosis for job in jobs) == {"RA+": 146, "RA-": 68, "PsA": 121, "SpA": 5}
    assert sum(job.exams for job in jobs) == 2478
    assert Counter((job.site, job.device.name) for job in jobs) == {
        (site, name): 85 for site in ("site-a", "site-b") for name in ("one", "two")
    }


def device_auc(tied: float) -> float:
    found = []
    for seed in range(6):
        jobs = jobs_of(settings_of(diagnosis=DiagnosisSettings(tied_to_machine=tied)), seed=seed)
        machine = np.array([job.device.name == "two" for job in jobs], dtype=float)
        other = np.array([job.diagnosis in OTHERS for job in jobs])
        found.append(auc(machine[other], machine[~other]))
    return float(np.mean(found))


def test_the_machine_knows_the_diagnosis_only_where_it_is_tied_to_it() -> None:
    """Tied closely, 126 patients with SpA/PsA are all among the 170 of one machine: AUC 1/2 + (1 - 44/214) / 2."""
    untied, half, closely = (device_auc(tied) for tied in (0.0, 0.5, 1.0))
    assert abs(untied - 0.5) < 3 * standard_error(126, 214) / np.sqrt(6)
    assert untied < half < closely
    assert closely == pytest.approx(0.897, abs=0.001)


@pytest.mark.soak
def test_diagnoses_have_the_same_grades() -> None:
    """Grades of the cohort's first joints are those of independent patients: tested by chi-squared."""
    settings = settings_of(exams_per_patient=1, hypertrophy_mix=(0.643, 0.175, 0.151, 0.031), image_px=64)
    table = np.zeros((2, 4))
    for job in jobs_of(settings)[:200]:
        table[int(job.diagnosis in OTHERS), make(job).exams.severity.grades[0][0]] += 1
    assert chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue > 0.01
    assert table.sum(axis=0)[0] / table.sum() == pytest.approx(0.643, abs=0.1)


def test_any_joints_are_others_for_each_patient() -> None:
    settings = settings_of(joints="any", exams_per_patient=8)
    made = [make(job) for job in jobs_of(settings)[:6]]
    kinds = Counter(joint.kind for patient in made for joint in patient.joints)
    assert set(kinds) == {"wrist", "MCP", "PIP", "DIP"}
    assert all(len(set(patient.joints)) == 8 for patient in made)
    assert made[0].joints != made[1].joints


def test_a_folder_tells_the_diagnosis_and_its_truth_what_was_drawn(tmp_path: Path) -> None:
    settings = settings_of(patients=2, exams_per_patient=2)
    made = cohort.make(settings, seed=1, out=tmp_path / "cohort", workers=1)
    for site in made.sites:
        manifest = (site.folder / "manifest.csv").read_text().splitlines()
        assert manifest[0].split(",") == list(MANIFEST)
        assert {line.split(",")[MANIFEST.index("device")] for line in manifest[1:]} == {"one", "two"}
        truth = (site.folder / "truth.csv").read_text().splitlines()
        assert truth[0].split(",") == [*TRUTH, *SIGNS]
        assert len({line.split(",")[len(TRUTH)] for line in truth[1:]}) == 4
    dealt = {job.diagnosis for job in jobs_of(settings, seed=1)}
    told = {
        line.split(",")[MANIFEST.index("diagnosis")]
        for site in made.sites
        for line in (site.folder / "manifest.csv").read_text().splitlines()[1:]
    }
    assert told == dealt


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"diagnosis": {"mix": {"RA+": 0}}}, "diagnosis that somebody has"),
        ({"diagnosis": {"mix": {"gout": 1}}}, "gout"),
        ({"hypertrophy_mix": (0.5, 0.5)}, "four shares"),
        ({"machines": []}, "machines to share"),
        ({"diagnosis": {"tied_to_machine": 1.5}}, "tied_to_machine"),
    ],
)
def test_impossible_settings_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        settings_of(**more)


def test_the_default_cohort_has_no_signs() -> None:
    job = jobs_of(PhantomSettings(sites=1, patients=1, shift=ShiftSettings()))[0]
    assert job.diagnosis == ""
    assert (make(job).exams.signs.extracapsular == 0).all()
