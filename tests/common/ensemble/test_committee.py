from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from common.ensemble.committee import Committee
from common.networks import build
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.local import score, train_network
from tests.exam_tensors import FUSION, IMAGES, NETWORK, SINGLE, local_settings, make_exams

DATA = make_exams()
OTHER = FUSION.model_copy(update={"name": "rating/fold1/hypertrophy/gt0/a", "fold": 1})
SPECS = (FUSION, SINGLE, OTHER)
WEIGHTS = {spec.name: build.initial_weights(spec, NETWORK, seed=i) for i, spec in enumerate(SPECS)}
SETTINGS = Settings.model_validate(
    {
        "name": "committee",
        "images": IMAGES,
        "network": NETWORK,
        "measurements": {
            "hypertrophy": {"grades": 2, "images": ["gs", "doppler"]},
            "vascularity": {"grades": 2, "images": ["doppler"]},
        },
        "rating": {"folds": 2, "replicas": 1},
    }
)


def make_committee(specs: tuple[NetworkSpec, ...] = SPECS) -> Committee:
    return Committee(
        specs=specs,
        modules=tuple(build.assembled(s, NETWORK, WEIGHTS[s.name], {}) for s in specs),
        thresholds=(0.5,) * len(specs),
        settings=SETTINGS,
    )


def test_each_output_is_the_score_of_its_network() -> None:
    exams = torch.tensor([7, 2, 30])
    for spec, output in zip(SPECS, make_committee().outputs(DATA.images, exams), strict=True):
        expected = score(WEIGHTS[spec.name], DATA, exams, local_settings(spec))
        torch.testing.assert_close(torch.from_numpy(output.probabilities), expected)


def test_more_exams_than_a_batch_are_scored_in_their_order() -> None:
    exams = torch.arange(300) % len(DATA)
    committee = make_committee()
    many = committee.outputs(DATA.images, exams)[0].probabilities[130]
    one = committee.outputs(DATA.images, exams[130:131])[0].probabilities[0]
    torch.testing.assert_close(torch.from_numpy(many), torch.from_numpy(one), rtol=1e-4, atol=1e-5)


def test_no_exams_no_rows() -> None:
    outputs = make_committee().outputs(DATA.images, torch.empty(0, dtype=torch.long))
    assert [output.probabilities.shape for output in outputs] == [(0, 2)] * 3


def test_networks_are_views_into_the_given_weights() -> None:
    module = make_committee().modules[0]
    assert next(module.parameters()).data_ptr() == WEIGHTS[FUSION.name].data_ptr()


def test_a_thread_that_scored_first_can_train_later() -> None:
    settings = local_settings(FUSION)
    weights = WEIGHTS[FUSION.name]

    def score_then_train() -> Tensor:
        score(weights, DATA, torch.arange(4), settings)
        return train_network(weights, {}, DATA, settings, 1, 7)[0].update

    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(score_then_train).result()
    assert torch.equal(trained, train_network(weights, {}, DATA, settings, 1, 7)[0].update)
