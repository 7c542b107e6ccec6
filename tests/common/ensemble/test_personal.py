from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch

from common.ensemble.candidates import Bench
from common.ensemble.personal import Personal, personalise, rounds
from common.ensemble.trained import TrainedNetwork
from common.ensemble.validation import Judged, exams_of_fold, judged
from common.errors import UpdateError
from common.exam import MISSING
from common.methods.stages import NetworkResult, networks
from common.networks import build
from common.networks.layout import norm_positions
from common.sections.evaluation import PersonalSettings
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local import train_network
from common.training.local_settings import local_settings
from common.training.seeds import derive_seed
from tests.exam_tensors import make_exams
from tests.site_folders import make_settings

T = TypeVar("T")
R = TypeVar("R")
FOLDS = 3
TRAINING = "[training]\nbatch_size = 8\nlocal_steps = 20\nlearning_rate = 1e-2\naugmentation = {}\n"


def configured(text: str = "", method: str = "rating") -> Settings:
    return make_settings(
        images=("doppler",),
        measurements=("vascularity",),
        image_px=32,
        folds=FOLDS,
        method=method,
        text=f"replicas = 1\n{TRAINING}{text}",
    ).model_copy(update={"seed": 3})


def start(settings: Settings, threshold: float = 0.5) -> tuple[TrainedNetwork, ...]:
    """Networks with random weights."""
    return tuple(
        TrainedNetwork(
            spec=spec,
            result=NetworkResult(best_round=1, auc=0.8, threshold=threshold),
            weights=build.initial_weights(
                spec, settings.network, seed=derive_seed("start", spec.identity)
            ).numpy(),
        )
        for spec in networks(settings).values()
    )


def learnt(settings: Settings, data: ExamTensors, threshold: float = 0.5) -> tuple[TrainedNetwork, ...]:
    """Networks that have learnt from exams of another site."""

    def one(network: TrainedNetwork) -> TrainedNetwork:
        weights = torch.from_numpy(network.weights)
        local = local_settings(network.spec, settings)
        update, _ = train_network(weights, {}, data, local, 1, 0)
        return replace(network, weights=(weights + update.update).numpy())

    return tuple(one(network) for network in start(settings, threshold))


def bench(settings: Settings, data: ExamTensors, **personal: object) -> Bench:
    chosen = {"steps": 10, "checks": 2, "learning_rate_share": 1.0} | personal
    return Bench(data=data, settings=settings, personal=PersonalSettings.model_validate(chosen), site="north")


def assert_same(one: Sequence[TrainedNetwork], other: Sequence[TrainedNetwork]) -> None:
    for first, second in zip(one, other, strict=True):
        assert (first.spec, first.result) == (second.spec, second.result)
        np.testing.assert_array_equal(first.weights, second.weights)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return configured()


@pytest.fixture(scope="module")
def data() -> ExamTensors:
    return make_exams(96, seed=1)


@pytest.fixture(scope="module")
def further(settings: Settings, data: ExamTensors) -> Personal:
    """Of networks that know nothing: whatever is learnt at the site is better."""
    return personalise(start(settings), bench(settings, data, candidates=["network"]))


def test_a_site_trains_further_what_gains_by_it(
    settings: Settings, data: ExamTensors, further: Personal
) -> None:
    choice = further.choices["vascularity"]
    assert (choice.weights, choice.thresholds) == ("network", "common")
    verdict = choice.judged["network"]
    assert verdict.gain > verdict.standard_error > 0
    assert verdict.patients == len(data.patient[data.fold != MISSING].unique())
    assert "weights: network" in choice.sentence
    for before, after in zip(start(settings), further.networks, strict=True):
        assert (before.spec, before.result) == (after.spec, after.result)
        assert not np.array_equal(before.weights, after.weights)


def test_where_nothing_helps_the_common_networks_stay_bit_for_bit(
    settings: Settings, data: ExamTensors
) -> None:
    common = learnt(settings, make_exams(96, seed=2))
    hopeless = bench(settings, data, candidates=["network", "mean", "thresholds"], learning_rate_share=100.0)
    found = personalise(common, hopeless)
    choice = found.choices["vascularity"]
    assert (choice.weights, choice.thresholds) == ("common", "common")
    assert set(choice.judged) == {"network", "mean", "thresholds"}
    assert choice.judged["network"].gain < 0
    assert_same(found.networks, common)


