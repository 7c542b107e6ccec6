"""Federated algorithms beside what their papers say, on tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from common.aggregation.adaptive import Adaptive
from common.aggregation.algorithms import algorithm
from common.aggregation.fedavgm import FedAvgM
from common.aggregation.fedbn import NORMS, FedBN
from common.aggregation.federated import (
    OPTIMISER,
    UPDATE,
    WEIGHTS,
    FedAvg,
    FederatedAlgorithm,
    Received,
    ServerState,
    SiteState,
    check_sent,
)
from common.aggregation.fedprox import FedProx
from common.aggregation.mean import InMemory, Weighted
from common.aggregation.rules import check_sites, rule
from common.aggregation.scaffold import CONTROL, Scaffold
from common.aggregation.server_optimisers import AdaptiveOptimiser, adam
from common.errors import ConfigurationError, UpdateError
from common.networks import build
from common.networks.layout import layout_of, norm_positions
from common.networks.spec import NetworkSpec
from common.sections.federation import FederationSettings
from common.sections.networks import NetworkSettings
from common.training.data import ExamTensors
from common.training.local import LocalUpdate, train_network
from common.training.local_settings import LocalSettings
from tests.exam_tensors import FUSION, SINGLE, local_settings, make_exams

DATA = (make_exams(32, seed=0), make_exams(48, seed=1))
PLAIN = {"augmentation": None, "schedule": "constant", "weight_decay": 0.0}
SGD = {"optimiser": "sgd", "sampling": "all", "learning_rate": 0.05, "local_steps": 4, **PLAIN}

Round: TypeAlias = tuple[Received, ServerState, list[SiteState], list[tuple[LocalUpdate, SiteState]]]


def start(settings: LocalSettings, seed: int = 1) -> Tensor:
    return build.initial_weights(settings.spec, settings.network, seed=seed)


def rounds(
    federated: FederatedAlgorithm,
    settings: LocalSettings,
    *,
    data: Sequence[ExamTensors] = DATA,
    count: int = 3,
    seeds: Sequence[int] | None = None,
) -> Iterator[Round]:
    """A whole federation in memory; the centre's states and the sites', round after round."""
    layout = build.layout(settings.spec, settings.network)
    state = federated.init(start(settings).numpy(), layout)
    kept: list[SiteState] = [{} for _ in data]
    for server_round in range(1, count + 1):
        received = {k: torch.from_numpy(v.copy()) for k, v in federated.broadcast(state).items()}
        answers = [
            federated.local_update(received, own, part, settings, server_round, (seeds or [1] * 9)[i])
            for i, (own, part) in enumerate(zip(kept, data, strict=True))
        ]
        kept = [own for _, own in answers]
        counts = np.array([answer.num_examples for answer, _ in answers], dtype=np.float64)
        arrays = {UPDATE: [a.update.numpy() for a, _ in answers]}
        arrays |= {k: [a.extra[k].numpy() for a, _ in answers] for k in federated.sent}
        means = {
            k: ((counts @ np.stack(v).astype(np.float64)) / counts.sum()).astype(np.float32)
            for k, v in arrays.items()
        }
        state = federated.aggregate(state, means, participation=1.0)
        yield received, state, kept, answers


def last(
    federated: FederatedAlgorithm,
    settings: LocalSettings,
    *,
    data: Sequence[ExamTensors] = DATA,
    count: int = 3,
) -> Round:
    return list(rounds(federated, settings, data=data, count=count))[-1]


@pytest.mark.parametrize("optimiser_state", ["fresh", "kept"])
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold", "fedbn", "fedavgm", "fedadam", "fedyogi"])
def test_each_is_an_algorithm_that_says_what_it_keeps_and_sends(
    name: str, optimiser_state: Literal["fresh", "kept"]
) -> None:
    mu = {"proximal_mu": 0.1} if name == "fedprox" else {}
    federated = algorithm(FederationSettings(algorithm=name, optimiser_state=optimiser_state, **mu))
    assert isinstance(federated, FederatedAlgorithm)
    settings = local_settings(SINGLE)
    received, state, kept, answers = last(federated, settings, count=2)
    assert set(state.arrays) == {WEIGHTS, *federated.kept}
    assert set(received) == {WEIGHTS, *federated.sent}
    assert (
        bool(kept[0]) == federated.keeps_state == (optimiser_state == "kept" or name in ("scaffold", "fedbn"))
    )
    of_optimiser = {key.removeprefix(OPTIMISER) for key in kept[0] if key.startswith(OPTIMISER)}
    assert of_optimiser == ({"step", "exp_avg", "exp_avg_sq"} if optimiser_state == "kept" else set())
    trained = build.layout(SINGLE, settings.network).trained_size
    assert all(state.arrays[name].shape == (trained,) for name in federated.kept)
    for answer, _ in answers:
        check_sent({k: v.numpy() for k, v in answer.extra.items()}, federated, trained=trained)


def test_what_was_received_and_kept_is_not_changed() -> None:
    settings = local_settings(SINGLE)
    for federated in (Scaffold(), FedBN(keeps_optimiser=True), FedProx(mu=1.0, keeps_optimiser=True)):
        received, _, kept, _ = next(rounds(federated, settings, count=2))
        given = {**received, **kept[0]}
        before = {k: v.clone() for k, v in given.items()}
        federated.local_update(received, kept[0], DATA[0], settings, 2, 5)
        assert all(torch.equal(v, before[k]) for k, v in given.items())


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_rounds_of_a_kept_optimiser_at_one_site_are_one_long_round(optimiser: str) -> None:
    """On full batches nothing else tells two rounds of four steps from one of eight."""
    momentum = {"momentum": 0.9} if optimiser == "sgd" else {}
    same = {**SGD, **momentum, "optimiser": optimiser, "learning_rate": 0.01, "schedule": "rating"}
    short, long = (
        replace(local_settings(SINGLE, **{**same, "local_steps": steps}), rounds=rounds)
        for rounds, steps in ((2, 4), (1, 8))
    )

    def end(federated: FederatedAlgorithm, settings: LocalSettings) -> np.ndarray:
        return last(federated, settings, data=DATA[:1], count=settings.rounds)[1].weights

    whole = end(FedAvg(), long)
    np.testing.assert_allclose(end(FedAvg(keeps_optimiser=True), short), whole, atol=1e-5)
    assert np.abs(end(FedAvg(), short) - whole).max() > 1e-3  # what starts afresh goes elsewhere


@pytest.mark.parametrize(("eta", "beta"), [(1.0, 0.0), (0.7, 0.9), (0.3, 0.5)])
def test_fedavgm_is_torchs_sgd_with_nesterovs_momentum(eta: float, beta: float) -> None:
    rng = np.random.default_rng(3)
    layout = layout_of(torch.nn.BatchNorm1d(4))
    start = rng.normal(size=layout.size).astype(np.float32)
    federated = FedAvgM(learning_rate=eta, momentum=beta)
    state = federated.init(start, layout)
    weights = torch.nn.Parameter(torch.from_numpy(start[: layout.trained_size].copy()))
    optimiser = torch.optim.SGD([weights], lr=eta, momentum=beta, nesterov=beta > 0)
    for _ in range(5):
        update = rng.normal(size=layout.size).astype(np.float32)
        buffers = state.weights[layout.trained_size :] + update[layout.trained_size :]
        state = federated.aggregate(state, {UPDATE: update}, participation=1.0)
        weights.grad = -torch.from_numpy(update[: layout.trained_size])
        optimiser.step()
        np.testing.assert_array_equal(state.weights[layout.trained_size :], buffers)
        np.testing.assert_allclose(
            state.weights[: layout.trained_size], weights.detach().numpy(), rtol=1e-4, atol=1e-5
        )


def test_what_an_optimiser_of_another_network_was_left_with_is_refused() -> None:
    settings = local_settings(SINGLE)
    with pytest.raises(UpdateError, match="values of each of the optimiser's"):
        train_network(start(settings), {"exp_avg": torch.ones(3)}, DATA[0], settings, 1, 7)


def test_a_new_control_variate_is_the_papers_option_two() -> None:
    # c_i - c + (x - y_i) / (K eta), Karimireddy et al. 2020, equation 4
    settings = local_settings(SINGLE, **SGD)
    previous: list[SiteState] | None = None
    for received, _, kept, answers in rounds(Scaffold(), settings):
        if previous is not None:
            for own, (answer, _), new in zip(previous, answers, kept, strict=True):
                steps = settings.training.local_steps * settings.training.learning_rate
                drift = -answer.update[: len(own[CONTROL])] / steps
                expected = own[CONTROL] - received[CONTROL] + drift
                torch.testing.assert_close(new[CONTROL], expected, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(answer.extra[CONTROL], new[CONTROL] - own[CONTROL])
        previous = kept
    assert previous is not None
    assert previous[0][CONTROL].abs().max() > 1e-3


def test_the_centres_control_is_the_weighted_mean_of_the_sites() -> None:
    for _, state, kept, answers in rounds(Scaffold(), local_settings(SINGLE, **SGD)):
        counts = [answer.num_examples for answer, _ in answers]
        total = torch.stack([n * own[CONTROL].double() for n, own in zip(counts, kept, strict=True)]).sum(0)
        np.testing.assert_allclose(state.arrays[CONTROL], total.numpy() / sum(counts), atol=1e-6)


def test_the_correction_is_added_to_every_gradient() -> None:
    settings = local_settings(SINGLE, **(SGD | {"local_steps": 1}))
    weights = start(settings)
    trained = build.layout(SINGLE, settings.network).trained_size
    control, own = torch.full((trained,), 0.5), torch.full((trained,), 0.2)
    plain, _ = FedAvg().local_update({WEIGHTS: weights}, {}, DATA[0], settings, 1, 1)
    moved, _ = Scaffold().local_update(
        {WEIGHTS: weights, CONTROL: control}, {CONTROL: own}, DATA[0], settings, 1, 1
    )
    step = plain.update - moved.update
    torch.testing.assert_close(step, torch.full_like(step, 0.05 * 0.3), rtol=1e-4, atol=1e-6)


@pytest.mark.soak
def test_where_sites_differ_scaffold_ends_nearer_to_the_pooled_optimum_than_fedavg() -> None:
    """Two quadratic-like sites that pull apart: full batches, many local steps, label shares that differ."""
    pooled = make_exams(96, seed=3)
    grades = pooled.grades["vascularity"]
    healthy, inflamed = torch.nonzero(grades == 0).flatten(), torch.nonzero(grades > 0).flatten()
    some, few = len(healthy) // 4, len(inflamed) // 4
    parts = (
        _part(pooled, torch.cat([healthy[some:], inflamed[:few]])),
        _part(pooled, torch.cat([healthy[:some], inflamed[few:]])),
    )
    settings = replace(local_settings(SINGLE, **(SGD | {"local_steps": 20})), rounds=12)
    gaps = {}
    for name, federated in {"fedavg": FedAvg(), "scaffold": Scaffold()}.items():
        *_, (_, state, _, answers) = rounds(federated, settings, data=parts, count=12)
        assert all(answer.num_examples > 0 for answer, _ in answers)
        gaps[name] = _pooled_gradient(state.weights, parts, settings)
    assert gaps["scaffold"] < gaps["fedavg"]


def _part(data: ExamTensors, exams: slice | Tensor) -> ExamTensors:
    return replace(
        data,
        images={name: pixels[exams] for name, pixels in data.images.items()},
        grades={name: values[exams] for name, values in data.grades.items()},
        fold=data.fold[exams],
        patient=data.patient[exams],
    )


def _pooled_gradient(weights: np.ndarray, parts: Sequence[ExamTensors], settings: LocalSettings) -> float:
    """Length of the gradient of all sites' loss, from one small step at each."""
    one = replace(settings, training=settings.training.model_copy(update={"local_steps": 1}))
    answers = [
        FedAvg().local_update({WEIGHTS: torch.from_numpy(weights)}, {}, part, one, 1, 1)[0] for part in parts
    ]
    total = sum(answer.num_examples for answer in answers)
    gradient = torch.stack([answer.update * answer.num_examples for answer in answers]).sum(0)
    return float(gradient.norm()) / total


