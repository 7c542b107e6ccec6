"""A site's tables: they add up to the matrix of all exams, and their intervals are the pooled bootstrap's."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common import signed_json
from common.errors import UpdateError
from common.evaluation import bootstrap
from common.evaluation.agreement import accuracy, kappa
from common.evaluation.inside import site_tables
from common.evaluation.inside.site_tables import Judged, Paired, SiteTables, Table

LINEAR = partial(kappa, weights="linear")


def judged(
    rng: np.random.Generator, *, patients: int, exams_each: int = 6, skill: float = 0.7, first: int = 0
) -> Judged:
    """Exams of patients who are more or less ill, and whom the ensemble knows more or less well."""
    patient = np.repeat(np.arange(patients), exams_each)
    ill, known = rng.uniform(0, 3, patients)[patient], rng.normal(skill, 0.2, patients)[patient]
    reference = np.clip(np.rint(ill + rng.normal(0, 0.7, len(patient))), 0, 3).astype(np.int64)
    right = rng.random(len(patient)) < known
    decision = np.where(right, reference, rng.integers(0, 4, len(patient)))
    above = np.clip(reference[:, None] / 3 + rng.normal(0, 0.2, (len(patient), 3)), 0, 1)
    return Judged(
        reference=reference,
        decision=decision,
        patient=patient + first,
        contested=rng.random(len(patient)) < 0.1,
        calibrates=patient % 2 == 0,
        above=above,
    )


def table(exams: Judged, *, score: str = "hypertrophy", device: str = "A") -> Table:
    return site_tables.table(exams, score=score, device=device, grades=4)


def together(parts: list[Judged]) -> Judged:
    assert all(part.above is not None for part in parts)
    return Judged(
        reference=np.concatenate([part.reference for part in parts]),
        decision=np.concatenate([part.decision for part in parts]),
        patient=np.concatenate([part.patient for part in parts]),
        contested=np.concatenate([part.contested for part in parts]),
        calibrates=np.concatenate([part.calibrates for part in parts]),
        above=np.concatenate([part.above for part in parts if part.above is not None]),
    )


@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 4))
def test_tables_of_sites_add_up_to_the_table_of_all(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [judged(rng, patients=int(rng.integers(1, 9)), first=100 * site) for site in range(sites)]
    each, whole = [table(part) for part in parts], table(together(parts))
    np.testing.assert_array_equal(site_tables.confusion(each), np.array(whole.confusion))
    assert sum(one.patients for one in each) == whole.patients
    for metric in (accuracy, LINEAR):
        one, other = site_tables.estimate(metric, each), site_tables.estimate(metric, [whole])
        assert (one.value, one.low, one.high) == pytest.approx(
            (other.value, other.low, other.high), nan_ok=True
        )
    for one_cut, other_cut in zip(site_tables.histograms(each), site_tables.histograms([whole]), strict=True):
        np.testing.assert_array_equal(one_cut.counts, other_cut.counts)
    assert site_tables.conformity(each) == site_tables.conformity([whole])


@pytest.mark.parametrize("metric", [accuracy, LINEAR], ids=["accuracy", "kappa"])
@pytest.mark.parametrize("skill", [0.5, 0.8])
def test_intervals_are_as_wide_as_the_pooled_bootstraps(metric: partial[float], skill: float) -> None:
    rng = np.random.default_rng(7)
    parts = [judged(rng, patients=40, skill=skill, first=100 * site) for site in range(3)]
    found = site_tables.estimate(metric, [table(part) for part in parts])
    whole = together(parts)
    patients, patient = np.unique(whole.patient, return_inverse=True)
    counts = bootstrap.patient_confusions(
        whole.reference, whole.decision, patient, grades=4, patients=len(patients)
    )
    draws = bootstrap.resamples(len(patients), replicates=20_000, generator=rng)
    pooled = bootstrap.estimate(metric, counts, draws)
    assert found.value == pytest.approx(pooled.value)
    assert found.high - found.low == pytest.approx(pooled.high - pooled.low, rel=0.1)


def paired(rng: np.random.Generator, exams: Judged) -> Judged:
    """What a site trained alone is right and wrong on the same exams as the ensemble, mostly."""
    same = rng.random(len(exams.reference)) < 0.7
    other = np.where(rng.random(len(same)) < 0.5, exams.reference, rng.integers(0, 4, len(same)))
    return replace(
        exams,
        paired=Paired(models=1, alone=np.where(same, exams.decision, other), together=exams.decision),
    )


@pytest.mark.parametrize("metric", [accuracy, LINEAR], ids=["accuracy", "kappa"])
def test_a_gains_interval_is_as_wide_as_the_pooled_bootstraps(metric: partial[float]) -> None:
    rng = np.random.default_rng(3)
    parts = [paired(rng, judged(rng, patients=40, first=100 * site)) for site in range(3)]
    found = site_tables.gain(metric, [table(part) for part in parts])
    assert found is not None
    patient = np.unique(np.concatenate([part.patient for part in parts]), return_inverse=True)[1]
    reference = np.concatenate([part.reference for part in parts])

    def counted(decisions: list[np.ndarray]) -> np.ndarray:
        return bootstrap.patient_confusions(
            reference, np.concatenate(decisions), patient, grades=4, patients=120
        )

    together = counted([part.decision for part in parts])
    alone = counted([part.paired.alone for part in parts if part.paired is not None])
    draws = bootstrap.resamples(120, replicates=20_000, generator=rng)
    one, other = (metric(bootstrap.replicate_confusions(c, draws)) for c in (together, alone))
    low, high = np.quantile(np.subtract(one, other), [0.025, 0.975])
    assert found.gain.value == pytest.approx(found.together.value - found.alone.value)
    assert found.alone.value == pytest.approx(metric(alone.sum(axis=0)))
    assert found.gain.high - found.gain.low == pytest.approx(high - low, rel=0.1)
    apart = math.hypot(found.alone.high - found.alone.value, found.together.high - found.together.value)
    assert found.gain.high - found.gain.value < apart  # paired: both err on the same exams


def test_gains_of_sites_count_alike_whatever_their_size() -> None:
    rng = np.random.default_rng(5)
    parts = [paired(rng, judged(rng, patients=patients)) for patients in (10, 40)]
    each = [found for part in parts if (found := site_tables.gain(accuracy, [table(part)])) is not None]
    mean = site_tables.mean_gain(each)
    assert mean.gain.value == pytest.approx(np.mean([one.gain.value for one in each]))
    halves = [one.gain.high - one.gain.value for one in each]
    assert mean.gain.high - mean.gain.value == pytest.approx(math.hypot(*halves) / 2)
    assert site_tables.gain(accuracy, [table(judged(rng, patients=4))]) is None


def test_exams_of_one_patient_that_are_alike_widen_the_interval() -> None:
    reference = np.tile(np.array([0, 1]), 60)
    alike, mixed = np.repeat(np.arange(2), 60)[np.argsort(np.tile(np.arange(60), 2))], reference
    decision = np.where(np.arange(120) % 4 < 2, reference, 1 - reference)
    right = decision == reference
    none = np.zeros(120, dtype=bool)

    def width(patient: np.ndarray) -> float:
        exams = Judged(
            reference=reference, decision=decision, patient=patient, contested=none, calibrates=none
        )
        found = site_tables.estimate(accuracy, [site_tables.table(exams, score="s", device="d", grades=2)])
        return found.high - found.low

    assert alike.shape == mixed.shape
    clustered = np.where(right, np.arange(120) // 8, 100 + np.arange(120) // 8)
    assert width(clustered) > 1.5 * width(np.arange(120))


def test_nothing_of_one_grade_alone_has_a_kappa_or_an_interval() -> None:
    zero, none = np.zeros(5, dtype=np.int64), np.zeros(5, dtype=bool)
    exams = Judged(reference=zero, decision=zero, patient=np.arange(5), contested=none, calibrates=none)
    found = site_tables.estimate(LINEAR, [table(exams)])
    assert np.isnan([found.value, found.low, found.high]).all()
    sure = site_tables.estimate(accuracy, [table(exams)])
    assert (sure.value, sure.low, sure.high) == (1.0, 1.0, 1.0)


def sent(**changes: object) -> dict[str, object]:
    exams = judged(np.random.default_rng(1), patients=6)
    found = SiteTables(site="north", minimum_cohort=5, tables=(table(exams),), suppressed=1)
    return {**found.model_dump(mode="json"), **changes}


def test_what_a_site_sends_is_read_as_it_was() -> None:
    found = SiteTables.model_validate(sent())
    assert site_tables.parse(found.dump()) == found
    assert found.dump() == site_tables.parse(found.dump()).dump()


def broken(**changes: object) -> dict[str, object]:
    whole = sent()
    tables = whole["tables"]
    assert isinstance(tables, list)
    return {**whole, "tables": [{**tables[0], **changes}]}


BROKEN = {
    "fewer exams": broken(exams=3),
    "another shape": broken(confusion=[[1, 2, 3], [4, 5, 6]]),
    "below zero": broken(contested=-1),
    "more contested than exams": broken(contested=1000),
    "products of others": broken(products=[[0] * 16] * 16),
    "sure of other exams": broken(conformity={"calibration": [1] + [0] * 255}),
    "bins": broken(histograms=[[[1, 2], [3, 4]]]),
    "too few patients": sent(minimum_cohort=7),
    "a field too many": sent(patients=["p1"]),
    "a table twice": {**sent(), "tables": [*sent()["tables"], *sent()["tables"]]},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_a_sites_tables_is_refused_without_its_contents(name: str) -> None:
    with pytest.raises(UpdateError, match="Expected a site's tables") as caught:
        site_tables.parse(signed_json.canonical(BROKEN[name]))
    assert "p1" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"site": NaN}', "[" * 100_000])
def test_what_is_no_json_is_refused_too(text: str) -> None:
    with pytest.raises(UpdateError, match="Expected a site's tables"):
        site_tables.parse(text)


def test_tables_of_fewer_patients_than_the_rule_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="as many patients"):
        SiteTables.model_validate(sent(minimum_cohort=7))
