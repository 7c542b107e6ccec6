import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from common.ensemble.committee import Scores, decided
from common.errors import ConfigurationError
from common.exam import MISSING
from common.methods.andersen import Andersen
from common.methods.christensen import Christensen
from common.methods.rating import JIGSAW, Rating
from common.methods.stages import NetworkResult, Output, Stage, learns_without_grades, method, networks
from common.networks.spec import COMBINED, NetworkSpec
from common.sections.training import TrainingSettings
from common.settings import Settings, load
from common.training.inputs import labels, training_exams, validation_exams
from tests.exam_tensors import make_exams

CONFIGS = Path(__file__).parents[3] / "configs"
MEASUREMENTS = ("hypertrophy", "vascularity")
TRAINED = ("andersen.encoder=trained", "andersen.backbone=small", "andersen.binary_backbone=small")


def configured(name: str = "rating", *overrides: str) -> Settings:
    return load(CONFIGS / f"{name}.toml", overrides=overrides)


def stages(settings: Settings, results: Mapping[str, NetworkResult] | None = None) -> list[Stage]:
    return list(method(settings.method).stages(settings, results or {}))


def answers(
    specs: Iterable[NetworkSpec], probabilities: Callable[[NetworkSpec], ArrayLike], *, threshold: float = 0.5
) -> list[Output]:
    """Outputs of binary networks: ``probabilities(spec)`` gives that of class 1 for each exam."""
    found = []
    for spec in specs:
        yes = np.asarray(probabilities(spec), dtype=np.float32)
        found.append(
            Output(spec=spec, probabilities=np.stack([1 - yes, yes], axis=1), threshold=float(threshold))
        )
    return found


def training(spec: NetworkSpec) -> TrainingSettings:
    assert spec.training is not None
    return spec.training


def threshold(spec: NetworkSpec) -> int:
    assert spec.target.threshold is not None
    return spec.target.threshold


def scoring(settings: Settings) -> list[NetworkSpec]:
    return [spec for spec in networks(settings).values() if spec.scoring]


