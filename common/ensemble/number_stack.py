"""Numbers that several networks tell, and that become one as sites' out-of-fold sums say.

See :mod:`common.ensemble.stacked_regression`. The weights stand in what the centre signs of an ensemble and in a
run's ``manifest.json``, so that whoever asks the ensemble gets the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from common.ensemble.stacked_regression import NormalSums, Stack, solve
from common.methods.stages import Output, Stacks, method, stacked
from common.networks.spec import NetworkSpec, without_fold
from common.sections.measurements import NumberSettings
from common.sections.section import Section
from common.settings import Settings


class NumberStack(Section):
    """How one number comes of its networks."""

    weights: Mapping[str, float]
    """Network, named without its fold, whose answers of several folds are averaged -> its weight."""
    intercept: float
    """As a share of the number's range."""

    @property
    def stack(self) -> Stack:
        """To be applied to answers in the order of :attr:`weights`."""
        return Stack(weights=np.array(list(self.weights.values())), intercept=self.intercept)


def solved(
    sums: Mapping[str, NormalSums], specs: Iterable[NetworkSpec], settings: Settings
) -> dict[str, NumberStack]:
    """Number -> its stack; none of a number of which no sums came: its networks' mean is taken.

    Args:
        sums: as :func:`common.methods.stages.stacked` names them, over all sites.
        specs: the networks of the campaign.
        settings: of the campaign.
    """
    chosen = method(settings.method)
    assert isinstance(chosen, Stacks) or not sums, "sums are of a method that stacks"
    total: dict[str, NormalSums] = {}
    columns: dict[str, tuple[str, ...]] = {}
    for name, members in stacked(specs, settings).items():
        if name not in sums:
            continue
        number = members[0].target.measurement
        total[number] = total[number] + sums[name] if number in total else sums[name]
        columns[number] = tuple(without_fold(spec.name, spec.fold) for spec in members)
    found = {}
    for number, of_number in total.items():
        assert isinstance(chosen, Stacks)
        stack = solve(of_number, ridge=chosen.ridge(settings))
        weights = dict(zip(columns[number], map(float, stack.weights), strict=True))
        found[number] = NumberStack(weights=weights, intercept=stack.intercept)
    return found


def numbers(
    outputs: Sequence[Output], stacks: Mapping[str, NumberStack], settings: Settings
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Number -> the one number of each exam, in its own unit, of those that are stacked.

    Args:
        outputs: of all networks that were asked; each network of a stack in at least one fold.
        stacks: by number.
        settings: of the campaign.
    """
    return {name: _number(name, outputs, stack, settings) for name, stack in stacks.items()}


def _number(
    name: str, outputs: Sequence[Output], stack: NumberStack, settings: Settings
) -> Float64[np.ndarray, " n"]:
    by_network: dict[str, list[Float64[np.ndarray, " n"]]] = {}
    for output in outputs:
        spec = output.spec
        if spec.target.kind == "regression" and spec.target.measurement == name:
            shares = output.probabilities[:, 0].astype(np.float64)
            by_network.setdefault(without_fold(spec.name, spec.fold), []).append(shares)
    means = [np.mean(by_network[network], axis=0) for network in stack.weights]
    return in_units(stack.stack(np.stack(means, axis=1)), settings.numbers[name])


def in_units(
    shares: Float64[np.ndarray, "*shape"], of_range: NumberSettings
) -> Float64[np.ndarray, "*shape"]:
    """Numbers in their own unit, of shares of their range."""
    return np.asarray(of_range.smallest + shares * (of_range.largest - of_range.smallest))