def test_a_gain_below_the_margin_is_not_taken(settings: Settings, data: ExamTensors) -> None:
    common = learnt(settings, make_exams(96, seed=2))
    little = {"learning_rate_share": 0.01, "steps": 2, "margin": 10.0}
    found = personalise(common, bench(settings, data, candidates=["network"], **little))
    verdict = found.choices["vascularity"].judged["network"]
    assert 0 < verdict.gain < 10 * verdict.standard_error
    assert_same(found.networks, common)


def test_networks_of_a_fold_never_see_its_patients_nor_held_out_ones(
    settings: Settings, data: ExamTensors
) -> None:
    common = start(settings)
    made = bench(settings, data, candidates=["head", "network"], checks=1)
    for fold in range(FOLDS):
        strange = (data.fold == fold) | (data.fold == MISSING)
        pictures = data.images["doppler"].clone()
        pictures[strange] = 255 - pictures[strange]
        others = replace(data, images={**data.images, "doppler": pictures})
        members = [network for network in common if network.spec.fold == fold]
        one, other = (
            dict(b.candidates(members, b.common(members))) for b in (made, replace(made, data=others))
        )
        assert list(one) == ["head", "network"]
        for name, candidate in one.items():
            for key, weights in candidate.weights.items():
                assert torch.equal(weights, other[name].weights[key])
                assert not np.array_equal(candidate.answers[key], other[name].answers[key])


def test_held_out_exams_have_no_part_in_any_of_it(
    settings: Settings, data: ExamTensors, further: Personal
) -> None:
    kept = torch.nonzero(data.fold != MISSING).flatten()
    without = ExamTensors(
        images={name: pictures[kept] for name, pictures in data.images.items()},
        grades={name: grades[kept] for name, grades in data.grades.items()},
        fold=data.fold[kept],
        patient=data.patient[kept],
    )
    found = personalise(start(settings), bench(settings, without, candidates=["network"]))
    assert_same(found.networks, further.networks)
    assert found.choices == further.choices


