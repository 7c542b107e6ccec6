from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.aggregation.fedprox import ProximalTerm
from common.errors import UpdateError
from common.exam import MISSING
from common.imaging import augment
from common.imaging.prepare import picture
from common.imaging.roi import stored_px
from common.networks import build
from common.networks.layout import flatten, load
from common.networks.spec import NetworkSpec, Target
from common.sections.methods import JigsawSettings
from common.sections.networks import NetworkSettings
from common.training.data import ExamTensors
from common.training.inputs import inputs, labels, training_exams, validation_exams
from common.training.local import LocalUpdate, score, train_network
from common.training.local_settings import LocalSettings
from common.training.sampling import batches
from common.training.schedule import learning_rate
from tests.exam_tensors import FUSION, IMAGES, NETWORK, SINGLE, local_settings, make_exams

DATA = make_exams()
PLAIN = {"augmentation": None, "schedule": "constant", "weight_decay": 0.0}


def start(settings: LocalSettings, seed: int = 1) -> Tensor:
    return build.initial_weights(settings.spec, settings.network, seed=seed)


def train(
    settings: LocalSettings,
    *,
    data: ExamTensors = DATA,
    weights: Tensor | None = None,
    server_round: int = 1,
    seed: int = 7,
    mu: float = 0.0,
) -> LocalUpdate:
    received = start(settings) if weights is None else weights
    term = ProximalTerm(mu=mu, received=received) if mu else None
    return train_network(received, {}, data, settings, server_round, seed, term=term)[0]


def plain_loop(
    settings: LocalSettings, weights: Tensor, data: ExamTensors, server_round: int, seed: int
) -> Tensor:
    """The same training as an ordinary PyTorch loop over separate parameters."""
    network = build.network(settings.spec, settings.network).train()
    load(network, weights)
    training = settings.training
    kind = torch.optim.SGD if training.optimiser == "sgd" else torch.optim.AdamW
    optimiser = kind(network.parameters(), lr=1.0, weight_decay=training.weight_decay)
    exams = training_exams(data, settings.spec)
    targets = labels(data, settings.spec)[exams]
    generator = torch.Generator().manual_seed(seed)
    stream = islice(batches(targets, training, generator), training.local_steps)
    for step, batch in enumerate(stream, start=(server_round - 1) * training.local_steps):
        pictures = []
        for name in settings.spec.images:
            pixels = data.images[name][exams[batch]]
            parameters = None
            if training.augmentation is not None:
                parameters = augment.draw(
                    len(batch),
                    image=settings.images[name],
                    settings=training.augmentation,
                    image_px=settings.network.image_px,
                    stored_px=pixels.shape[-1],
                    generator=generator,
                )
            px = settings.network.image_px
            pictures.append(picture(pixels, settings.images[name], image_px=px, parameters=parameters))
        rate = learning_rate(training, step=step, total=settings.rounds * training.local_steps)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        F.cross_entropy(network(pictures), targets[batch]).backward()
        optimiser.step()
    return flatten(network) - weights


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("spec", [FUSION, SINGLE])
def test_it_is_an_ordinary_training_loop(spec: NetworkSpec, optimiser: str) -> None:
    settings = local_settings(spec, optimiser=optimiser, local_steps=4)
    weights = start(settings)
    expected = plain_loop(settings, weights, DATA, 2, 7)
    torch.testing.assert_close(
        train(settings, weights=weights, server_round=2).update, expected, rtol=1e-3, atol=2e-6
    )


def test_batchnorm_statistics_come_back_in_the_update() -> None:
    settings = replace(local_settings(SINGLE), network=NetworkSettings(backbone="resnet18", image_px=32))
    settings = replace(settings, training=settings.training.model_copy(update={"local_steps": 1}))
    weights = start(settings)
    got = train(settings, weights=weights).update
    trained = build.layout(SINGLE, settings.network).trained_size
    assert got[trained:].abs().max() > 0
    expected = plain_loop(settings, weights, DATA, 1, 7)
    torch.testing.assert_close(got[trained:], expected[trained:], rtol=1e-3, atol=1e-5)