class TestRatingStages:
    def test_as_published_60_networks_score_on_90_backbones(self) -> None:
        found = stages(configured())
        assert [(stage.name, len(stage.networks)) for stage in found] == [
            ("jigsaw", 1),
            ("features", 90),
            ("fusion", 30),
        ]
        names = {
            f"rating/fold{fold}/{measurement}/gt{threshold}/{replica}"
            for fold, measurement, threshold, replica in itertools.product(
                range(5), MEASUREMENTS, range(3), "ab"
            )
        }
        assert len(names) == 60
        assert {spec.name for stage in found for spec in stage.networks if spec.scoring} == names
        assert all(stage.alternatives == () for stage in found)

    def test_names_are_unique_and_folds_targets_and_replicas_are_what_they_say(self) -> None:
        specs = [spec for stage in stages(configured()) for spec in stage.networks]
        assert len({spec.name for spec in specs}) == len({spec.identity for spec in specs}) == 121
        for spec in specs:
            if spec.name != JIGSAW:
                place = f"rating/fold{spec.fold}/{spec.target.measurement}/gt{spec.target.threshold}"
                assert spec.name.startswith(f"{place}/{'ab'[spec.replica]}")

    def test_the_published_puzzles(self) -> None:
        (puzzle,) = stages(configured())[0].networks
        assert (puzzle.name, puzzle.images, puzzle.scoring, puzzle.fold) == (JIGSAW, ("gs",), False, -1)
        assert (puzzle.target.kind, puzzle.target.classes) == ("permutation", 1000)
        assert puzzle.jigsaw is not None
        assert (puzzle.jigsaw.image_px, puzzle.jigsaw.tile_px) == (225, 64)
        assert training(puzzle).sampling == "shuffled"  # a puzzle has no class to balance

    def test_f_and_g_start_from_the_puzzles_and_vascularity_does_not(self) -> None:
        features = stages(configured())[1].networks
        for spec in features:
            sources = [piece.network for piece in spec.pieces]
            assert sources == ([JIGSAW] if spec.target.measurement == "hypertrophy" else [])
            assert spec.frozen == ()

    def test_h_stands_on_its_own_frozen_f_and_g(self) -> None:
        _, features, fusion = stages(configured())
        known = {spec.name: spec for spec in features.networks}
        for head in fusion.networks:
            assert head.target.measurement == "hypertrophy"
            assert [piece.part for piece in head.frozen] == ["backbones.0", "backbones.1"]
            for piece, image in zip(head.frozen, ("gs", "doppler"), strict=True):
                assert piece.network is not None
                extractor = known[piece.network]
                assert extractor.images == (image,)
                assert (extractor.fold, extractor.replica, extractor.target) == (
                    head.fold,
                    head.replica,
                    head.target,
                )

    @pytest.mark.parametrize("image", ["gs", "doppler"])
    def test_f_and_g_are_the_networks_of_the_ablations_with_one_image(self, image: str) -> None:
        ours = {spec.identity for spec in stages(configured())[1].networks}
        alone = scoring(configured("rating", f'measurements.hypertrophy.images=["{image}"]'))
        assert len(alone) == 60
        assert {spec.identity for spec in alone} <= ours

    def test_vascularity_from_both_images_is_fused_too(self) -> None:
        found = stages(configured("rating", 'measurements.vascularity.images=["gs", "doppler"]'))
        assert [len(stage.networks) for stage in found] == [1, 120, 60]

    def test_trained_jointly_there_is_one_stage_of_grades(self) -> None:
        (puzzles, grades) = stages(configured("rating", "rating.fusion=joint"))
        assert (puzzles.name, grades.name, len(grades.networks)) == ("jigsaw", "scoring", 60)
        fused = [spec for spec in grades.networks if len(spec.images) == 2]
        assert [piece.part for piece in fused[0].pieces] == ["backbones.0", "backbones.1"]

    def test_without_pretraining_nothing_starts_from_puzzles(self) -> None:
        found = stages(configured("rating", "rating.pretraining=none"))
        assert [stage.name for stage in found] == ["features", "fusion"]
        assert all(spec.pieces == () for spec in found[0].networks)

    def test_fewer_models_are_the_first_folds(self) -> None:
        few = stages(configured("rating", "rating.models=2"))
        assert {spec.fold for spec in few[-1].networks} == {0, 1}

    def test_all_networks_of_a_stage_have_the_same_rounds(self) -> None:
        for stage in stages(configured("rating_small")):
            assert len({spec.rounds for spec in stage.networks}) == 1

    def test_a_stage_trains_as_its_section_says(self) -> None:
        puzzles, features, fusion = stages(configured("rating_small"))
        settings = configured("rating_small")
        assert training(puzzles.networks[0]).learning_rate == settings.rating.jigsaw.learning_rate
        assert puzzles.networks[0].rounds == settings.rating.jigsaw.rounds
        assert {spec.training for spec in features.networks} == {None}
        assert {training(spec).learning_rate for spec in fusion.networks} == {
            settings.rating.head.learning_rate
        }
        assert {spec.rounds for spec in fusion.networks} == {settings.rating.head.rounds}