def test_the_same_seed_gives_the_same_bits_in_whatever_threads(
    settings: Settings, data: ExamTensors, further: Personal
) -> None:
    with ThreadPoolExecutor(2) as pool:

        def each(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
            return pool.map(work, items)

        told: list[None] = []
        made = replace(
            bench(settings, data, candidates=["network"]), each=each, progress=lambda: told.append(None)
        )
        found = personalise(start(settings), made)
    assert_same(found.networks, further.networks)
    assert len(told) == rounds(start(settings), made) == 9 * 2
    elsewhere = personalise(
        start(settings), replace(bench(settings, data, candidates=["network"]), site="south")
    )
    assert not np.array_equal(elsewhere.networks[0].weights, further.networks[0].weights)


def test_thresholds_that_do_not_fit_a_site_are_replaced_by_its_own(
    settings: Settings, data: ExamTensors
) -> None:
    """Elsewhere probabilities are higher: with the common thresholds this site's networks say no to everything."""
    common = learnt(settings, data, threshold=1.0)
    found = personalise(common, bench(settings, data, candidates=["thresholds"]))
    choice = found.choices["vascularity"]
    assert (choice.weights, choice.thresholds) == ("common", "own")
    assert choice.judged["thresholds"].gain > choice.judged["thresholds"].standard_error
    assert "thresholds of its own" in choice.sentence
    by_cut: dict[int | None, set[float]] = {}
    for before, after in zip(common, found.networks, strict=True):
        np.testing.assert_array_equal(before.weights, after.weights)
        assert after.result.threshold < 0.999
        by_cut.setdefault(after.spec.target.threshold, set()).add(after.result.threshold)
    assert [len(values) for values in by_cut.values()] == [1, 1, 1]  # shared by the networks of a cut


@pytest.mark.soak
def test_a_threshold_is_judged_by_patients_that_did_not_choose_it(settings: Settings) -> None:
    """Labels that mean nothing: thresholds found and judged on the same patients would seem to gain."""
    common = learnt(settings, make_exams(96, seed=99))
    gains = []
    for seed in range(6):
        data = make_exams(96, seed=seed)
        shuffled = data.grades["vascularity"][
            torch.randperm(96, generator=torch.Generator().manual_seed(seed))
        ]
        lost = replace(data, grades={**data.grades, "vascularity": shuffled})
        found = personalise(common, bench(settings, lost, candidates=["thresholds"]))
        gains.append(found.choices["vascularity"].judged["thresholds"].gain)
    assert np.mean(gains) < 0.03


@pytest.mark.soak
def test_probabilities_that_are_too_sure_get_a_temperature_and_nothing_else_changes(
    settings: Settings, data: ExamTensors
) -> None:
    generator = torch.Generator().manual_seed(0)
    grades = data.grades["vascularity"]
    guessed = torch.where(
        torch.rand(96, generator=generator) < 0.3, grades[torch.randperm(96, generator=generator)], grades
    )
    data = replace(data, grades={**data.grades, "vascularity": guessed})  # so that nobody can be sure
    common = learnt(settings, make_exams(96, seed=2))
    sure = tuple(replace(network, weights=_last_layer_times(network, settings, 5.0)) for network in common)
    found = personalise(sure, bench(settings, data, candidates=["temperature"]))
    choice = found.choices["vascularity"]
    assert (choice.weights, choice.thresholds) == ("common", "common")
    assert choice.temperature > 1.5
    assert choice.judged["temperature"].gain > choice.judged["temperature"].standard_error
    assert f"temperature {choice.temperature:.2f}" in choice.sentence
    assert_same(found.networks, sure)
    few = replace(data, patient=(data.patient % 3).int())
    unchanged = personalise(sure, bench(settings, few, candidates=["temperature"])).choices["vascularity"]
    assert unchanged.temperature == 1, "three patients say nothing"
    assert "temperature" not in unchanged.sentence
    assert (
        "temperature"
        not in personalise(sure, bench(settings, data, candidates=["thresholds"]))
        .choices["vascularity"]
        .judged
    )


def _last_layer_times(network: TrainedNetwork, settings: Settings, factor: float) -> np.ndarray:
    """Weights of the same network with logits so many times as large."""
    module = build.described(network.spec, settings.network)
    (last,) = list(module.named_modules())[-1:]
    weights = torch.from_numpy(network.weights).clone()
    for name, piece in build.layout(network.spec, settings.network).pieces(weights):
        if name.startswith(last[0]):
            piece.mul_(factor)
    return weights.numpy()


def test_the_head_alone_is_trained(settings: Settings, data: ExamTensors) -> None:
    found = personalise(start(settings), bench(settings, data, candidates=["head"]))
    assert found.choices["vascularity"].weights == "head"
    for before, after in zip(start(settings), found.networks, strict=True):
        layout = build.layout(before.spec, settings.network)
        changed = {
            name.split(".")[0]
            for (name, one), (_, other) in zip(
                layout.pieces(torch.from_numpy(before.weights)),
                layout.pieces(torch.from_numpy(after.weights)),
                strict=True,
            )
            if not torch.equal(one, other)
        }
        assert changed == {"head"}


def test_a_mean_lies_half_way(settings: Settings, data: ExamTensors) -> None:
    common = start(settings)
    made = bench(settings, data, candidates=["network", "mean"])
    found = dict(made.candidates(common, made.common(common)))
    for network in common:
        name = network.spec.name
        expected = (torch.from_numpy(network.weights) + found["network"].weights[name]) / 2
        assert torch.equal(found["mean"].weights[name], expected)


@pytest.mark.soak
def test_norms_that_a_site_kept_are_put_in_their_place(settings: Settings, data: ExamTensors) -> None:
    common = learnt(settings, data)
    (first, *_) = common
    layout = build.layout(first.spec, settings.network)
    places = norm_positions(build.described(first.spec, settings.network), layout)
    kept = {first.spec.name: torch.from_numpy(first.weights)[places] + 1}
    made = replace(bench(settings, data, candidates=["norms"]), norms=kept)
    ((name, candidate),) = made.candidates(common, made.common(common))
    assert name == "norms"
    moved = candidate.weights[first.spec.name] - torch.from_numpy(first.weights)
    assert torch.nonzero(moved).flatten().tolist() == places.tolist()
    assert all(torch.equal(candidate.weights[n.spec.name], torch.from_numpy(n.weights)) for n in common[1:])
    wrong = replace(made, norms={first.spec.name: torch.zeros(1)})
    with pytest.raises(UpdateError, match="values of norms"):
        dict(wrong.candidates(common, made.common(common)))
    without = bench(settings, data, candidates=["norms"])
    assert not dict(without.candidates(common, without.common(common)))


@pytest.mark.soak
def test_the_time_with_the_smallest_loss_over_all_networks_is_kept(
    settings: Settings, data: ExamTensors
) -> None:
    """At a rate that breaks what was learnt the first times are worse; whatever comes after, the best is kept."""
    common = learnt(settings, data)
    made = bench(settings, data, candidates=["network"], checks=4, steps=8, learning_rate_share=3.0)
    ((_, stopped),) = made.candidates(common, made.common(common))
    losses, weights = [], []
    current = {n.spec.name: torch.from_numpy(n.weights) for n in common}
    optimiser: dict[str, Mapping[str, torch.Tensor]] = {n.spec.name: {} for n in common}
    for check in range(1, 5):
        squared = []
        for n in common:
            local = local_settings(n.spec, settings)
            training = local.training.model_copy(update={"learning_rate": 3e-2, "local_steps": 2})
            local = replace(local, training=training, rounds=4)
            seed = derive_seed(settings.seed, "north", "personal", n.spec.identity, check)
            update, optimiser[n.spec.name] = train_network(
                current[n.spec.name], optimiser[n.spec.name], data, local, check, seed
            )
            current[n.spec.name] = current[n.spec.name] + update.update
            answer = made.asked(current[n.spec.name], local)[:, 1]
            exams = exams_of_fold(data, n.spec)
            wanted = data.grades["vascularity"][exams].numpy() > (n.spec.target.threshold or 0)
            squared.append((answer - wanted) ** 2)
        losses.append(float(np.concatenate(squared).astype(np.float64).mean()))
        weights.append(dict(current))
    best = int(np.argmin(losses))
    for name, values in stopped.weights.items():
        assert torch.equal(values, weights[best][name])


def test_few_patients_choose_nothing(settings: Settings) -> None:
    data = make_exams(96, seed=1)
    few = replace(data, patient=(data.patient % 3).int())
    found = personalise(start(settings), bench(settings, few, candidates=["network", "thresholds"]))
    choice = found.choices["vascularity"]
    assert (choice.weights, choice.thresholds) == ("common", "common")
    assert choice.judged["network"].patients == 3
    nobody = replace(data, fold=torch.full_like(data.fold, MISSING))
    found = personalise(start(settings), bench(settings, nobody, candidates=["network", "thresholds"]))
    assert found.choices["vascularity"].judged["network"] == Judged(gain=0.0, standard_error=0.0, patients=0)
    assert_same(found.networks, start(settings))


def test_a_private_campaign_keeps_no_fold_so_the_site_splits_its_own(data: ExamTensors) -> None:
    private = configured(
        "[privacy]\nnoise_multiplier = 1.0\nmax_grad_norm = 1.0\nsample_rate = 0.5\npatients = 20\nimages = 8\n"
    )
    assert private.folds == 1
    whole = replace(data, fold=torch.where(data.fold == MISSING, MISSING, 0).to(torch.int8))
    common = start(private)
    found = personalise(common, bench(private, whole, candidates=["network"]))
    verdict = found.choices["vascularity"].judged["network"]
    patients = len(whole.patient[whole.fold != MISSING].unique())
    assert verdict.patients == sum(
        p % 4 < FOLDS for p in range(patients)
    )  # three members have three of four parts
    assert [n.spec for n in found.networks] == [n.spec for n in common]


def test_the_standard_error_is_that_of_a_mean_over_patients_of_one_size() -> None:
    generator = np.random.default_rng(0)
    difference = generator.normal(0.1, 1.0, size=(20, 4))
    found = judged(difference.ravel(), np.repeat(np.arange(20), 4))
    means = difference.mean(axis=1)
    assert found.gain == pytest.approx(means.mean())
    assert found.standard_error == pytest.approx(means.std(ddof=1) / 20**0.5)
    assert found.patients == 20
    assert found.better(margin=0.0) is (found.gain > 0)


def test_exams_of_one_patient_are_no_many_facts() -> None:
    alike = np.repeat([0.5, -0.3, 0.4, 0.2], 10)
    found = judged(alike, np.repeat(np.arange(4), 10))
    assert found.standard_error == pytest.approx(np.std([0.5, -0.3, 0.4, 0.2], ddof=1) / 2)