def test_a_full_batch_step_is_gradient_descent_on_all_training_exams() -> None:
    settings = local_settings(FUSION, optimiser="sgd", sampling="all", local_steps=1, **PLAIN)
    weights = start(settings)
    network = build.network(FUSION, NETWORK)
    load(network, weights)
    exams = training_exams(DATA, FUSION)
    pictures = [picture(DATA.images[n][exams], IMAGES[n], image_px=32) for n in FUSION.images]
    F.cross_entropy(network(pictures), labels(DATA, FUSION)[exams]).backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    update = train(settings, weights=weights).update
    torch.testing.assert_close(update, -settings.training.learning_rate * gradient, rtol=1e-4, atol=1e-7)


def test_full_batch_steps_of_two_sites_average_to_the_pooled_step() -> None:
    settings = local_settings(FUSION, optimiser="sgd", sampling="all", local_steps=1, **PLAIN)
    weights = start(settings)
    order = torch.arange(len(DATA))
    parts = [train(settings, data=subset(DATA, order[:17]), weights=weights)]
    parts.append(train(settings, data=subset(DATA, order[17:]), weights=weights))
    counts = [part.num_examples for part in parts]
    mean = torch.stack([p.update.double() * p.num_examples for p in parts]).sum(0) / sum(counts)
    pooled = train(settings, weights=weights)
    assert sum(counts) == pooled.num_examples
    torch.testing.assert_close(mean.float(), pooled.update, rtol=1e-4, atol=1e-7)


def subset(data: ExamTensors, exams: Tensor) -> ExamTensors:
    return replace(
        data,
        images={name: pixels[exams] for name, pixels in data.images.items()},
        grades={name: values[exams] for name, values in data.grades.items()},
        fold=data.fold[exams],
        patient=data.patient[exams],
    )


def test_same_inputs_same_bits_also_in_concurrent_threads() -> None:
    jobs = [(spec, seed) for spec in (FUSION, SINGLE) for seed in (1, 2)] * 3

    def run(job: tuple[NetworkSpec, int]) -> Tensor:
        spec, seed = job
        return train(local_settings(spec), seed=seed).update

    alone = {job: run(job) for job in set(jobs)}
    with ThreadPoolExecutor(4) as pool:
        assert all(
            torch.equal(update, alone[job]) for job, update in zip(jobs, pool.map(run, jobs), strict=True)
        )


def test_what_was_trained_before_leaves_no_trace() -> None:
    settings = local_settings(FUSION)
    first = train(settings).update
    train(settings, weights=start(settings, seed=9), seed=3)
    score(start(settings, seed=8), DATA, torch.arange(4), settings)
    assert torch.equal(train(settings).update, first)


def test_inputs_and_the_global_generator_are_left_alone() -> None:
    settings = local_settings(FUSION)
    weights = start(settings)
    _, state = train_network(weights, {}, DATA, settings, 1, 7)
    given = {name: values.clone() for name, values in state.items()}
    before, pixels, rng = weights.clone(), DATA.images["doppler"].clone(), torch.get_rng_state()
    train_network(weights, state, DATA, settings, 2, 7)
    assert torch.equal(weights, before)
    assert torch.equal(DATA.images["doppler"], pixels)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(values, given[name]) for name, values in state.items())


def test_memory_mapped_read_only_images_can_be_trained_on(tmp_path: Path) -> None:
    mapped = {}
    for name, pixels in DATA.images.items():
        np.save(tmp_path / f"{name}.npy", pixels.numpy())
        # copy-on-write: torch warns about arrays that cannot be written
        mapped[name] = torch.from_numpy(np.load(tmp_path / f"{name}.npy", mmap_mode="c"))
    settings = local_settings(FUSION)
    assert torch.equal(train(settings, data=replace(DATA, images=mapped)).update, train(settings).update)


@pytest.mark.parametrize(("seed", "server_round"), [(8, 1), (7, 2)])
def test_seed_and_round_matter(seed: int, server_round: int) -> None:
    settings = local_settings(FUSION)
    changed = train(settings, seed=seed, server_round=server_round)
    assert not torch.equal(changed.update, train(settings).update)


