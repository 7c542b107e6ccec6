"""Updates that are far larger than the other sites'.

What it finds: a site whose learning rate, data or software is broken, and a crude attacker who scales its
update up to outweigh the rest. What it does not: an attacker who keeps to the others' norm, a direction that is
wrong at an ordinary length, or anything where half of the sites or more are off. An update that is small says
nothing here: it moves nothing.

It refuses the honest, too: a site whose patients or device really differ may train further than the others, and
every network of every round is one more chance to be wrong. Lengths of honest updates scatter by a factor, not
by an amount, so the rule compares their logarithms. For five sites whose log norms are normal with deviation
0.3, a tolerance of 6 refuses one in fewer than 1 of 1,000 rounds (0.6: 1 in 70), and catches an update of 20
times the length in 76 of 100 (0.1: always).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from common.aggregation.mean import CHUNK, UpdateSource
from common.errors import ConfigurationError

MINIMUM_SITES = 4
"""With three, the median and its deviation follow whichever two happen to be close."""

NORMAL_QUARTILE = 0.6744897501960817
"""Of the standard normal: half of it lies within, so the median absolute deviation over it is the deviation."""

SMALLEST_SPREAD = math.log(1.25)
"""Deviation of log norms that is taken at least: sites that agree within a quarter would else be split by chance."""


def update_norm(update: UpdateSource, *, size: int, chunk: int = CHUNK) -> float:
    """Euclidean norm of an update's leading ``size`` values, summed in float64, ``chunk`` of them at a time."""
    total = 0.0
    for start in range(0, size, chunk):
        values = update.read(start, min(start + chunk, size)).astype(np.float64)
        total += float(values @ values)
    return math.sqrt(total)


def outlying(norms: Mapping[str, float], *, tolerance: float) -> dict[str, str]:
    """The sites whose update of one network is far longer than the others', each with the reason.

    An update is outlying where log norm > median + tolerance x spread, the spread being 1.4826 x the median
    absolute deviation of the log norms (the standard deviation, were they normal) but at least
    ``SMALLEST_SPREAD``: so with a tolerance of 6 nothing shorter than 1.25^6 = 3.8 times the median is refused.

    Args:
        norms: site -> norm, of sites that trained; those of norm 0 are left out of the comparison.
        tolerance: spreads above the median, > 0.

    Returns:
        Site -> reason with its name and both lengths; empty where fewer than ``MINIMUM_SITES`` can be compared.

    Raises:
        ConfigurationError: if the tolerance is not positive.
    """
    if not tolerance > 0:
        raise ConfigurationError(f"Expected a tolerance > 0 for outlying updates, got {tolerance}")
    logs = {site: math.log(norm) for site, norm in norms.items() if norm > 0}
    if len(logs) < MINIMUM_SITES:
        return {}
    values = np.array(list(logs.values()))
    middle = float(np.median(values))
    spread = max(float(np.median(np.abs(values - middle))) / NORMAL_QUARTILE, SMALLEST_SPREAD)
    limit = middle + tolerance * spread
    return {
        site: f"the update of {site} has norm {norms[site]:.3g}, the median of {len(logs)} sites is "
        f"{math.exp(middle):.3g} and the limit {math.exp(limit):.3g}"
        for site, log in logs.items()
        if log > limit
    }