class TestTies:
    """An answer is a tie where a rule about ties chose it: between weights, or between code words."""

    def decided(self, yes: Callable[[NetworkSpec], float], *overrides: str) -> Scores:
        settings = configured("rating", *overrides)
        return decided(answers(scoring(settings), lambda s: [yes(s)]), settings)

    def test_two_models_that_disagree(self) -> None:
        scores = self.decided(lambda s: threshold(s) <= s.fold, "rating.models=2")
        assert scores.votes.tolist() == [[[1, 1], [2, 2]]]
        assert (scores.decision.tolist(), scores.tie.tolist()) == ([[1, 1]], [True])

    def test_two_models_that_agree(self) -> None:
        scores = self.decided(lambda s: s.target.threshold == 0, "rating.models=2")
        assert (scores.decision.tolist(), scores.tie.tolist()) == ([[1, 1]], [False])

    def test_a_code_word_half_way_between_two_in_the_only_model(self) -> None:
        scores = self.decided(lambda s: s.replica == 0 and s.target.threshold == 0, "rating.models=1")
        assert (scores.decision.tolist(), scores.weight.tolist()) == ([[0, 0]], [1])
        assert scores.runner_up_weight.tolist() == [0]
        assert scores.tie.tolist() == [True]

    def test_a_code_word_half_way_that_is_outvoted_is_none(self) -> None:
        """Of three models one is half-way between 0 and 1, and two say 0."""
        scores = self.decided(
            lambda s: s.fold == 0 and s.replica == 0 and s.target.threshold == 0, "rating.models=3"
        )
        assert (scores.decision.tolist(), scores.tie.tolist()) == ([[0, 0]], [False])

    def test_of_a_majority(self) -> None:
        disagree = self.decided(
            lambda s: threshold(s) <= s.fold, "rating.models=2", "rating.decision=majority"
        )
        agree = self.decided(lambda s: True, "rating.models=2", "rating.decision=majority")
        assert (disagree.tie.tolist(), agree.tie.tolist()) == ([True], [False])

    def test_votes_that_have_no_rule_about_ties(self) -> None:
        settings = configured("christensen")
        outputs = answers(scoring(settings), lambda s: [0.9, 0.1])
        assert decided(outputs, settings).tie.tolist() == [False, False]


