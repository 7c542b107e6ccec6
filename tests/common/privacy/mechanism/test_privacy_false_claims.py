"""Ways in which a claim of differential privacy is false: each is planted, and fails a property of the step.

A step is a function of weights, heads, settings and entropy that gives what leaves the site. With the noise held
fixed by the same entropy, which only a test can do, what one patient changes is seen exactly.
"""

import ast
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from common.exam import MISSING
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.mechanism.gaussian_release import release
from common.privacy.mechanism.heads import Heads, HeadShape, patient_gradients, patient_rows
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import StepSettings, clipped_sum, private_gradient, sample
from tests.private_heads import FEATURES, PATIENTS, VIEWS, cohort, entropy, start

Step = Callable[[Tensor, list[Heads], StepSettings, bytes], Tensor]
Sampler = Callable[[int, float, bytes], np.ndarray]
STEP = StepSettings(max_grad_norm=0.5, noise_multiplier=1.0, sample_rate=1.0, patients=PATIENTS)
WIDE = (600, 600)


def ours(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    return private_gradient(weights, heads, settings, entropy=fresh).gradient


# Properties.


def sensitivity(step: Step) -> float:
    """The most that one patient changes what is released, in units of what is claimed."""
    cases = [partial(cohort, 1, scale=30.0), partial(cohort, spoilt=0)]
    cases += [partial(odd_cohort, scale=scale) for scale in (0.1, 0.3, 1.0)]
    largest = 0.0
    for case in cases:
        heads = case()
        weights = start(heads)
        for removed in (0, PATIENTS - 1):
            fewer = case(without=removed)
            change = step(weights, heads, STEP, entropy(removed)) - step(
                weights, fewer, STEP, entropy(removed)
            )
            largest = max(largest, float(change.double().norm().nan_to_num(nan=math.inf)) * PATIENTS / 0.5)
    return largest


def odd_cohort(*, scale: float, without: int | None = None) -> list[Heads]:
    """Patients in whom what depends on others shows.

    Half of them have long gradients and half short ones, all in one direction, one more than half being short; two
    patients alone have grade 3, one with huge features and one with features opposite to those.
    """
    generator = torch.Generator().manual_seed(0)
    usual, rare = torch.randn(2, FEATURES, generator=generator)
    short, others = PATIENTS // 2, PATIENTS - PATIENTS // 2 - 2
    features = torch.stack([0.1 * usual] * short + [usual] * others + [-rare, 100 * rare]) * scale
    grades = torch.tensor([0] * (short + others) + [3, 3])
    kept = torch.arange(PATIENTS) != (PATIENTS if without is None else without)
    count = int(kept.sum())
    rows = patient_rows(
        features[kept].expand(2, VIEWS, -1, -1).transpose(1, 2).contiguous(),
        grades[kept].expand(2, -1).contiguous(),
        torch.arange(count),
        patients=count,
        images=1,
    )
    return [
        Heads(shape=HeadShape(features=FEATURES), rows=rows, class_weights=torch.full((2, 4), 0.1))
        for _ in range(2)
    ]


def noise(step: Step, *, patients: int = PATIENTS, label: object = 0) -> np.ndarray:
    """The noise alone, in units of what is claimed: weights that are nan make every patient count as zero."""
    heads = cohort(patients=patients, hidden=WIDE) if patients else cohort(patients=1, without=0, hidden=WIDE)
    weights = torch.full((sum(some.size for some in heads),), torch.nan)
    return step(weights, heads, STEP, entropy("noise", label)).double().numpy() * PATIENTS / 0.5


def has_claimed_noise(step: Step) -> bool:
    draws = [noise(step), noise(step, patients=0)]
    return all(abs(np.mean(draw**2) - 1) < 6 * math.sqrt(2 / draw.size) for draw in draws)


def is_fresh(step: Step) -> bool:
    """Two rounds, sites or processes, and two heads of one step, have nothing in common."""
    one, other = noise(step, label=1), noise(step, label=2)
    halves = np.array_split(one[: one.size // 2 * 2], 2)
    largest = max(abs(float(np.corrcoef(pair)[0, 1])) for pair in ((one, other), halves))
    return largest < 6 / math.sqrt(halves[0].size)


def says_nothing_by_its_shape(step: Step) -> bool:
    results = [step(start(heads), heads, STEP, entropy("shape")) for heads in (cohort(patients=3), cohort())]
    return all((r.shape, r.dtype) == (start(cohort()).shape, torch.float32) for r in results)


def is_poisson(sampler: Sampler, *, patients: int = 40, rate: float = 0.2, rounds: int = 150) -> bool:
    """Each patient is in with the claimed probability, whoever else is, and whatever was before."""
    taken = np.stack([sampler(patients, rate, entropy("round", number)) for number in range(rounds)])
    each = np.abs(taken.mean(axis=0) - rate).max() < 5 * math.sqrt(rate * (1 - rate) / rounds)
    together = taken.sum(axis=1).var() / (patients * rate * (1 - rate))
    in_a_row = (taken[1:] & taken[:-1]).mean() / rate**2
    return bool(each and 0.6 < together < 1.6 and 0.8 < in_a_row < 1.2)


def never_forgets(account: Callable[[Sequence[PrivateSteps]], float]) -> bool:
    once = PrivateSteps(sample_rate=0.2, noise_multiplier=2, count=20)
    other = PrivateSteps(sample_rate=1, noise_multiplier=8, count=1)
    alone = account([once])
    return account([once, once, once]) > 1.3 * alone and account([once, other]) > alone


# What a step must not do.


def finish(total: Tensor, settings: StepSettings, fresh: bytes, *, multiplier: float | None = None) -> Tensor:
    noised = release(
        total.numpy(),
        max_grad_norm=settings.max_grad_norm,
        noise_multiplier=settings.noise_multiplier if multiplier is None else multiplier,
        stream=KeyStream(fresh, "noise"),
    )
    return torch.from_numpy(noised / settings.patients).float()


def per_row(weights: Tensor, heads: list[Heads]) -> Tensor:
    """The gradient of each row's share of the patient's loss, (rows, patients, size)."""
    parts = []
    for part, some in zip(weights.split([some.size for some in heads]), heads, strict=True):
        layers = patient_gradients(part, some)
        written = [
            torch.cat(
                [torch.einsum("hpro,hpri->rphoi", x.errors, x.inputs).flatten(3), _bias(x.errors)], dim=3
            )
            for x in layers
        ]
        parts.append(torch.cat(written, dim=3).flatten(2))
    return torch.cat(parts, dim=2).double().nan_to_num()


def _bias(errors: Tensor) -> Tensor:
    return errors.permute(2, 1, 0, 3)


def clip(gradients: Tensor, norm: float) -> Tensor:
    scale: Tensor = (norm / gradients.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    return gradients * scale


def clipped_by_image(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    rows = clip(per_row(weights, heads), settings.max_grad_norm)
    return finish(rows.sum((0, 1)), settings, fresh)


def augmentations_as_records(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    rows = per_row(weights, heads)
    views = rows.unflatten(0, (-1, VIEWS)).sum(0)  # each view of all images is a "patient"
    return finish(clip(views, settings.max_grad_norm).sum((0, 1)), settings, fresh)


def not_clipped(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    return finish(per_row(weights, heads).sum((0, 1)), settings, fresh)


def members_clipped_alone(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    parts = weights.split([some.size for some in heads])
    sums = [
        clipped_sum(part, [some], max_norm=settings.max_grad_norm).total
        for part, some in zip(parts, heads, strict=True)
    ]
    return finish(torch.cat(sums), settings, fresh)


def adaptive_clipping(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    gradients = per_row(weights, heads).sum(0)
    norm = min(settings.max_grad_norm, float(gradients.norm(dim=1).median()))
    return finish(clip(gradients, norm).sum(0) * settings.max_grad_norm / norm, settings, fresh)


def divided_by_who_came(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    return ours(weights, heads, settings, fresh) * settings.patients / heads[0].rows.patients


def nan_kept(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    spoilt = [some.rows.gram.isnan().any(dim=-1).any(dim=-1) for some in heads]
    result = ours(weights, heads, settings, fresh)
    return result * torch.nan if any(bool(one.any()) for one in spoilt) else result


def _with_features(heads: list[Heads], change: Callable[[Tensor], Tensor]) -> list[Heads]:
    changed = []
    for some in heads:
        features = change(some.rows.features)
        wide = features.double()
        changed.append(replace(some, rows=replace(some.rows, features=features, gram=wide @ wide.mT)))
    return changed


def standardised_by_the_cohort(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    """Mean and standard deviation of private data; batch normalisation does the same."""
    changed = _with_features(
        heads, lambda x: (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True)
    )
    return ours(weights, changed, settings, fresh)


def weights_of_classes_from_the_cohort(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    """Balanced weights, and any loss that couples patients."""
    changed = []
    for some in heads:
        counts = torch.stack([(some.rows.grades == grade).sum((1, 2)) for grade in range(4)], dim=1)
        balanced = counts.sum(1, keepdim=True) / (4.0 * counts.clamp(min=1))
        changed.append(replace(some, class_weights=balanced.float()))
    return ours(weights, changed, settings, fresh)


def exclusions_that_depend_on_others(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    """Which images are read depends on how many patients there are."""
    changed = []
    for some in heads:
        read = (torch.arange(some.rows.grades.shape[2]) + some.rows.patients) % 3 > 0
        changed.append(
            replace(some, rows=replace(some.rows, grades=torch.where(read, some.rows.grades, MISSING)))
        )
    return ours(weights, changed, settings, fresh)


def empty_cohort_skipped(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    if heads[0].rows.patients == 0:
        return torch.zeros(len(weights))
    return ours(weights, heads, settings, fresh)


def noise_times(
    factor: float, weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    total = clipped_sum(weights, heads, max_norm=settings.max_grad_norm).total
    return finish(total, settings, fresh, multiplier=factor * settings.noise_multiplier)


def noise_by_micro_batch(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    """Four micro-batches, each noised, added up."""
    parts = [
        ours(weights, heads, settings, entropy(fresh, number)) * (1 if number == 0 else 0)
        + noise_only(weights, settings, entropy(fresh, number)) * (number > 0)
        for number in range(4)
    ]
    return torch.stack(parts).sum(0)


def noise_only(weights: Tensor, settings: StepSettings, fresh: bytes) -> Tensor:
    return finish(torch.zeros(len(weights), dtype=torch.float64), settings, fresh)


def seeded(weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes) -> Tensor:
    """The same seed for two rounds, sites or networks."""
    total = clipped_sum(weights, heads, max_norm=settings.max_grad_norm).total
    drawn = torch.randn(len(weights), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return ((total + settings.noise_multiplier * settings.max_grad_norm * drawn) / settings.patients).float()


def replayed_after_a_crash(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    """The round's entropy was kept, and is used again."""
    return ours(weights, heads, settings, entropy("kept for the round"))


def one_noise_for_all_networks(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    half = (len(weights) + 1) // 2
    drawn = noise_only(weights[:half], settings, fresh).repeat(2)[: len(weights)]
    total = clipped_sum(weights, heads, max_norm=settings.max_grad_norm).total
    return (total / settings.patients).float() + drawn


def with_the_number_of_patients(
    weights: Tensor, heads: list[Heads], settings: StepSettings, fresh: bytes
) -> Tensor:
    return torch.cat([ours(weights, heads, settings, fresh), torch.tensor([float(heads[0].rows.patients)])])


def test_the_step_has_every_property() -> None:
    assert sensitivity(ours) <= 1
    assert has_claimed_noise(ours)
    assert is_fresh(ours)
    assert says_nothing_by_its_shape(ours)


@pytest.mark.parametrize(
    "bug",
    [
        clipped_by_image,
        augmentations_as_records,
        not_clipped,
        members_clipped_alone,
        adaptive_clipping,
        divided_by_who_came,
        nan_kept,
        standardised_by_the_cohort,
        weights_of_classes_from_the_cohort,
        exclusions_that_depend_on_others,
    ],
)
def test_one_patient_changes_more_than_claimed(bug: Step) -> None:
    assert sensitivity(bug) > 1.05


@pytest.mark.parametrize(
    "bug",
    [
        empty_cohort_skipped,
        partial(noise_times, 1 / PATIENTS),  # divided by the batch's size
        partial(noise_times, 2 / 3),
        partial(noise_times, 3 / 2),
        partial(noise_times, 2),  # sigma without the clipping norm of 0.5
        noise_by_micro_batch,
    ],
)
def test_the_noise_is_not_the_one_claimed(bug: Step) -> None:
    assert not has_claimed_noise(bug)


@pytest.mark.parametrize("bug", [seeded, replayed_after_a_crash, one_noise_for_all_networks])
def test_noise_is_used_twice(bug: Step) -> None:
    assert has_claimed_noise(bug)  # each release alone looks right
    assert not is_fresh(bug)


def test_noise_used_twice_is_the_record() -> None:
    heads, fewer = cohort(scale=10, hidden=WIDE), cohort(scale=10, hidden=WIDE, without=3)
    weights = start(heads)
    record = clipped_sum(weights, heads, max_norm=0.5).total - clipped_sum(weights, fewer, max_norm=0.5).total
    difference = seeded(weights, heads, STEP, entropy(1)) - seeded(weights, fewer, STEP, entropy(2))
    assert float(torch.nn.functional.cosine_similarity(difference.double(), record, dim=0)) > 0.999


def test_seeds_of_torch_are_few() -> None:
    """Why no generator with a seed: two seeds that differ by 2^32 give one stream on a CPU."""
    one, other = (torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in (7, 7 + 2**32))
    assert torch.equal(one, other)


def test_a_count_beside_the_gradient() -> None:
    assert not says_nothing_by_its_shape(with_the_number_of_patients)


def our_sampler(patients: int, rate: float, fresh: bytes) -> np.ndarray:
    """Who takes part, found by a grade that is the patient's number."""
    heads = cohort(patients=1, hidden=(None,))[0]
    grades = torch.arange(patients).expand(2, -1)[..., None]
    rows = replace(
        heads.rows,
        features=torch.zeros(2, patients, 1, heads.shape.features),
        grades=grades,
        gram=torch.zeros(2, patients, 1, 1, dtype=torch.float64),
    )
    chosen = sample([replace(heads, rows=rows)], rate, stream=KeyStream(fresh, "sampling"))[0].rows.grades
    taken = np.zeros(patients, dtype=bool)
    taken[chosen[0, :, 0].numpy()] = True
    return taken


def _permutation(patients: int, fresh: bytes) -> np.ndarray:
    return np.random.default_rng(list(fresh)).permutation(patients)


def shuffled_epochs(patients: int, rate: float, fresh: bytes) -> np.ndarray:
    """A batch of a shuffled epoch has a fixed size."""
    return _permutation(patients, fresh) < patients * rate


def last_batch_dropped(patients: int, rate: float, fresh: bytes) -> np.ndarray:
    """Four batches an epoch instead of five."""
    return KeyStream(fresh, "sampling").bernoulli(patients, probability=1 / (1 / rate - 1))


def rare_grades_oversampled(patients: int, rate: float, fresh: bytes) -> np.ndarray:
    taken = KeyStream(fresh, "sampling").bernoulli(patients, probability=rate)
    often = KeyStream(fresh, "discrete noise").bernoulli(patients, probability=3 * rate)
    return np.where(np.arange(patients) < patients // 10, often, taken)


def the_same_every_round(patients: int, rate: float, fresh: bytes) -> np.ndarray:
    return KeyStream(entropy("seed"), "sampling").bernoulli(patients, probability=rate)


def test_patients_are_sampled_as_booked() -> None:
    assert is_poisson(our_sampler)


@pytest.mark.parametrize(
    "bug", [shuffled_epochs, last_batch_dropped, rare_grades_oversampled, the_same_every_round]
)
def test_patients_are_sampled_otherwise_than_booked(bug: Sampler) -> None:
    assert not is_poisson(bug)


def test_the_accountant_never_forgets() -> None:
    assert never_forgets(partial(epsilon, delta=1e-5))


def reset_each_round(steps: Sequence[PrivateSteps]) -> float:
    return max(epsilon([step], delta=1e-5) for step in steps)


def reset_each_process(steps: Sequence[PrivateSteps]) -> float:
    return epsilon(steps[-1:], delta=1e-5)


@pytest.mark.parametrize("bug", [reset_each_round, reset_each_process])
def test_an_accountant_that_starts_afresh(bug: Callable[[Sequence[PrivateSteps]], float]) -> None:
    assert not never_forgets(bug)


# Opacus: what is taken from it, and what is not.

ROOT = Path(__file__).resolve().parents[4]
TAKEN = {"opacus.accountants": {"PRVAccountant"}}
"""An accountant and gradients of pictures: no engine, sampler, optimiser, batch splitter, noise."""


def taken_from_opacus(source: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opacus"):
            found.setdefault(node.module or "", set()).update(one.name for one in node.names)
        if isinstance(node, ast.Import):
            found |= {one.name: {"*"} for one in node.names if one.name.startswith("opacus")}
    return found


def test_nothing_is_taken_from_opacus_that_has_a_trap() -> None:
    for package in ("common", "client", "server", "simulation"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for module, names in taken_from_opacus(path.read_text(encoding="utf-8")).items():
                assert names <= TAKEN.get(module, set()), path
    bug = (
        "from opacus import PrivacyEngine\nfrom opacus.utils.batch_memory_manager import BatchMemoryManager\n"
    )
    assert set(taken_from_opacus(bug)) - set(TAKEN) == {"opacus", "opacus.utils.batch_memory_manager"}


def opacus_engine(patients: int, rate: float, fresh: bytes) -> np.ndarray:
    """Who takes part in the first step by Opacus's engine, which books ``rate``: it was given a sampler by weight."""
    weights = [3.0] * (patients // 10) + [1.0] * (patients - patients // 10)
    size = round(patients * rate)
    generator = torch.Generator().manual_seed(int.from_bytes(fresh[:4], "big"))
    sampler = WeightedRandomSampler(weights, num_samples=patients, generator=generator)
    network = nn.Linear(1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, _, loader = PrivacyEngine(accountant="rdp").make_private(
            module=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(torch.arange(patients)), batch_size=size, sampler=sampler),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            poisson_sampling=False,
        )
    taken = np.zeros(patients, dtype=bool)
    taken[next(iter(loader))[0].numpy()] = True
    return taken


def test_opacus_keeps_a_sampler_by_weight_and_books_the_rate() -> None:
    assert not is_poisson(opacus_engine)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4).requires_grad_(False)])
def test_opacus_lets_batch_norm_pass_whose_mean_moves(layer: nn.Module) -> None:
    """Ours refuses every norm that keeps statistics: ``test_privacy_network_step.py``."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer).train()
    assert ModuleValidator.is_valid(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.ones(2, 3, 8, 8))
    moved = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert "1.running_mean" in moved
