"""Obuchowski and Rockette's analysis, against what its authors' own program printed."""

import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from common.errors import DataError
from common.evaluation import roc
from common.evaluation.agreement import accuracy
from common.evaluation.bootstrap import patient_confusions
from common.evaluation.multireader.obuchowski_rockette import Analysis, analyse, jackknife

# Van Dyke et al. 1993: ratings 1-5 of 114 patients, the first 69 without aortic dissection, by five radiologists,
# with single spin-echo (first five rows) and cine MRI (last five). Ratings as published with RJafroc (dataset02) and
# MRMCaov (VanDyke); read from inst/JAFROC/VanDyke.xlsx of github.com/dpc10ster/RJafroc.
VAN_DYKE = (
    "122151111111411111111131311214111113121211233131133111111221111332111555545554555434245555555154454553555115554451",
    "232222222322522232222222422223222222222222222222222222222432232222222535555542555442225555555243354552425225555352",
    "222235112242422232221232411322112224121412112222223211211221151421212545555555555542355555555252255552555225555552",
    "111111311111111111112111211112111111111111111111331111111111111311111555555555555555155555555554544553555125555555",
    "351211112221211122113221111211211231221113332111211111111341231212113525255551545452235555554144322151515115553552",
    "333222223213122222211111421312214323123122233111333113412421241442111535555554555544335555555355355554455535555551",
    "322222223222222122221222322222212212222231223222222222322322222222122535555552555344245455545252355532425525555552",
    "242222322211132222121121411512112122212221132111233113221232341242121525555555555354145555555253355543555534555551",
    "221111312111122111211111321212111122112111112121212211111212111323211545555554555455555555555455445555555535555555",
    "223122221222111222122212322321212222112121132122332122221222231233111525455555455343335555555251332532545533555553",
)

PATIENTS = 114
SCRIPT = Path(__file__).parents[4] / "benchmarks" / "readers_random.py"
"""Which measures the same with many more studies."""


def van_dyke() -> np.ndarray:
    """Confusion matrices (conditions, readers, patients, 5, 5), the reference 0 or 1 in the rows."""
    truth, patient = (np.arange(PATIENTS) >= 69).astype(np.int64), np.arange(PATIENTS)
    each = [
        patient_confusions(
            truth, np.array(list(row), dtype=np.int64) - 1, patient, grades=5, patients=PATIENTS
        )
        for row in VAN_DYKE
    ]
    return np.reshape(each, (2, 5, PATIENTS, 5, 5))


area = partial(roc.grades_auc, cut=0)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(area, van_dyke())


