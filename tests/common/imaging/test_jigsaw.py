from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.imaging import jigsaw
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.sections.methods import JigsawSettings
from common.sections.training import TrainingSettings
from common.training.data import ExamTensors
from common.training.inputs import inputs, labels
from common.training.local import accuracy, train_network
from common.training.local_settings import LocalSettings
from tests.exam_tensors import IMAGES, NETWORK, make_exams

PUBLISHED = JigsawSettings()
SMALL = JigsawSettings(image_px=48, tile_px=12, permutations=6)
SPEC = NetworkSpec(
    name="rating/jigsaw",
    images=("gs",),
    target=Target(measurement="gs", kind="permutation", threshold=None, classes=SMALL.permutations),
    jigsaw=SMALL,
    scoring=False,
)


def pictures(count: int = 3, px: int = 48) -> Tensor:
    return torch.rand((count, 3, px, px), generator=torch.Generator().manual_seed(0))


def local(**training: object) -> LocalSettings:
    defaults = {"batch_size": 16, "local_steps": 40, "learning_rate": 4e-3, "sampling": "shuffled"}
    return LocalSettings(
        spec=SPEC,
        images=IMAGES,
        network=NETWORK,
        training=TrainingSettings.model_validate(defaults | training),
        rounds=1,
    )


def smallest_distance(rows: Tensor) -> int:
    return min(int((a != b).sum()) for a, b in combinations(rows, 2))