class TestRatingVotes:
    def test_votes_are_the_grades_that_the_bits_encode_in_any_order(self) -> None:
        settings = configured()
        generator = np.random.default_rng(0)
        grades = generator.integers(0, 4, size=(20, 5, 2))
        outputs = answers(
            scoring(settings),
            lambda s: grades[:, s.fold, MEASUREMENTS.index(s.target.measurement)] > threshold(s),
        )
        generator.shuffle(outputs)
        np.testing.assert_array_equal(Rating().votes(outputs, settings), grades)

    def test_all_answers_of_one_model_as_by_hand(self) -> None:
        """Nearest of 000, 100, 110, 111, twice each, a tie to the lower (Zhou et al. 2022)."""
        settings = configured("rating", "rating.models=1", "measurements.hypertrophy.grades=4")
        bits = np.array(list(itertools.product([0, 1], repeat=6)))
        words = np.tile(np.tri(4, 3, -1), 2)
        nearest = np.abs(bits[:, None] - words).sum(axis=2).argmin(axis=1)
        outputs = answers(scoring(settings), lambda s: bits[:, 3 * s.replica + threshold(s)])
        votes = Rating().votes(outputs, settings)
        np.testing.assert_array_equal(votes[:, 0, 0], nearest)
        np.testing.assert_array_equal(votes[:, 0, 1], nearest)

    def test_a_single_yes_of_one_replica_ties_to_the_lower_grade(self) -> None:
        settings = configured("rating", "rating.models=1")
        outputs = answers(scoring(settings), lambda s: [s.replica == 0 and s.target.threshold == 0])
        assert Rating().votes(outputs, settings).tolist() == [[[0, 0]]]

        assert Rating().votes_upwards(outputs, settings).tolist() == [[[1, 1]]]

    @pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.9])
    def test_a_probability_at_its_threshold_is_a_yes(self, threshold: float) -> None:
        settings = configured("rating", "rating.models=1", "rating.replicas=1")
        below = np.nextafter(np.float32(threshold), np.float32(0))
        outputs = answers(scoring(settings), lambda s: [threshold, below], threshold=threshold)
        assert Rating().votes(outputs, settings).tolist() == [[[3, 3]], [[0, 0]]]

    def test_each_network_has_its_own_threshold(self) -> None:
        settings = configured("rating", "rating.models=1", "rating.replicas=1")
        outputs = answers(scoring(settings), lambda s: [0.4])
        strict = [
            replace(o, threshold=0.3 if o.spec.target.measurement == "hypertrophy" else 0.5) for o in outputs
        ]
        assert Rating().votes(strict, settings).tolist() == [[[3, 0]]]

    def test_without_codes_the_most_probable_grade_of_the_replicas_mean_is_voted(self) -> None:
        settings = configured("rating", "rating.codes=classes", "rating.models=1")
        specs = scoring(settings)
        assert {spec.name for spec in specs} == {
            f"rating/fold0/{measurement}/grades/{replica}" for measurement in MEASUREMENTS for replica in "ab"
        }
        assert {spec.target.classes for spec in specs} == {4}
        either = np.array([[[0.0, 0.6, 0.4, 0.0]], [[0.0, 0.1, 0.5, 0.4]]], dtype=np.float32)
        outputs = [Output(spec=s, probabilities=either[s.replica], threshold=0.5) for s in specs]
        assert Rating().votes(outputs, settings).tolist() == [[[2, 2]]]

    def test_soft_votes_the_surer_model_decides_what_would_be_a_tie(self) -> None:
        settings = configured("rating", "rating.models=2", "rating.votes=soft")
        sure = {
            0: [0.95, 0.9, 0.95],
            1: [0.9, 0.4, 0.1],
        }  # one says 3 of each measurement, the other hardly 1
        outputs = answers(scoring(settings), lambda s: [sure[s.fold][threshold(s)]])
        scores = decided(outputs, settings)
        assert scores.votes.tolist() == [[[3, 3], [1, 1]]]
        assert (scores.decision.tolist(), scores.majority.tolist()) == ([[3, 3]], [[3, 3]])
        assert (scores.tie.tolist(), scores.contested.tolist()) == ([False], [False])
        hard = decided(outputs, configured("rating", "rating.models=2"))
        assert (hard.decision.tolist(), hard.tie.tolist()) == ([[1, 1]], [True])

    def test_soft_votes_count_from_the_threshold_and_answer_what_can_be(self) -> None:
        settings = configured("rating", "rating.models=1", "rating.votes=soft")
        says = {"hypertrophy": 0.18, "vascularity": 0.35}
        outputs = answers(
            scoring(settings), lambda s: [says[s.target.measurement] * 0.5 ** threshold(s)], threshold=0.2
        )
        scores = decided(outputs, settings)
        assert (scores.votes.tolist(), scores.majority.tolist()) == ([[[0, 1]]], [[0, 1]])
        assert (scores.decision.tolist(), scores.contested.tolist()) == ([[1, 1]], [True])

    def test_soft_votes_without_codes_are_the_mean_over_the_replicas(self) -> None:
        settings = configured("rating", "rating.codes=classes", "rating.models=1", "rating.votes=soft")
        either = np.array([[[0.0, 0.75, 0.25, 0.0]], [[0.0, 0.25, 0.5, 0.25]]], dtype=np.float32)
        outputs = [Output(spec=s, probabilities=either[s.replica], threshold=0.5) for s in scoring(settings)]
        shares = Rating().shares(outputs, settings)
        assert [each.tolist() for each in shares] == [[[[0.0, 0.5, 0.375, 0.125]]]] * 2

    def test_no_exams_no_votes(self) -> None:
        settings = configured("rating", "rating.models=2")
        outputs = answers(scoring(settings), lambda s: np.zeros(0))
        scores = decided(outputs, settings)
        assert (scores.votes.shape, scores.tie.shape) == ((0, 2, 2), (0,))

    def test_a_measurement_without_networks_is_an_error(self) -> None:
        settings = configured("rating", "rating.models=2")
        outputs = answers(scoring(settings), lambda s: [1.0])
        kept = [o for o in outputs if (o.spec.fold, o.spec.target.measurement) != (1, "vascularity")]
        with pytest.raises(ConfigurationError, match="model 1 for vascularity"):
            Rating().votes(kept, settings)

    def test_a_measurement_of_two_grades_needs_one_bit(self) -> None:
        settings = configured(
            "rating", "validity=any", "measurements={flow={grades=2, images=['doppler']}}",
            "rating.models=1", "rating.replicas=1", "rating.jigsaw.measurements=[]",
        )  # fmt: skip
        outputs = answers(scoring(settings), lambda s: [0.9, 0.1])
        assert Rating().votes(outputs, settings).tolist() == [[[1]], [[0]]]
        assert Rating().scores(settings) == {"flow": 2}


