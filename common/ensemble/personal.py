"""What a site makes for itself of the common networks, where its own validation patients say that it helps.

Candidates, judged **one measurement at a time** (a single network has too few patients to choose by):

* ``norms``: the norms that the site kept under FedBN, in the common weights (Li et al. 2021).
* ``head``, ``network``: the last layers, or all, trained further from the common weights at a low learning rate, on
  the exams of the folds that the network was trained on. Early stopping: of a few times on the way, the one with the
  smallest loss over all networks of the measurement is kept.
* ``mean``: of the common weights and those of ``network`` (Wortsman et al. 2022).
* ``thresholds``: the site's own, for whichever weights were chosen: one for all networks of a cut, by the campaign's
  criterion.
* ``temperature``: of the probabilities that binary networks show (:mod:`common.ensemble.temperature`), for whichever
  weights were chosen; no grade depends on it.

**Weights** are compared by the Brier score of the networks' probabilities on validation patients. Grades are what
counts in the end, but of 80 graded exams of ten patients hardly any gain is beyond chance, while probabilities show
it. **Thresholds** change no probability: they are compared by grades, decoded as the ensemble decodes them, each
patient's by thresholds that were found without that patient. **A temperature** is judged by the log loss, likewise.
In each case the common one stays unless a candidate is
better by ``margin`` standard errors of the difference, paired by patient (Breiman et al. 1984: the
one-standard-error rule).

**Optimism.** Stopping and choosing use the same patients. There are few times to stop at, they are judged over all
networks of a measurement together, and candidates are few: what is chosen among them is slightly overrated, which the
margin has to cover. Held-out patients have no part in anything here.

What is trained here has no noise: in a campaign with differential privacy, too, it must never leave the site.

Source: Breiman, Friedman, Olshen and Stone 1984, Classification and Regression Trees, section 3.4.3; Li et al. 2021,
FedBN, arXiv 2102.07623; Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.ensemble import temperature
from common.ensemble.candidates import Bench, Candidate
from common.ensemble.trained import TrainedNetwork
from common.ensemble.validation import (
    Answers,
    Judged,
    brier,
    exams_of_fold,
    graded,
    judged,
    right,
    with_validation,
)
from common.evaluation.histograms import ScoreHistograms
from common.exam import MISSING
from common.methods.stages import Output
from common.sections.section import Criterion
from common.training.inputs import labels

COMMON, OWN = "common", "own"
THRESHOLDS, TEMPERATURE = "thresholds", "temperature"
HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a site uses for one measurement.

    Attributes:
        weights: ``common`` or a candidate.
        thresholds: ``common`` or ``own``.
        judged: each candidate against the common one: weights by the Brier score (times it is smaller), thresholds by
            the share of exams that are graded right, a temperature by the log loss (how much it is smaller).
        temperature: of the binary networks' shown probabilities.
    """

    weights: str
    thresholds: str
    judged: Mapping[str, Judged]
    temperature: float = 1.0

    @property
    def sentence(self) -> str:
        """For a person."""
        what = [f"weights: {self.weights}"] if self.weights != COMMON else []
        what += ["thresholds of its own"] if self.thresholds == OWN else []
        what += [f"temperature {self.temperature:.2f}"] if self.temperature != 1 else []
        patients = max((found.patients for found in self.judged.values()), default=0)
        return f"{', '.join(what) or 'the common networks'} (by {patients} validation patients)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """A site's own networks.

    Attributes:
        networks: in the order of the common ones, which stay where nothing else is better.
        choices: by measurement.
    """

    networks: tuple[TrainedNetwork, ...]
    choices: Mapping[str, Choice]


def rounds(networks: Sequence[TrainedNetwork], bench: Bench) -> int:
    """How often ``bench.progress`` is called."""
    trained = {"head", "network"} & set(bench.personal.candidates)
    return len(networks) * bench.personal.checks * len(trained)


def personalise(common: Sequence[TrainedNetwork], bench: Bench) -> Personal:
    """Make a site's own networks, a pure function: same inputs, same bits (on a CPU).

    Args:
        common: the networks that score, each whole (:func:`common.machine.network_files.whole`).
        bench: the site's exams, and how candidates are made of them; held-out exams are not looked at.
    """
    networks, data = with_validation(common, bench.data, folds=bench.settings.folds)
    bench = replace(bench, data=data)
    by_measurement: dict[str, list[TrainedNetwork]] = {}
    for network in networks:
        by_measurement.setdefault(network.spec.target.measurement, []).append(network)
    chosen = {name: _weights(members, bench) for name, members in by_measurement.items()}
    weights = {key: values for _, found, _ in chosen.values() for key, values in found.weights.items()}
    answers = {key: values for _, found, _ in chosen.values() for key, values in found.answers.items()}
    thresholds = {network.spec.name: network.result.threshold for network in networks}
    choices = {}
    for measurement, (kind, _, verdicts) in chosen.items():
        own = _thresholds(measurement, networks, answers, bench)
        choices[measurement] = Choice(weights=kind, thresholds=COMMON, judged=verdicts)
        if own is not None:
            better = own.judged.better(margin=bench.personal.margin)
            thresholds |= own.thresholds if better else {}
            choices[measurement] = replace(
                choices[measurement],
                thresholds=OWN if better else COMMON,
                judged={**verdicts, THRESHOLDS: own.judged},
            )
        choices[measurement] = _at_temperature(
            choices[measurement], by_measurement[measurement], answers, bench
        )
    made = [
        replace(
            network,
            weights=weights[network.spec.name].numpy(),
            result=replace(network.result, threshold=thresholds[network.spec.name]),
        )
        for network in common
    ]
    return Personal(networks=tuple(made), choices=choices)


def _weights(members: Sequence[TrainedNetwork], bench: Bench) -> tuple[str, Candidate, Mapping[str, Judged]]:
    """The best candidate for the networks of one measurement, if it is good enough, and how all of them did."""
    specs = [network.spec for network in members]
    common = bench.common(members)
    before, patient = brier(specs, common.answers, bench.data)
    kind, best, verdicts = COMMON, common, {}
    for name, candidate in bench.candidates(members, common):
        after, _ = brier(specs, candidate.answers, bench.data)
        verdicts[name] = judged(before - after, patient)
        ahead = kind == COMMON or verdicts[name].gain > verdicts[kind].gain
        if ahead and verdicts[name].better(margin=bench.personal.margin):
            kind, best = name, candidate
    return kind, best, verdicts


def _at_temperature(
    choice: Choice, members: Sequence[TrainedNetwork], answers: Answers, bench: Bench
) -> Choice:
    """The choice with one temperature for all binary networks of its measurement, if it is good enough."""
    specs = [n.spec for n in members if n.spec.target.kind == "binary"]
    if TEMPERATURE not in bench.personal.candidates or not specs:
        return choice
    asked, wanted, patient = graded(specs, answers, bench.data)
    verdict = judged(temperature.crossed(asked, wanted, patient), patient)
    better = verdict.better(margin=bench.personal.margin)
    return replace(
        choice,
        temperature=temperature.fit(asked, wanted) if better else 1.0,
        judged={**choice.judged, TEMPERATURE: verdict},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    thresholds: Mapping[str, float]
    judged: Judged


def _thresholds(
    measurement: str, networks: Sequence[TrainedNetwork], answers: Answers, bench: Bench
) -> _Own | None:
    """The site's own for one measurement's binary networks; ``None``: not asked for, or none are binary."""
    binary = [
        n for n in networks if n.spec.target.measurement == measurement and n.spec.target.kind == "binary"
    ]
    if THRESHOLDS not in bench.personal.candidates or not binary:
        return None
    outputs = {
        n.spec.name: Output(spec=n.spec, probabilities=answers[n.spec.name], threshold=n.result.threshold)
        for n in networks
    }
    criterion = bench.settings.federation.threshold
    found: dict[str, float] = {}
    crossed = dict(outputs)
    for cut in {n.spec.target.threshold for n in binary}:
        members = [n for n in binary if n.spec.target.threshold == cut]
        histograms = _by_patient(members, answers, bench)
        for n in members:
            found[n.spec.name] = _threshold(histograms, n.result.threshold, criterion, without=None)
            crossed[n.spec.name] = _crossed(outputs[n.spec.name], histograms, bench)
    before, patients = right(list(outputs.values()), bench.data, bench.settings, measurement=measurement)
    after, _ = right(list(crossed.values()), bench.data, bench.settings, measurement=measurement)
    return _Own(thresholds=found, judged=judged(after - before, patients))


def _crossed(output: Output, histograms: Mapping[int, ScoreHistograms], bench: Bench) -> Output:
    """A network's bits, each patient's by the threshold that all others give."""
    patient = bench.data.patient[exams_of_fold(bench.data, output.spec)].numpy()
    criterion = bench.settings.federation.threshold
    without = {
        int(p): _threshold(histograms, output.threshold, criterion, without=int(p))
        for p in np.unique(patient)
    }
    limits = np.array([without[int(p)] for p in patient], dtype=np.float32)
    bits = (output.probabilities[:, 1] >= limits).astype(np.float32)
    return replace(output, probabilities=np.stack([1 - bits, bits], axis=1), threshold=HALF)


def _by_patient(
    members: Sequence[TrainedNetwork], answers: Answers, bench: Bench
) -> dict[int, ScoreHistograms]:
    """Patient -> histograms of the probabilities of all networks of a cut."""
    found: dict[int, ScoreHistograms] = {}
    for n in members:
        exams = exams_of_fold(bench.data, n.spec)
        wanted, patient = labels(bench.data, n.spec)[exams].numpy(), bench.data.patient[exams].numpy()
        for number in np.unique(patient[wanted != MISSING]):
            use = (patient == number) & (wanted != MISSING)
            one = ScoreHistograms.from_scores(answers[n.spec.name][use, 1].clip(0, 1), wanted[use])
            found[int(number)] = found.get(int(number), ScoreHistograms.empty()) + one
    return found


def _threshold(
    histograms: Mapping[int, ScoreHistograms], common: float, criterion: Criterion, *, without: int | None
) -> float:
    """The best threshold over all patients but one; the common one where these have not both classes."""
    counted = sum((h for p, h in histograms.items() if p != without), ScoreHistograms.empty())
    return counted.threshold(criterion) if all(counted.exams) else common
