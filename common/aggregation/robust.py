"""Rules that stand a minority of faulty or malicious sites: median, trimmed mean, Krum.

All are unweighted by nature: one site, one vote. A site's ``num_examples`` decides only whether it trained at
all (> 0), since a weight that a site states itself would hand an attacker the result. The price: a site of 20
exams counts as much as one of 2,000.

Guarantees, for n updates that count, f of them arbitrary (but finite: the engine refuses others before):

===============  ===================  ====================================================================
rule             needs                then every coordinate of the result
===============  ===================  ====================================================================
median           2 f < n              lies between the smallest and the largest honest value
trimmed mean     f <= floor(share n)  the same
Krum, f given    n >= 2 f + 3         is that of one update, which is honest if attackers lie further from
                                      every honest update than honest ones from each other
===============  ===================  ====================================================================

None of them notices an attacker who stays among the honest. And where sites differ honestly (devices, grades),
the odd one is what these rules leave out: robustness is paid for with what rare sites know.

Updates are read by chunks, so memory is the result plus one chunk per site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64

from common.aggregation.mean import Weighted, weighted_mean
from common.errors import CampaignError, ConfigurationError

CHUNK = 1 << 14
"""Parameters that are reduced at a time: twenty sites' share of it (1.3 MB) stays in cache while it is sorted."""

_Columns = Float32[np.ndarray, "chunk updates"]
_Reduced = Float64[np.ndarray, " chunk"]


