"""Two conditions of reading, compared over readers **and** patients: would other readers gain as much?

The figure of merit theta_ij of reader j in condition i (any number that grades give: accuracy, kappa, an area) is
modelled as

    theta_ij = mu + tau_i + R_j + (tau R)_ij + epsilon_ij        (Obuchowski and Rockette 1995, their model)

Since all readers look at the same patients, the errors epsilon of one study are correlated: Cov1 between conditions
of one reader, Cov2 between readers in one condition, Cov3 between readers in different ones, and Var is an error's
own variance. They are estimated by leaving out patients, each with all exams (jackknife). Mean squares MS(T), MS(R)
and MS(TR) are those of the table of figures, conditions (T) by readers (R). With two conditions and J readers:

====================  =====================================  =========================  =====================
analysis              error of MS(T)                         degrees of freedom         speaks of
====================  =====================================  =========================  =====================
random                MS(TR) + J max(Cov2 - Cov3, 0)         ddf_H = (J - 1) error^2 /  other readers, other
                                                             MS(TR)^2                   patients
fixed                 Var - Cov1 +                           infinite                   these readers, other
                      (J - 1) max(Cov2 - Cov3, 0)                                       patients
random, single        MS(R) + J max(Cov2, 0)                 (J - 1) error^2 / MS(R)^2  as above
fixed, single         Var + (J - 1) max(Cov2, 0)             infinite                   as above
====================  =====================================  =========================  =====================

F = MS(T) / error; the difference has the standard error sqrt(2 error / J), one condition's mean sqrt(error / J).
F has one degree of freedom in its numerator. Figures of a single condition come from that condition's data only.

**Guarantee.** If all readers gain nothing on average, P(p <= 0.05) of *random* is near 0.05: 0.06 to 0.08 with 3
readers, 0.03 to 0.06 with 5, 0.04 to 0.06 with 10, measured over 20 to 100 patients and four figures of merit
(``benchmarks/readers_random.py``). That of *fixed* is not, if readers gain differently: up to 0.34 there.

===================================================  ============================================================
case                                                 result
===================================================  ============================================================
fewer than two readers, or two patients              refused
a figure, or one with a patient left out, is nan     nan throughout
error 0 (all readers gain exactly the same)          difference without interval, F and p nan
MS(TR) 0, error above 0                              ddf_H infinite
random narrower than fixed                           possible: MS(TR) of few readers may be small by chance
===================================================  ============================================================

Source: Obuchowski and Rockette 1995, Commun. Statist. Simul. 24:285-308; max(Cov2 - Cov3, 0) and ddf_H: Hillis et
al. 2005, doi 10.1002/sim.2024, Hillis 2007, doi 10.1002/sim.2532, Hillis, Berbaum and Metz 2008, doi
10.1016/j.acra.2007.12.015; variance component of readers by conditions: Hillis, Obuchowski and Berbaum 2011, doi
10.1016/j.acra.2010.09.007, equation 9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import DataError
from common.evaluation.paired import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """A difference or a mean with its 95 % interval.

    Attributes:
        statistic: F of a difference, which is chi-square over its one degree of freedom where readers are fixed; nan
            for a mean.
        df: of the error; infinite where readers are fixed.
        p: two-sided; nan for a mean.
    """

    value: float
    low: float
    high: float
    statistic: float
    df: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """What readers differ by, variances of the figure of merit; estimates, which may be negative.

    Attributes:
        reader: of readers; nan for one condition.
        interaction: of what readers gain; nan for one condition.
        error: of a figure over patients, Var.
        cov1: of one reader in two conditions; nan for one condition.
        cov2: of two readers in one condition.
        cov3: of two readers in two conditions; nan for one condition.
    """

    reader: float
    interaction: float
    error: float
    cov1: float
    cov2: float
    cov3: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Of one figure of merit.

    Attributes:
        random: second condition minus first, for other readers and other patients; ``None`` for one condition.
        fixed: the same for these readers and other patients.
        means_random: of the readers in each condition, for other readers and other patients.
        means_fixed: the same for these readers and other patients.
    """

    random: Inference | None
    fixed: Inference | None
    means_random: tuple[Inference, ...]
    means_fixed: tuple[Inference, ...]
    components: Components


def analyse(
    metric: Metric, counts: Int64[np.ndarray, "conditions readers patients grades grades"]
) -> Analysis:
    """Analyse a fully crossed study, each reader grading the same exams in each condition.

    Args:
        metric: of the confusion matrix of a reader in a condition.
        counts: one confusion matrix each, of one or two conditions.

    Raises:
        DataError: for one reader, one patient, or more than two conditions.
    """
    conditions, readers, patients = counts.shape[:3]
    if readers < 2 or patients < 2 or conditions not in (1, 2):
        raise DataError(
            "Expected two readers or more, two patients or more, and one condition or two, got "
            f"{readers}, {patients} and {conditions}."
        )
    whole = counts.sum(axis=2)
    figures = np.asarray(metric(whole), dtype=np.float64)
    covariances = jackknife(np.asarray(metric(whole[:, :, None] - counts), dtype=np.float64))
    means = [
        _mean(figures[i], covariances[i, :, i, :][None, :, None, :])  # of this condition's data only
        for i in range(conditions)
    ]
    difference = _difference(figures, covariances) if conditions == 2 else (None, None)
    return Analysis(
        random=difference[0],
        fixed=difference[1],
        means_random=tuple(random for random, _ in means),
        means_fixed=tuple(fixed for _, fixed in means),
        components=_components(figures, covariances),
    )


