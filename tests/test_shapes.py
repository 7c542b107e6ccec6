"""Arrays' shapes and arguments' types are checked while tests run, in each package and at every kind of function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
import torch
from jaxtyping import Float64, TypeCheckError

from client.rounds.unprotected import book
from common.imaging.augment import AugmentParameters, cut
from common.methods.stages import networks
from server.rounds.exchanges import packed
from simulation.evaluation.scorer import likeliness
from tests.shapes import checked

if TYPE_CHECKING:
    from decimal import Decimal

Pair = Float64[np.ndarray, " n"]
T = TypeVar("T")


def check(what: T) -> T:
    decorated: T = checked()(what)
    return decorated


@check
def added(one: Pair, other: Pair, *more: Pair, halved: bool = False) -> Float64[np.ndarray, " n"]:
    total: Pair = sum(more, one + other)
    return total[: len(total) // 2] if halved else total


def closure(times: float) -> Callable[..., Pair]:
    @check
    def scaled(one: Pair, other: Pair, **more: Pair) -> Pair:
        total: Pair = times * sum(more.values(), one + other)
        return total

    return scaled


@check
def generated(one: Pair, other: Pair) -> Iterator[float]:
    yield from one + other


@check
@dataclass(frozen=True, slots=True)
class Both:
    one: Pair
    other: Pair


class Kinds:
    @check
    def method(self, one: Pair, other: Pair) -> Pair:
        total: Pair = one + other
        return total

    @check
    @classmethod
    def of_class(cls, one: Pair, other: Pair) -> Pair:
        total: Pair = one + other
        return total

    @check
    @staticmethod
    def static(one: Pair, other: Pair) -> Pair:
        total: Pair = one + other
        return total

    def _wrong(self) -> Pair:
        return np.zeros((2, 2))

    wrong = check(property(_wrong))


@pytest.mark.parametrize(
    "function",
    [added, closure(2.0), generated, Both, Kinds().method, Kinds.of_class, Kinds.static],
    ids=["function", "closure", "generator", "dataclass", "method", "classmethod", "staticmethod"],
)
def test_an_axis_is_one_number_in_a_call_and_another_in_the_next(function: Callable[..., object]) -> None:
    for size in (2, 3):
        function(np.zeros(size), np.ones(size))
    with pytest.raises(TypeCheckError, match="other"):
        function(np.zeros(2), np.zeros(3))
    with pytest.raises(TypeCheckError, match="one"):
        function(np.zeros((2, 2)), np.zeros(2))


def test_what_stars_collect_and_what_comes_back_are_looked_at_too() -> None:
    assert np.array_equal(added(np.ones(2), np.ones(2), np.ones(2)), [3, 3])
    assert np.array_equal(closure(2.0)(np.ones(2), np.ones(2), third=np.ones(2)), [6, 6])
    for wrong in (
        lambda: added(np.ones(2), np.ones(2), np.ones(3)),
        lambda: closure(2.0)(np.ones(2), np.ones(2), third=np.ones(3)),
        lambda: added(np.ones(2), np.ones(2), halved=True),
        lambda: Kinds().wrong,
    ):
        with pytest.raises(TypeCheckError):
            wrong()


def test_types_that_are_no_arrays_are_looked_at_and_those_that_only_type_checkers_import_are_not() -> None:
    @check
    def of(exact: int, unknown: Decimal) -> int:
        return exact

    assert of(1, None) == 1  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        of("1", None)  # type: ignore[arg-type]


def test_shapes_of_the_product_are_looked_at() -> None:
    one = torch.ones(3)
    parameters = AugmentParameters(theta=torch.zeros(3, 2, 3), brightness=one, contrast=one)
    with pytest.raises(TypeCheckError, match="side"):
        cut(torch.zeros(3, 1, 8, 9), parameters, image_px=4)


@pytest.mark.parametrize(
    "function", [networks, book, packed, likeliness], ids=["common", "client", "server", "simulation"]
)
def test_every_package_is_looked_at(function: Callable[..., object]) -> None:
    with pytest.raises(TypeCheckError):
        function(**dict.fromkeys(signature(function).parameters, "nothing"))