class TestAndersen:
    def test_as_published_a_logistic_regression_on_vgg16_and_a_classifier_on_each_mixed_layer(self) -> None:
        layers, ensemble = stages(configured("andersen"))
        binary, *candidates = layers.networks
        assert (binary.backbone, binary.target.threshold, binary.target.measurement) == ("vgg16", 1, COMBINED)
        assert binary.images == ("doppler",)
        assert [spec.layer for spec in candidates] == list(range(11))
        assert {(spec.backbone, spec.target.kind, spec.target.classes) for spec in candidates} == {
            ("inception_v3", "nominal", 4)
        }
        assert not any(spec.scoring for spec in candidates)
        assert len(ensemble.networks) == 10
        for spec in (*layers.networks, *ensemble.networks):
            assert [(p.part, p.network, p.frozen) for p in spec.pieces] == [("backbone", None, True)]

    def test_the_ensemble_differs_in_its_training_alone(self) -> None:
        _, ensemble = stages(configured("andersen"))
        trained = [training(spec) for spec in ensemble.networks]
        trainings = {(settings.learning_rate, settings.batch_size) for settings in trained}
        assert len(trainings) == len({spec.replica for spec in ensemble.networks}) == 10
        assert {spec.layer for spec in ensemble.networks} == {ensemble.networks[0].layer}

    @pytest.mark.parametrize("best", [0, 4, 10])
    def test_the_layer_of_the_highest_validation_accuracy_is_kept_whatever_its_auc(self, best: int) -> None:
        settings = configured("andersen")
        results = {
            f"andersen/combined/layer{i}": NetworkResult(
                best_round=1,
                auc=math.nan if i == 2 else 0.9 - 0.1 * (i == best),
                threshold=0.5,
                accuracy=None if i == 2 else 0.6 + 0.01 * (i == best),
            )
            for i in range(11)
        }
        _, ensemble = stages(settings, results)
        assert {spec.layer for spec in ensemble.networks} == {best}
        assert {spec.layer for spec in ensemble.alternatives} == set(range(11)) - {best}

    def test_without_any_validation_the_first_layer_is_kept(self) -> None:
        settings = configured("andersen")
        results = {
            f"andersen/combined/layer{i}": NetworkResult(best_round=1, auc=math.nan, threshold=0.5)
            for i in range(11)
        }
        assert {spec.layer for spec in stages(settings, results)[1].networks} == {0}

    def test_a_site_that_agrees_to_the_plan_knows_every_network_that_may_be_asked_for(self) -> None:
        settings = configured("andersen")
        known = networks(settings)
        assert len(known) == 1 + 11 + 110
        for best in range(11):
            result = {
                f"andersen/combined/layer{best}": NetworkResult(
                    best_round=1, auc=0.9, threshold=0.5, accuracy=0.7
                )
            }
            asked = [spec for stage in stages(settings, result) for spec in stage.networks]
            assert all(known[spec.name] == spec for spec in asked)

    def test_features_of_a_random_network_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"imagenet.*trained"):
            stages(configured("andersen", "network.weights=none"))

    def test_trained_encoders_need_no_pretrained_weights_and_small_ones_have_three_layers(self) -> None:
        layers, ensemble = stages(configured("andersen", "network.weights=none", *TRAINED))
        assert [spec.layer for spec in layers.networks] == [None, 0, 1, 2]
        assert all(spec.pieces == () for spec in (*layers.networks, *ensemble.networks))

    def test_each_classifier_votes_and_the_binary_network_does_not(self) -> None:
        settings = configured("andersen")
        layers, ensemble = stages(settings)
        grades = np.random.default_rng(0).integers(0, 4, size=(10, 6))
        outputs = answers(layers.networks[:1], lambda s: np.ones(6)) + [
            Output(spec=s, probabilities=np.eye(4, dtype=np.float32)[grades[s.replica]], threshold=0.5)
            for s in ensemble.networks
        ]
        votes = Andersen().votes(outputs, settings)
        np.testing.assert_array_equal(votes[:, :, 0], grades.T)
        assert Andersen().scores(settings) == {COMBINED: 4}

    def test_mean_probabilities_decide_or_if_asked_for_the_plurality(self) -> None:
        settings = configured("andersen")
        _, ensemble = stages(settings)
        sure, torn = np.array([[0, 0, 1, 0]], np.float32), np.array([[0, 0.5, 0.45, 0.05]], np.float32)
        outputs = [
            Output(spec=s, probabilities=sure if s.replica < 4 else torn, threshold=0.5)
            for s in ensemble.networks
        ]
        scores = decided(outputs, settings)
        assert scores.decision.tolist() == [[2]], "0.67 on the mean"
        assert scores.votes[0, :, 0].tolist() == [2] * 4 + [1] * 6
        plurality = configured("andersen", "andersen.votes=plurality")
        assert decided(outputs, plurality).decision.tolist() == [[1]]