class TestPermutations:
    @pytest.mark.parametrize("count", [2, 24, 100])
    def test_each_is_a_permutation_and_no_two_are_equal(self, count: int) -> None:
        found = jigsaw.permutations(count)
        assert found.shape == (count, 9)
        assert torch.equal(found.sort(dim=1).values, torch.arange(9).expand(count, 9))
        assert len(found.unique(dim=0)) == count

    def test_a_larger_set_begins_with_a_smaller(self) -> None:
        assert torch.equal(jigsaw.permutations(100)[:24], jigsaw.permutations(24))

    def test_the_set_is_the_same_on_every_machine(self) -> None:
        """Seen with numpy 2.4; another set would make sites and centre of two versions disagree without notice."""
        assert jigsaw.permutations(3).tolist() == [
            [1, 0, 4, 3, 2, 8, 5, 7, 6],
            [2, 7, 0, 4, 5, 3, 8, 6, 1],
            [5, 8, 3, 6, 1, 2, 0, 4, 7],
        ]

    def test_up_to_nine_differ_in_every_place(self) -> None:
        assert smallest_distance(jigsaw.permutations(9)) == 9

    @pytest.mark.parametrize("count", [24, 100])
    def test_they_are_farther_apart_than_a_random_set(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        random = torch.stack([torch.randperm(9, generator=generator) for _ in range(count)])
        assert smallest_distance(jigsaw.permutations(count)) > smallest_distance(random) + 1

    @pytest.mark.parametrize("chosen", [12])
    def test_no_other_permutation_is_farther_from_those_before_it(self, chosen: int) -> None:
        """The greedy rule, tried against all 362,880 (Noroozi and Favaro 2016, algorithm 1)."""
        found = jigsaw.permutations(chosen + 1).to(torch.uint8)
        every = torch.tensor(list(permutations(range(9))), dtype=torch.uint8)
        gaps = torch.stack([(every != one).sum(dim=1) for one in found[:chosen]]).amin(dim=0)
        assert (found[chosen] != found[:chosen]).sum(dim=1).min() == gaps.max()


class TestOffsets:
    def test_every_place_of_the_cell_is_drawn_and_none_outside(self) -> None:
        offsets = jigsaw.draw_offsets(500, PUBLISHED, torch.Generator().manual_seed(0))
        assert offsets.shape == (500, 9, 2)
        assert set(offsets.flatten().tolist()) == set(range(225 // 3 - 64 + 1))

    def test_the_same_generator_draws_the_same(self) -> None:
        one, other = (jigsaw.draw_offsets(4, SMALL, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, other)

    def test_central_tiles_leave_as_much_on_either_side(self) -> None:
        assert set(jigsaw.central_offsets(2, SMALL).flatten().tolist()) == {(16 - 12) // 2}

    def test_a_tile_that_fills_its_cell_has_one_place(self) -> None:
        full = JigsawSettings(image_px=48, tile_px=16, permutations=6)
        assert not jigsaw.draw_offsets(20, full, torch.Generator().manual_seed(0)).any()


class TestTiles:
    def cut(
        self, whole: Tensor, *, seed: int = 0, settings: JigsawSettings = SMALL
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        offsets = jigsaw.draw_offsets(len(whole), settings, generator)
        order = torch.stack([torch.randperm(9, generator=generator) for _ in whole])
        return jigsaw.tiles(whole, settings, offsets=offsets, order=order), offsets, order

    def test_they_are_the_pixels_of_their_cells_in_the_order_asked_for(self) -> None:
        whole = pictures()
        got, offsets, order = self.cut(whole)
        assert got.shape == (3, 9, 3, 12, 12)
        for picture in range(3):
            for place in range(9):
                cell = int(order[picture, place])
                # offsets are drawn by place in the sequence, corners by the cell the tile comes from
                top = 16 * (cell // 3) + int(offsets[picture, cell, 0])
                left = 16 * (cell % 3) + int(offsets[picture, cell, 1])
                tile = whole[picture, :, top : top + 12, left : left + 12]
                expected = (tile - tile.mean()) / tile.std()
                torch.testing.assert_close(got[picture, place], expected, rtol=1e-3, atol=1e-4)

    def test_each_is_of_mean_0_and_deviation_1(self) -> None:
        got, _, _ = self.cut(20 + 100 * pictures())
        torch.testing.assert_close(got.mean(dim=(2, 3, 4)), torch.zeros(3, 9), rtol=0, atol=1e-4)
        torch.testing.assert_close(got.std(dim=(2, 3, 4)), torch.ones(3, 9), rtol=0, atol=1e-3)

    def test_brightness_and_contrast_of_a_cell_do_not_tell_its_place(self) -> None:
        whole = pictures()
        gain = torch.linspace(0.5, 2, 9).view(1, 1, 3, 3)
        lit = whole * F.interpolate(gain, size=(48, 48), mode="nearest") + 3
        torch.testing.assert_close(self.cut(lit)[0], self.cut(whole)[0], rtol=1e-2, atol=1e-3)

    def test_a_black_tile_stays_finite(self) -> None:
        got, _, _ = self.cut(torch.zeros((1, 3, 48, 48)))
        assert torch.equal(got, torch.zeros_like(got))

    def test_pictures_of_another_size_are_resized_first(self) -> None:
        whole = pictures(px=64)
        resized = F.interpolate(whole, size=(48, 48), mode="bilinear", align_corners=False)
        torch.testing.assert_close(self.cut(whole)[0], self.cut(resized)[0], rtol=1e-4, atol=1e-5)


class TestNetwork:
    def test_a_puzzle_needs_no_grade(self) -> None:
        data = make_exams()
        assert labels(data, SPEC).tolist() == [0] * len(data)

    def test_scoring_puzzles_are_the_same_each_time_and_of_every_permutation(self) -> None:
        data, exams = make_exams(), torch.arange(12)
        (one,), classes = inputs(data, exams, labels(data, SPEC)[exams], local(), generator=None)
        (other,), _ = inputs(data, exams, labels(data, SPEC)[exams], local(), generator=None)
        assert torch.equal(one, other)
        assert classes.tolist() == [*range(6), *range(6)]

    def test_it_learns_to_put_the_tiles_of_unseen_pictures_in_order(self) -> None:
        data, settings = graded_by_place(), local(local_steps=120)
        start = build.initial_weights(SPEC, NETWORK, seed=0)
        trained = start + train_network(start, {}, data, settings, 1, 0)[0].update
        held_out = torch.nonzero(data.fold == -1).flatten()
        assert accuracy(start, data, held_out, settings) < 0.5
        assert accuracy(trained, data, held_out, settings) > 0.9


def graded_by_place() -> ExamTensors:
    """Pictures whose texture changes from cell to cell, so that a tile alone tells where it comes from."""
    data = make_exams(60)
    stripes = torch.zeros_like(data.images["gs"])
    side = stripes.shape[-1]
    rows = torch.arange(side).view(side, 1) * 3 // side
    columns = torch.arange(side).view(1, side) * 3 // side
    ruler = torch.arange(side)
    across = (ruler.view(1, side) // (1 + columns) % 2) * 90
    down = (ruler.view(side, 1) // (1 + rows) % 2) * 90
    stripes += (across + down).to(torch.uint8)
    return type(data)(
        images={**data.images, "gs": stripes + data.images["gs"] // 4},
        grades=data.grades,
        fold=data.fold,
        patient=data.patient,
    )