def test_a_site_of_one_class_keeps_its_control_and_sends_no_change() -> None:
    none = replace(DATA[0], grades={name: values * 0 for name, values in DATA[0].grades.items()})
    settings = local_settings(SINGLE)
    trained = build.layout(SINGLE, settings.network).trained_size
    received = {WEIGHTS: start(settings), CONTROL: torch.ones(trained)}
    own = {CONTROL: torch.full((trained,), 3.0)}
    answer, kept = Scaffold().local_update(received, own, none, settings, 2, 1)
    assert answer.num_examples == 0
    assert not answer.extra[CONTROL].any()
    assert torch.equal(kept[CONTROL], own[CONTROL])


def test_norms_are_told_by_their_type() -> None:
    for settings, buffers in (
        (NetworkSettings(width=4, image_px=32), 0),
        (NetworkSettings(backbone="resnet18"), 20),
    ):
        network = build.network(SINGLE, settings)
        layout = layout_of(network)
        chosen = torch.zeros(layout.size)
        chosen[norm_positions(network, layout)] = 1
        inside = {name for name, view in layout.pieces(chosen) if view.all()}
        assert {name for name, view in layout.pieces(chosen) if view.any()} == inside
        assert all("norm" in n or "bn" in n or "downsample.1" in n for n in inside)
        assert sum("running" in name for name in inside) == 2 * buffers
        assert not any("conv" in name or "head" in name for name in inside)