class TestChristensen:
    def test_one_network_a_step_from_the_doppler_image(self) -> None:
        (cascade,) = stages(configured("christensen"))
        assert [(s.name, s.target.threshold, s.target.at_least) for s in cascade.networks] == [
            ("christensen/combined/gt0", 0, 0),
            ("christensen/combined/gt1", 1, 1),
            ("christensen/combined/gt2", 2, 2),
        ]
        assert {spec.images for spec in cascade.networks} == {("doppler",)}

    def test_the_grade_is_the_number_of_steps_that_say_more_before_one_does_not(self) -> None:
        settings = configured("christensen")
        bits = np.array(list(itertools.product([0, 1], repeat=3)))
        outputs = answers(scoring(settings), lambda s: bits[:, s.target.threshold])
        expected = [0, 0, 0, 0, 1, 1, 2, 3]  # 000 001 010 011 100 101 110 111
        votes = Christensen().votes(outputs[::-1], settings)
        assert votes[:, 0, 0].tolist() == expected
        assert votes.shape == (8, 1, 1)

    def test_each_step_has_its_own_threshold_and_reaching_it_is_more(self) -> None:
        settings = configured("christensen")
        outputs = answers(scoring(settings), lambda s: [0.3], threshold=0.3)
        assert Christensen().votes(outputs, settings).tolist() == [[[3]]]
        later = [replace(o, threshold=0.4) if o.spec.target.threshold == 1 else o for o in outputs]
        assert Christensen().votes(later, settings).tolist() == [[[1]]]

    def test_a_later_step_learns_from_exams_of_at_least_its_grade(self) -> None:
        data = make_exams()
        hypertrophy = data.grades["hypertrophy"].clone()
        hypertrophy[:8] = MISSING
        data = replace(data, grades={**data.grades, "hypertrophy": hypertrophy})
        combined = torch.where(
            hypertrophy == MISSING, MISSING, torch.maximum(hypertrophy, data.grades["vascularity"])
        )
        specs = scoring(configured("christensen"))
        assert len(specs) == 3
        for step, spec in enumerate(specs):
            classes = labels(data, spec)
            taken = combined >= step
            assert (classes[~taken] == MISSING).all()
            assert torch.equal(classes[taken], (combined[taken] > step).long())
            assert {0, 1} == set(classes[taken].tolist())
            for exams in (training_exams(data, spec), validation_exams(data, spec)):
                assert len(exams)
                assert taken[exams].all()

    def test_any_other_examination_is_graded_by_its_first_measurement(self) -> None:
        settings = configured(
            "christensen", "validity=any", "measurements={steatosis={grades=3, images=['gs']}}"
        )
        assert [spec.name for spec in scoring(settings)] == [
            "christensen/steatosis/gt0",
            "christensen/steatosis/gt1",
        ]
        assert Christensen().scores(settings) == {"steatosis": 3}


def test_a_method_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="'schlereht'"):
        method("schlereht")


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("rating", (), True),
        ("rating_small", (), True),
        ("rating_small", ("rating.pretraining=none",), False),
        ("rating_small", ("privacy.noise_multiplier=1.0", "privacy.patients=100",
                          "federation.optimiser_state=fresh"), False),
        ("quickstart", (), False),
        ("andersen", TRAINED, False),
        ("rating_small", ("method=christensen",), False),
    ],
)  # fmt: skip
def test_puzzles_alone_learn_without_grades(name: str, overrides: tuple[str, ...], expected: bool) -> None:
    assert learns_without_grades(configured(name, *overrides)) is expected