def test_areas_are_those_of_van_dykes_readers() -> None:
    golden = [
        [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
        [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
    ]
    assert np.asarray(area(van_dyke().sum(axis=2))) == pytest.approx(np.array(golden), abs=5e-9)


# As printed by OR-DBM MRMC 2.5 (Schartz, Hillis, Pesce, Berbaum; University of Iowa) on 04/12/2017 for trapezoidal
# areas and jackknife, with which RJafroc compares itself: inst/obumrm2/VanDyke-traparea-jackknife-obuch-anova.txt.
def test_golden_variance_components(analysis: Analysis) -> None:
    found = analysis.components
    values = (found.reader, found.interaction, found.cov1, found.cov2, found.cov3, found.error)
    golden = (0.00153500, 0.00020040, 0.00034661, 0.00034407, 0.00023903, 0.00080229)
    assert values == pytest.approx(golden, abs=5.1e-9)


def test_golden_difference_for_other_readers_and_patients(analysis: Analysis) -> None:
    found = analysis.random
    assert found is not None
    assert round(found.value, 8) == 0.04380032
    assert (round(found.statistic, 2), round(found.df, 2), round(found.p, 4)) == (4.46, 15.26, 0.0517)
    assert (round(found.low, 5), round(found.high, 5)) == (-0.00036, 0.08796)


def test_golden_difference_for_these_readers_and_other_patients(analysis: Analysis) -> None:
    found = analysis.fixed
    assert found is not None
    assert (round(found.statistic, 5), found.df, round(found.p, 4)) == (5.47595, np.inf, 0.0193)
    assert (round(found.low, 5), round(found.high, 5)) == (0.00711, 0.08049)


def test_golden_means_of_single_conditions(analysis: Analysis) -> None:
    random, fixed = analysis.means_random, analysis.means_fixed
    assert [round(mean.df, 2) for mean in random] == [12.74, 12.71]
    found = [(mean.value, mean.low, mean.high) for mean in (*random, *fixed)]
    golden = [
        (0.89703704, 0.82522360, 0.96885048),
        (0.94083736, 0.89413783, 0.98753689),
        (0.89703704, 0.84943008, 0.94464399),
        (0.94083736, 0.90795637, 0.97371835),
    ]
    assert np.array(found) == pytest.approx(np.array(golden), abs=5.1e-9)
    alone = analyse(area, van_dyke()[:1])
    assert alone.random is None
    assert replace(alone.means_random[0], statistic=0.0, p=0.0) == replace(random[0], statistic=0.0, p=0.0)
    assert np.isnan(alone.components.cov1)


def test_area_of_grades_is_that_of_their_scores() -> None:
    rng = np.random.default_rng(0)
    truth, grade = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    pooled = patient_confusions(truth, grade, np.zeros(200, dtype=np.int64), grades=4, patients=1)[0]
    for cut in range(3):
        assert roc.grades_auc(pooled, cut=cut) == pytest.approx(roc.auc(grade, truth > cut))
    assert np.isnan(roc.grades_auc(np.diag([3, 0, 0, 0]), cut=0))


def test_without_patients_variance_it_is_the_paired_t_test() -> None:
    # Each patient is graded alike: leaving one out changes nothing, and what is left is readers by conditions.
    rng = np.random.default_rng(1)
    right = rng.integers(2, 9, (2, 4))
    counts = np.zeros((2, 4, 6, 2, 2), dtype=np.int64)
    counts[..., 0, 0], counts[..., 0, 1] = right[..., None], 10 - right[..., None]
    found = analyse(accuracy, counts).random
    assert found is not None
    expected = ttest_rel(right[1] / 10, right[0] / 10)
    assert (found.statistic, found.df, found.p) == pytest.approx((expected.statistic**2, 3, expected.pvalue))


def test_jackknife_of_a_mean_is_its_squared_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=20)
    left_out = (values.sum() - values) / 19
    assert jackknife(left_out[None, None])[0, 0, 0, 0] == pytest.approx(values.var(ddof=1) / 20)


def test_edge_cases() -> None:
    counts = van_dyke()
    for wrong in (counts[:, :1], counts[:, :, :1], np.concatenate([counts, counts])):
        with pytest.raises(DataError, match="Expected two readers or more"):
            analyse(area, wrong)
    same = analyse(area, np.stack([counts[0], counts[0]]))
    assert same.random is not None
    assert same.random.value == 0
    assert np.isnan(same.random.p)
    healthy = analyse(area, counts[:, :, :69])
    assert healthy.fixed is not None
    assert np.isnan([healthy.fixed.value, healthy.fixed.p, healthy.components.error]).all()


def test_finds_differences_that_are_not_there_as_often_as_it_says() -> None:
    null_study = runpy.run_path(str(SCRIPT))["null_study"]
    rng = np.random.default_rng(3)
    found = [analyse(accuracy, null_study(rng, readers=5, patients=40)) for _ in range(300)]
    random, fixed = ([getattr(one, kind) for one in found] for kind in ("random", "fixed"))
    share = np.mean([one.p <= 0.05 for one in random])
    assert 0.02 <= share <= 0.085, "within what 300 studies can tell from 0.05"
    assert np.mean([one.low <= 0 <= one.high for one in random]) == pytest.approx(1 - share, abs=1e-9)
    # Readers gain differently here: who takes these readers for all readers is wrong more often.
    assert np.mean([one.p <= 0.05 for one in fixed]) > share + 0.03
    widths = [np.mean([one.high - one.low for one in kind]) for kind in (random, fixed)]
    assert widths[0] > 1.2 * widths[1], "readers-random is wider"