@pytest.mark.parametrize(
    ("spec", "network"),
    [
        (FUSION, None),
        pytest.param(SINGLE, NetworkSettings(backbone="resnet18", image_px=32), marks=pytest.mark.soak),
    ],
)
def test_fedbn_keeps_each_sites_norms_and_the_centre_has_their_weighted_mean(
    spec: NetworkSpec, network: NetworkSettings | None
) -> None:
    settings = local_settings(spec, local_steps=2)
    settings = settings if network is None else replace(settings, network=network)
    norms = norm_positions(build.network(spec, settings.network), build.layout(spec, settings.network))
    for _, state, kept, answers in rounds(FedBN(), settings, count=2):
        assert not torch.equal(kept[0][NORMS], kept[1][NORMS])
        counts = [answer.num_examples for answer, _ in answers]
        total = torch.stack([n * own[NORMS].double() for n, own in zip(counts, kept, strict=True)]).sum(0)
        np.testing.assert_allclose(
            state.weights[norms.numpy()], total.numpy() / sum(counts), rtol=1e-4, atol=1e-6
        )


def test_fedbn_trains_and_scores_with_the_sites_own_norms() -> None:
    settings = local_settings(SINGLE)
    weights = start(settings)
    norms = norm_positions(build.network(SINGLE, settings.network), build.layout(SINGLE, settings.network))
    state = {NORMS: torch.full((len(norms),), 0.7)}
    personal = weights.clone()
    personal[norms] = 0.7
    assert torch.equal(FedBN().scored_weights({WEIGHTS: weights}, state, settings), personal)
    answer, kept = FedBN().local_update({WEIGHTS: weights}, state, DATA[0], settings, 2, 5)
    plain, _ = FedAvg().local_update({WEIGHTS: personal}, {}, DATA[0], settings, 2, 5)
    torch.testing.assert_close(kept[NORMS], (personal + plain.update)[norms])
    torch.testing.assert_close(weights + answer.update, personal + plain.update, rtol=1e-4, atol=1e-6)
    with pytest.raises(UpdateError, match="values of norms"):
        FedBN().scored_weights({WEIGHTS: weights}, {NORMS: torch.zeros(1)}, settings)


