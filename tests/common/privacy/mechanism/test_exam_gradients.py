"""Gradients exam by exam, against automatic differentiation of each exam alone, in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigurationError
from common.networks.layout import layout_of
from common.privacy.mechanism.exam_gradients import ExamGradients

LAST = torch.channels_last


class Scaled(nn.Module):
    """A layer of one's own, asked twice, with a parameter of no dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Network(nn.Module):
    def __init__(self, *layers: nn.Module, pictures_an_exam: int = 1) -> None:
        super().__init__()
        self.layers, self.pictures_an_exam = nn.Sequential(*layers), pictures_an_exam

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        answered: Tensor = self.layers(pictures[0])
        exams: Tensor = answered.flatten(1).unflatten(0, (-1, self.pictures_an_exam))
        return exams.flatten(1)


def loss_of(answers: Tensor) -> Tensor:
    return answers.square().sum()


TWICE = Scaled()
LAYERS = {
    "stem": ([nn.Conv2d(3, 8, 5, 2, 2, bias=False)], (3, 17, 13)),
    "groups": ([nn.Conv2d(4, 8, (3, 2), (2, 1), (1, 0), dilation=(2, 3), groups=2)], (4, 17, 13)),
    "by depth": ([nn.Conv2d(4, 8, (3, 2), (3, 1), 1, groups=4, padding_mode="circular")], (4, 9, 7)),
    "same": ([nn.Conv2d(4, 8, 3, padding="same", dilation=2)], (4, 9, 7)),
    "wide steps": ([nn.Conv2d(4, 2, 1, 3)], (4, 9, 7)),
    "one axis": ([nn.Conv1d(4, 8, 3, 2)], (4, 17)),
    "three axes": ([nn.Conv3d(2, 4, 3, 2, 1)], (2, 7, 9, 5)),
    "norms": ([nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm([4, 5, 5])], (3, 7, 7)),
    "others": ([nn.ConvTranspose2d(3, 2, 3, 2), nn.InstanceNorm2d(2, affine=True), nn.PReLU()], (3, 4, 4)),
    "in place": ([nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(100, 3)], (3, 7, 7)),
    "tokens": ([nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)], (6, 5)),
    "asked twice": ([TWICE, nn.Tanh(), TWICE], (6,)),
}


@pytest.mark.parametrize("pictures_an_exam", [1, 3])
@pytest.mark.parametrize(("layers", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_a_row_is_the_gradient_of_its_exam_alone(
    layers: list[nn.Module], shape: tuple[int, ...], pictures_an_exam: int
) -> None:
    network = Network(*layers, pictures_an_exam=pictures_an_exam).double()
    pictures = torch.randn(4 * pictures_an_exam, *shape, generator=torch.Generator().manual_seed(0)).double()
    gradients = ExamGradients(network, layout_of(network))
    for read in (pictures, pictures.contiguous(memory_format=LAST)) if len(shape) == 3 else (pictures,):
        rows = torch.ones(4, gradients.size, dtype=torch.float64)
        gradients.add_to(rows, [read], loss_of)
        for row, exam in zip(rows - 1, pictures.split(pictures_an_exam), strict=True):
            alone = torch.autograd.grad(loss_of(network([exam])), list(network.parameters()))
            torch.testing.assert_close(row, torch.cat([g.flatten() for g in alone]), rtol=1e-10, atol=1e-10)


def test_layers_that_do_not_answer_with_a_tensor_are_refused() -> None:
    network = Network(nn.LSTM(5, 4))
    gradients = ExamGradients(network, layout_of(network))
    with pytest.raises(ConfigurationError, match="LSTM"):
        gradients.add_to(torch.zeros(2, gradients.size), [torch.randn(2, 6, 5)], loss_of)