def test_num_examples_counts_exams_before_resampling() -> None:
    settings = local_settings(FUSION)
    expected = int(((DATA.fold != FUSION.fold) & (DATA.fold != MISSING)).sum())
    assert train(settings).num_examples == expected


@pytest.mark.parametrize("grade", [0, 3, MISSING])
def test_a_site_of_one_class_or_no_grade_answers_with_nothing(grade: int) -> None:
    grades = {name: torch.full_like(values, grade) for name, values in DATA.grades.items()}
    answer = train(local_settings(FUSION), data=replace(DATA, grades=grades))
    assert not answer.update.any()
    assert answer.num_examples == 0
    assert np.isnan(answer.loss)


def test_neither_the_own_fold_nor_held_out_nor_ungraded_exams_are_read() -> None:
    grades = DATA.grades["hypertrophy"].clone()
    grades[:6] = MISSING
    data = replace(DATA, grades={"hypertrophy": grades})
    unread = torch.ones(len(data), dtype=torch.bool)
    unread[training_exams(data, FUSION)] = False
    assert unread[data.fold == FUSION.fold].all()
    assert unread[data.fold == MISSING].all()
    assert unread[:6].all()
    spoilt = {name: pixels.clone() for name, pixels in data.images.items()}
    for pixels in spoilt.values():
        pixels[unread] = 0
    settings = local_settings(FUSION)
    assert torch.equal(
        train(settings, data=replace(data, images=spoilt)).update, train(settings, data=data).update
    )


def test_validation_exams_are_the_graded_exams_of_the_own_fold() -> None:
    grades = DATA.grades["hypertrophy"].clone()
    grades[1] = MISSING
    data = replace(DATA, grades={"hypertrophy": grades})
    expected = [i for i in range(len(data)) if data.fold[i] == 0 and i != 1]
    assert validation_exams(data, FUSION).tolist() == expected
    assert len(validation_exams(data, FUSION.model_copy(update={"fold": -1}))) == 0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(measurement="m", threshold=0), [0, 1, 1, 1, MISSING]),
        (Target(measurement="m", threshold=2), [0, 0, 0, 1, MISSING]),
        (Target(measurement="m", kind="nominal", threshold=None, classes=4), [0, 1, 2, 3, MISSING]),
    ],
)
def test_labels_follow_the_target(target: Target, expected: list[int]) -> None:
    grades = torch.tensor([0, 1, 2, 3, MISSING], dtype=torch.int8)
    data = replace(subset(DATA, torch.arange(5)), grades={"m": grades})
    assert labels(data, SINGLE.model_copy(update={"target": target})).tolist() == expected


def test_the_proximal_term_pulls_towards_the_received_weights() -> None:
    settings = local_settings(FUSION, local_steps=12)
    distances = [train(settings, mu=mu).update.norm() for mu in (0.0, 10.0, 100.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.9 * distances[0]


def test_the_proximal_gradient_is_mu_times_the_distance() -> None:
    # two SGD steps on w: the second one's gradient differs by mu * (w1 - w0) alone
    one = local_settings(SINGLE, optimiser="sgd", sampling="all", local_steps=1, **PLAIN)
    two = replace(one, training=one.training.model_copy(update={"local_steps": 2}))
    first, free = train(one).update, train(two).update
    bound = train(two, mu=0.5).update
    torch.testing.assert_close(free - bound, one.training.learning_rate * 0.5 * first, rtol=1e-2, atol=1e-6)


def test_a_simple_task_is_learnt_in_few_steps() -> None:
    settings = local_settings(FUSION, local_steps=40, batch_size=16, learning_rate=1e-2)
    settings = replace(settings, rounds=1)
    weights = start(settings)
    answer = train(settings, weights=weights)
    assert answer.update.isfinite().all()
    exams = validation_exams(DATA, FUSION)
    right = score(weights + answer.update, DATA, exams, settings).argmax(1) == labels(DATA, FUSION)[exams]
    assert right.float().mean() > 0.9


def test_grades_can_be_learnt_as_classes() -> None:
    target = Target(measurement="vascularity", kind="nominal", threshold=None, classes=4)
    settings = local_settings(
        SINGLE.model_copy(update={"target": target}), local_steps=60, batch_size=16, learning_rate=1e-2
    )
    settings = replace(settings, rounds=1)
    weights = start(settings)
    trained = weights + train(settings, weights=weights).update
    exams = training_exams(DATA, settings.spec)
    probabilities = score(trained, DATA, exams, settings)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(exams)))
    assert (probabilities.argmax(1) == labels(DATA, settings.spec)[exams]).float().mean() > 0.8