def test_fedbn_of_sites_with_equal_data_is_fedavg() -> None:
    settings = local_settings(FUSION, **SGD)
    twins = (DATA[0], DATA[0])
    plain = last(FedAvg(), settings, data=twins)[1].weights
    np.testing.assert_allclose(last(FedBN(), settings, data=twins)[1].weights, plain, atol=1e-6)


def test_an_adaptive_centre_without_memory_takes_a_step_of_one_sign() -> None:
    # beta1 = beta2 = 0: m = D, v = D^2, so an update far above tau moves the weight by eta, whatever its size
    optimiser = AdaptiveOptimiser(second_moment=adam, learning_rate=0.1, beta1=0.0, beta2=0.0, tau=1e-8)
    federated = Adaptive(optimiser=optimiser)
    settings = local_settings(SINGLE)
    layout = build.layout(SINGLE, settings.network)
    state = federated.init(np.zeros(layout.size, dtype=np.float32), layout)
    mean = np.linspace(-1, 1, layout.size, dtype=np.float32)
    after = federated.aggregate(state, {UPDATE: mean}, participation=1.0)
    np.testing.assert_allclose(after.weights, 0.1 * np.sign(mean), atol=1e-4)


def test_fedprox_with_a_small_mu_is_nearly_fedavg_and_with_a_large_one_stays() -> None:
    settings = local_settings(SINGLE, **SGD)
    plain = last(FedAvg(), settings, count=1)[1].weights
    nearly = last(FedProx(mu=1e-7), settings, count=1)[
        1
    ].weights  # at 1e-6 some processors take another maximum
    np.testing.assert_allclose(nearly, plain, atol=1e-6)
    origin = start(settings).numpy()
    held = last(FedProx(mu=10.0), settings, count=1)[1].weights
    assert np.linalg.norm(held - origin) < np.linalg.norm(plain - origin)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"algorithm": "fedprox"}, "proximal_mu"),
        ({"proximal_mu": 0.1}, "proximal_mu"),
        ({"tau": 0.1}, "tau is for fedadam and fedyogi"),
        ({"algorithm": "scaffold", "beta1": 0.1}, "beta1 is for"),
        ({"algorithm": "scaffold", "rule": "median"}, "take federation.rule = mean"),
        ({"byzantine": 1}, "byzantine is for krum"),
        ({"rule": "median", "trimmed_share": 0.1}, "trimmed_share is for trimmed_mean"),
        ({"algorithm": "no.such.module:Name"}, "federation.algorithm"),
        ({"rule": "no.such.module:Name"}, "federation.rule"),
        ({"algorithm": "common.settings:FederationSettings.parse"}, "federation.algorithm"),
        (
            {"algorithm": "tests.common.aggregation.test_algorithms:nothing"},
            "FederatedAlgorithm describes it",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_what_to_do(
    given: dict[str, object], says: str
) -> None:
    settings = FederationSettings.model_construct(**(FederationSettings().model_dump() | given))
    with pytest.raises(ConfigurationError, match=says):
        algorithm(settings)


def nothing(settings: FederationSettings) -> FederationSettings:
    return settings


def test_the_adaptive_settings_reach_the_optimiser() -> None:
    federated = algorithm(
        FederationSettings(algorithm="fedyogi", server_learning_rate=0.5, beta1=0.1, beta2=0.2, tau=0.3)
    )
    assert isinstance(federated, Adaptive)
    made = federated.optimiser
    assert (made.learning_rate, made.beta1, made.beta2, made.tau) == (0.5, 0.1, 0.2, 0.3)
    other = algorithm(FederationSettings(algorithm="fedadam"))
    assert isinstance(other, Adaptive)
    assert made.second_moment is not other.optimiser.second_moment


def _three(values: Sequence[float]) -> list[Weighted]:
    return [
        Weighted(source=InMemory(np.array([v], dtype=np.float32)), num_examples=n)
        for v, n in zip(values, (1, 1, 8), strict=True)
    ]


def largest(updates: Sequence[Weighted], *, size: int) -> np.ndarray:
    """A rule of one's own."""
    return np.asarray(np.max([update.source.read(0, size) for update in updates], axis=0))


def wrong(updates: Sequence[Weighted], *, size: int) -> np.ndarray:
    return np.full(size, np.nan)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 8.3),
        ({"rule": "median"}, 2.0),
        ({"rule": "trimmed_mean", "trimmed_share": 0.4}, 2.0),
        ({"rule": "krum", "byzantine": 0, "selected": 2}, 1.5),
        ({"rule": "tests.common.aggregation.test_algorithms:largest"}, 10.0),
    ],
)
def test_each_rule_by_its_name(given: dict[str, object], expected: float) -> None:
    settings = FederationSettings(**given)
    check_sites(settings, sites=3)
    assert rule(settings)(_three((1.0, 2.0, 10.0)), size=1) == pytest.approx([expected])


def test_a_rule_of_ones_own_that_gives_nonsense_is_found_at_once() -> None:
    with pytest.raises(ConfigurationError, match="1 finite values"):
        check_sites(FederationSettings(rule="tests.common.aggregation.test_algorithms:wrong"), sites=3)
