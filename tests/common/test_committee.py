from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from common import committee
from common.errors import ConfigurationError
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.training.local import score, train_network
from tests.exam_tensors import FUSION, IMAGES, NETWORK, SINGLE, local_settings, make_exams

CPU = torch.device("cpu")
DATA = make_exams()
SPECS = (FUSION, SINGLE, replace(FUSION, name="rating/fold1/hypertrophy/gt0/a", fold=1))
WEIGHTS = {spec.name: build.initial_weights(spec, NETWORK, seed=i) for i, spec in enumerate(SPECS)}

MEASUREMENTS = {"hypertrophy": ("gs", "doppler"), "vascularity": ("doppler",)}


def ask(exams, specs=SPECS):
    return committee.probabilities(
        WEIGHTS, specs, DATA.images, exams, images=IMAGES, network=NETWORK, device=CPU
    )


def rating_specs():
    """RATING's 60 networks: 5 models x 2 measurements x 3 thresholds x 2 replicas."""
    return [
        NetworkSpec(
            name=f"{fold}{name}{threshold}{replica}",
            images=images,
            target=Target(measurement=name, threshold=threshold),
            fold=fold,
            replica=replica,
        )
        for fold, (name, images), threshold, replica in product(
            range(5), MEASUREMENTS.items(), range(3), range(2)
        )
    ]


def test_each_column_is_the_score_of_its_network():
    exams = torch.tensor([7, 2, 30])
    expected = [score(WEIGHTS[s.name], DATA, exams, local_settings(s))[:, 1] for s in SPECS]
    torch.testing.assert_close(ask(exams), torch.stack(expected, dim=1))


def test_more_exams_than_a_batch_are_scored_in_their_order():
    exams = torch.arange(300) % len(DATA)
    torch.testing.assert_close(ask(exams)[130], ask(exams[130:131])[0], rtol=1e-4, atol=1e-5)


def test_no_exams_no_rows():
    assert ask(torch.empty(0, dtype=torch.long)).shape == (0, 3)


def test_a_thread_that_scored_first_can_train_later():
    settings = local_settings(FUSION)

    def score_then_train():
        ask(torch.arange(4))
        return train_network(WEIGHTS[FUSION.name], {}, DATA, settings, 1, 7)[0].update

    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(score_then_train).result()
    assert torch.equal(trained, train_network(WEIGHTS[FUSION.name], {}, DATA, settings, 1, 7)[0].update)


def test_a_probability_at_its_threshold_is_a_yes():
    probabilities = np.array([[0.2, 0.5], [0.3, 0.7]], dtype=np.float32)
    thresholds = np.array([0.3, 0.5], dtype=np.float32)
    assert committee.bits(probabilities, thresholds).tolist() == [[False, True], [True, True]]


def test_votes_are_the_grades_that_the_bits_encode():
    specs = rating_specs()
    assert len(specs) == 60
    generator = np.random.default_rng(0)
    grades = generator.integers(0, 4, size=(20, 5, 2))
    order = list(MEASUREMENTS)
    bits = np.stack(
        [grades[:, s.fold, order.index(s.target.measurement)] > s.target.threshold for s in specs], axis=1
    )
    shuffled = generator.permutation(60)
    votes = committee.votes(bits[:, shuffled], [specs[i] for i in shuffled], measurements=order)
    assert np.array_equal(votes, grades)


def test_a_single_wrong_bit_of_one_replica_ties_to_the_lower_grade():
    specs = [
        replace(SINGLE, name=f"{t}{r}", target=Target(measurement="vascularity", threshold=t), replica=r)
        for t in range(3)
        for r in range(2)
    ]
    bits = np.array([[True, False, False, False, False, False]])
    assert committee.votes(bits, specs, measurements=["vascularity"]).tolist() == [[[0]]]


def test_one_binary_measurement_of_one_model_can_be_decoded():
    votes = committee.votes(np.array([[True], [False]]), [SINGLE], measurements=["vascularity"])
    assert votes.tolist() == [[[1]], [[0]]]


def test_a_measurement_without_networks_is_an_error():
    with pytest.raises(ConfigurationError, match="hypertrophy"):
        committee.votes(np.array([[True]]), [SINGLE], measurements=["hypertrophy"])