@pytest.mark.parametrize("settings", [NETWORK, NetworkSettings(backbone="resnet18", image_px=32)])
def test_scores_of_a_batch_are_the_scores_of_each(settings: NetworkSettings) -> None:
    local = replace(local_settings(FUSION), network=settings)
    weights = start(local)
    exams = torch.tensor([3, 0, 11])
    together = score(weights, DATA, exams, local)
    alone = torch.cat([score(weights, DATA, exam.view(1), local) for exam in exams])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_no_exams_no_scores() -> None:
    settings = local_settings(FUSION)
    assert score(start(settings), DATA, torch.empty(0, dtype=torch.long), settings).shape == (0, 2)


def test_weights_of_another_length_are_refused() -> None:
    settings = local_settings(FUSION)
    with pytest.raises(UpdateError, match="Expected"):
        train(settings, weights=torch.zeros(1))


@pytest.mark.parametrize(
    ("backbone", "layout"), [("small", torch.channels_last), ("resnet18", torch.contiguous_format)]
)
def test_pictures_lie_as_their_backbone_reads_them_fastest(
    backbone: str, layout: torch.memory_format
) -> None:
    settings = replace(local_settings(SINGLE), network=NETWORK.model_copy(update={"backbone": backbone}))
    exams = training_exams(DATA, SINGLE)[:2]
    (pictures,), _ = inputs(DATA, exams, labels(DATA, SINGLE)[exams], settings, generator=None)
    assert pictures.is_contiguous(memory_format=layout)


def test_resnet18_takes_a_step_at_full_size() -> None:
    data = make_exams(8, image_px=224)
    assert data.images["gs"].shape[-1] == stored_px(224)
    settings = replace(
        local_settings(SINGLE, batch_size=2, local_steps=1),
        network=NetworkSettings(backbone="resnet18", image_px=224),
    )
    answer = train(settings, data=data)
    assert answer.update.isfinite().all()
    assert answer.update.abs().max() > 0


def test_puzzles_learn_from_exams_that_nobody_graded_and_graded_networks_do_not() -> None:
    """The update of each is the same as without them, or as with other pictures of them, or it is not."""
    jigsaw = JigsawSettings(image_px=48, tile_px=12, permutations=6)
    puzzles = NetworkSpec(
        name="puzzles",
        images=("gs",),
        target=Target(measurement="gs", kind="permutation", threshold=None, classes=6),
        jigsaw=jigsaw,
    )
    few = torch.arange(24)
    whole = replace(
        DATA,
        grades={
            name: torch.where(torch.arange(len(DATA)) < 24, values, MISSING)
            for name, values in DATA.grades.items()
        },
    )
    assert whole.graded.tolist() == [True] * 24 + [False] * (len(DATA) - 24)
    pictures = {name: torch.cat([values[:24], 255 - values[24:]]) for name, values in DATA.images.items()}
    repainted = replace(whole, images=pictures)
    for spec, reads in ((FUSION, False), (puzzles, True)):
        settings = local_settings(spec, sampling="shuffled", local_steps=6)
        alike = train(settings, data=whole)
        fewer = train(settings, data=subset(whole, few))
        assert torch.equal(alike.update, fewer.update) is not reads
        assert torch.equal(alike.update, train(settings, data=repainted).update) is not reads
        assert (alike.num_examples > fewer.num_examples) is reads
    assert train(local_settings(puzzles), data=whole).num_examples == int((whole.fold != MISSING).sum())