def median(
    updates: Sequence[Weighted], *, size: int, chunk: int = CHUNK
) -> Float32[np.ndarray, " parameters"]:
    """Coordinate-wise median (Yin et al. 2018, definition 1); of an even number, the mean of the middle two.

    Args:
        updates: those of no exams are passed over, the others count alike.
        size: number of parameters.
        chunk: parameters reduced at a time; changes speed, not the result.

    Returns:
        The median, rounded once to float32, the same bits in any order of updates; zeros where none counts.
    """
    counted = _counted(updates)
    return _reduce(counted, _middle(len(counted), (len(counted) - 1) // 2), size=size, chunk=chunk)


def trimmed_mean(
    updates: Sequence[Weighted], *, share: float, size: int, chunk: int = CHUNK
) -> Float32[np.ndarray, " parameters"]:
    """Coordinate-wise mean without the smallest and largest values (Yin et al. 2018, definition 2).

    Args:
        updates: those of no exams are passed over, the others count alike.
        share: of the updates that is left out at *each* end, in (0, 0.5); floor(share * n) values.
        size: number of parameters.
        chunk: parameters reduced at a time; changes speed, not the result.

    Returns:
        The mean of the rest, rounded once to float32, the same bits in any order of updates; zeros where no
        update counts.

    Raises:
        ConfigurationError: if the share is out of range.
        CampaignError: if too few updates came to leave out one at each end: that would be the plain mean under
            another name.
    """
    if not 0 < share < 0.5:
        raise ConfigurationError(f"Expected a trimmed share in (0, 0.5), got {share}")
    counted = _counted(updates)
    cut = int(share * len(counted))
    if counted and cut == 0:
        raise CampaignError(
            f"Expected at least one update in a trimmed share of {share:g}, got {share:g} of {len(counted)} "
            f"updates: raise the share, or use the median"
        )
    return _reduce(counted, _middle(len(counted), cut), size=size, chunk=chunk)


def krum(
    updates: Sequence[Weighted], *, byzantine: int, size: int, selected: int = 1, chunk: int = CHUNK
) -> Float32[np.ndarray, " parameters"]:
    """Krum, and with ``selected`` > 1 multi-Krum (Blanchard et al. 2017, sections 3 and 5).

    Args:
        updates: those of no exams are passed over, the others count alike.
        byzantine: f, the number of attackers to stand.
        size: number of parameters.
        selected: m, how many of the best updates are averaged, 1 .. n - f (with more, an attacker is sure to
            be among them).
        chunk: parameters read at a time; the distances' last bits depend on it.

    Returns:
        The update of the lowest score, unchanged, or the mean of the ``selected`` lowest; ties go to the
        earlier in order. Zeros where no update counts.

    Raises:
        ConfigurationError: if ``byzantine`` < 0 or ``selected`` < 1.
        CampaignError: if fewer than 2 f + 3 or than m + f updates count.
    """
    chosen = krum_selection(updates, byzantine=byzantine, size=size, selected=selected, chunk=chunk)
    return weighted_mean([replace(updates[i], num_examples=1) for i in chosen], size=size, chunk=chunk)


def krum_selection(
    updates: Sequence[Weighted], *, byzantine: int, size: int, selected: int = 1, chunk: int = CHUNK
) -> tuple[int, ...]:
    """Which updates :func:`krum` averages: their places in ``updates``, in order. Arguments and errors as there."""
    if byzantine < 0 or selected < 1:
        raise ConfigurationError(
            f"Expected byzantine >= 0 and selected >= 1 for Krum, got {byzantine} and {selected}"
        )
    places = [place for place, update in enumerate(updates) if update.num_examples > 0]
    if not places:
        return ()
    needed = max(2 * byzantine + 3, byzantine + selected)
    if len(places) < needed:
        raise CampaignError(
            f"Expected at least {needed} updates for Krum with {byzantine} attackers and {selected} selected, "
            f"got {len(places)}: lower one of the two, or use the median"
        )
    distances = squared_distances([updates[place] for place in places], size=size, chunk=chunk)
    best = np.argsort(krum_scores(distances, byzantine=byzantine), kind="stable")[:selected]
    return tuple(sorted(places[i] for i in best))


def krum_scores(
    distances: Float64[np.ndarray, "updates updates"], *, byzantine: int
) -> Float64[np.ndarray, " updates"]:
    """Sum of an update's squared distances to its n - f - 2 nearest others (Blanchard et al. 2017, section 3)."""
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    nearest = np.sort(others, axis=1)[:, : len(others) - byzantine - 2]
    return np.asarray(nearest.sum(axis=1))


def squared_distances(
    updates: Sequence[Weighted], *, size: int, chunk: int = CHUNK
) -> Float64[np.ndarray, "updates updates"]:
    """Squared Euclidean distances between all pairs of updates, in float64.

    From differences and not from inner products, so that equal updates are at 0 exactly, and equally far from
    any third.
    """
    from scipy.spatial.distance import pdist, squareform  # noqa: PLC0415  takes long

    total = np.zeros(len(updates) * (len(updates) - 1) // 2)
    for start, stop in _chunks(size, chunk):
        rows = np.stack([update.source.read(start, stop) for update in updates])
        total += pdist(rows, "sqeuclidean")  # in float64, whatever comes
    return np.asarray(squareform(total))


def _counted(updates: Sequence[Weighted]) -> list[Weighted]:
    return [update for update in updates if update.num_examples > 0]


def _chunks(size: int, chunk: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + chunk, size)) for start in range(0, size, chunk))


def _middle(count: int, cut: int) -> Callable[[_Columns], _Reduced]:
    """The mean of the values that are left without the ``cut`` smallest and largest."""

    def mean(columns: _Columns) -> _Reduced:
        # Sorted whole: a partition would leave the middle in an order, and a sum, that depends on the sites'.
        middle = np.sort(columns, axis=1)[:, cut : count - cut]
        return np.asarray(middle.mean(axis=1, dtype=np.float64))

    return mean


def _reduce(
    updates: Sequence[Weighted], rule: Callable[[_Columns], _Reduced], *, size: int, chunk: int
) -> Float32[np.ndarray, " parameters"]:
    result = np.zeros(size, dtype=np.float32)
    for start, stop in _chunks(size if updates else 0, chunk):
        result[start:stop] = rule(np.stack([update.source.read(start, stop) for update in updates], axis=1))
    return result
