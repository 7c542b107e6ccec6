from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigurationError
from common.exam import MISSING
from common.methods.schlereth import Schlereth
from common.methods.stages import Output, networks
from common.networks import build
from common.settings import Settings, load
from common.training.local import LocalUpdate, train_network
from tests.exam_tensors import local_settings, make_exams

CONFIGS = Path(__file__).parents[3] / "configs"
TASKS = ("hypertrophy", "ra_or_spa", "antibodies", "positive_or_spa", "negative_or_spa")


@pytest.fixture(params=["schlereth", "schlereth_small"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return load(CONFIGS / f"{request.param}.toml")


def test_five_separate_networks_for_each_of_five_folds(settings: Settings) -> None:
    specs = networks(settings)
    assert len(specs) == 25
    assert Counter((spec.target.measurement, spec.fold) for spec in specs.values()) == {
        (task, fold): 1 for task in TASKS for fold in range(5)
    }
    for name, spec in specs.items():
        graded = spec.target.measurement == "hypertrophy"
        assert (spec.target.kind, spec.target.classes) == (("nominal", 4) if graded else ("binary", 2))
        assert name == f"schlereth/fold{spec.fold}/{spec.target.measurement}/{'grades' if graded else 'gt0'}"
        assert spec.pieces == ()  # nothing is shared; whole networks start from network.weights


def test_the_tasks_are_the_published_ones(settings: Settings) -> None:
    assert settings.method == "schlereth"
    assert Schlereth().scores(settings) == {"hypertrophy": 4, **dict.fromkeys(TASKS[1:], 2)}
    classes = {name: settings.measurements[name].classes for name in settings.diagnoses}
    both = ("PsA", "SpA")
    assert classes == {
        "ra_or_spa": (("RA+", "RA-"), both),
        "antibodies": (("RA-",), ("RA+",)),
        "positive_or_spa": (("RA+",), both),
        "negative_or_spa": (("RA-",), both),
    }
    assert (settings.evaluate.design, settings.folds) == ("folds", 5)
    assert settings.training.sampling == "balanced"


def test_the_published_cohort() -> None:
    settings = load(CONFIGS / "schlereth.toml")
    assert settings.cohort is not None
    phantom = settings.cohort.phantom
    assert phantom is not None
    assert phantom.sites * phantom.patients == 340
    assert [machine.name for machine in phantom.machines] == ["mylab-twice", "hs40"]
    assert phantom.diagnosis is not None
    assert phantom.diagnosis.mix == {"RA+": 146, "RA-": 68, "PsA": 121, "SpA": 5}
    assert phantom.diagnosis.tied_to_machine == 0
    assert (settings.network.backbone, settings.network.weights, settings.network.image_px) == (
        "resnet18",
        "imagenet",
        224,
    )


def test_each_task_is_answered_by_its_most_probable_class(settings: Settings) -> None:
    said = {"hypertrophy": [[0.2, 0.5, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]}
    outputs = [
        Output(
            spec=spec,
            probabilities=np.array(
                said.get(spec.target.measurement, [[0.6, 0.4], [0.5, 0.5]]), dtype=np.float32
            ),
            threshold=0.5,
        )
        for spec in networks(settings).values()
        if spec.fold == 3
    ]
    votes = Schlereth().votes(outputs, settings)
    assert votes.shape == (2, 1, 5)
    assert votes[:, 0].tolist() == [[1, 0, 0, 0, 0], [3, 1, 1, 1, 1]]


def test_full_batch_steps_of_two_sites_average_to_the_pooled_step() -> None:
    """Federated equals centralised of a diagnosis that not all have: a site weighs as much as it has exams of it."""
    chosen = load(CONFIGS / "schlereth_small.toml")
    (spec,) = [s for s in networks(chosen).values() if (s.target.measurement, s.fold) == ("antibodies", 0)]
    settings = replace(
        local_settings(
            spec, optimiser="sgd", sampling="all", local_steps=1, augmentation=None, schedule="constant",
            weight_decay=0.0,
        ),
        network=chosen.network.model_copy(update={"image_px": 32}),
    )  # fmt: skip
    data = make_exams()
    classes = torch.where(data.patient % 5 == 0, MISSING, data.patient // 2 % 2).to(torch.int8)
    data = replace(data, grades={"antibodies": classes})
    start = build.initial_weights(spec, settings.network, seed=1)

    def update(exams: torch.Tensor) -> LocalUpdate:
        part = replace(
            data,
            images={name: pixels[exams] for name, pixels in data.images.items()},
            grades={"antibodies": classes[exams]},
            fold=data.fold[exams],
            patient=data.patient[exams],
        )
        return train_network(start, {}, part, settings, 1, 7)[0]

    order = torch.arange(len(data))
    parts, pooled = [update(order[:17]), update(order[17:])], update(order)
    assert sum(part.num_examples for part in parts) == pooled.num_examples < len(data) * 3 / 4
    weighed = torch.stack([part.update.double() * part.num_examples for part in parts]).sum(dim=0)
    mean = weighed / pooled.num_examples
    torch.testing.assert_close(mean.float(), pooled.update, rtol=1e-4, atol=1e-6)


def test_under_privacy_it_says_why_not(settings: Settings) -> None:
    text = [
        "privacy={noise_multiplier=10.78, max_grad_norm=1.0, sample_rate=1.0, patients=90, delta=1e-5}",
        'evaluate.design="held_out"',
        'federation.optimiser_state="fresh"',
    ]
    private = load(CONFIGS / f"{settings.name}.toml", overrides=text)
    with pytest.raises(ConfigurationError, match=r"Expected no \[privacy\] for method .schlereth."):
        list(Schlereth().stages(private, {}))