def jackknife(
    left_out: Float64[np.ndarray, "conditions readers patients"],
) -> Float64[np.ndarray, "conditions readers conditions readers"]:
    """Covariances of figures of merit from those with each patient left out.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, equation 11.5, for pairs of figures.
    """
    patients = left_out.shape[-1]
    apart = left_out - left_out.mean(axis=-1, keepdims=True)
    return np.asarray(np.einsum("ijk,abk->ijab", apart, apart) * (patients - 1) / patients)


def _covariances(
    covariances: Float64[np.ndarray, "conditions readers conditions readers"],
) -> tuple[float, float, float, float]:
    """Var, Cov1, Cov2, Cov3: means over the pairs of each kind."""
    conditions, readers = covariances.shape[:2]
    same_condition = np.eye(conditions, dtype=bool)[:, None, :, None]
    same_reader = np.eye(readers, dtype=bool)[None, :, None, :]
    kinds = (
        same_condition & same_reader,
        ~same_condition & same_reader,
        same_condition & ~same_reader,
        ~same_condition & ~same_reader,
    )
    error, cov1, cov2, cov3 = (
        float(covariances[kind].mean()) if kind.any() else float("nan") for kind in kinds
    )
    return error, cov1, cov2, cov3


def _squares(figures: Float64[np.ndarray, "conditions readers"]) -> tuple[float, float, float]:
    """MS(T), MS(R) and MS(TR)."""
    conditions, readers = figures.shape
    of_condition, of_reader = figures.mean(axis=1, keepdims=True), figures.mean(axis=0, keepdims=True)
    mean = figures.mean()
    ms_t = readers * np.square(of_condition - mean).sum() / (conditions - 1)
    ms_r = conditions * np.square(of_reader - mean).sum() / (readers - 1)
    rest = np.square(figures - of_condition - of_reader + mean).sum()
    return float(ms_t), float(ms_r), float(rest / ((conditions - 1) * (readers - 1)))


def _difference(
    figures: Float64[np.ndarray, "conditions readers"],
    covariances: Float64[np.ndarray, "conditions readers conditions readers"],
) -> tuple[Inference, Inference]:
    readers = figures.shape[1]
    value = float(figures[1].mean() - figures[0].mean())
    _, _, ms_tr = _squares(figures)
    error, cov1, cov2, cov3 = _covariances(covariances)
    between = _positive(cov2 - cov3)
    random = ms_tr + readers * between
    fixed = error - cov1 + (readers - 1) * between
    return (
        _inference(value, 2 * random / readers, _satterthwaite(random, ms_tr, readers - 1), tested=True),
        _inference(value, 2 * fixed / readers, np.inf, tested=True),
    )


def _mean(
    figures: Float64[np.ndarray, " readers"],
    covariances: Float64[np.ndarray, "one readers one readers"],
) -> tuple[Inference, Inference]:
    readers = len(figures)
    ms_r = float(figures.var(ddof=1))
    error, _, cov2, _ = _covariances(covariances)
    random = ms_r + readers * _positive(cov2)
    fixed = error + (readers - 1) * _positive(cov2)
    value = float(figures.mean())
    return (
        _inference(value, random / readers, _satterthwaite(random, ms_r, readers - 1), tested=False),
        _inference(value, fixed / readers, np.inf, tested=False),
    )


def _components(
    figures: Float64[np.ndarray, "conditions readers"],
    covariances: Float64[np.ndarray, "conditions readers conditions readers"],
) -> Components:
    error, cov1, cov2, cov3 = _covariances(covariances)
    reader = interaction = float("nan")
    if len(figures) > 1:
        _, ms_r, ms_tr = _squares(figures)
        reader = (ms_r - ms_tr) / len(figures) - cov1 + cov3
        interaction = ms_tr - error + cov1 + _positive(cov2 - cov3)
    return Components(reader=reader, interaction=interaction, error=error, cov1=cov1, cov2=cov2, cov3=cov3)


def _satterthwaite(error: float, square: float, df: int) -> float:
    """Degrees of freedom of a mean square with something added that is taken as known."""
    return df * (error / square) ** 2 if square > _NOTHING else float("inf")


def _positive(covariance: float) -> float:
    return covariance if np.isnan(covariance) else max(covariance, 0.0)


def _inference(value: float, variance: float, df: float, *, tested: bool) -> Inference:
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415  commands that score no reader study start without

    if not variance > _NOTHING:
        return Inference(value=value, low=np.nan, high=np.nan, statistic=np.nan, df=df, p=np.nan)
    half = float(stdtrit(df, 0.975)) * variance**0.5
    statistic = value**2 / variance if tested else float("nan")
    p = 2 * float(stdtr(df, -(statistic**0.5))) if tested else float("nan")
    return Inference(value=value, low=value - half, high=value + half, statistic=statistic, df=df, p=p)


_NOTHING = 1e-15
"""A variance of figures that is 0 on paper."""
