"""What left a site in a private campaign, held against the allow-list and against the noise that was claimed.

The allow-list is short: one noised update of known length for each network of the plan. Counts, losses, histograms,
buffers and further arrays say something of private patients that no noise covers, so a reply that has one fails.

**Noise.** A sum of clipped gradients and Gaussian noise can only be *longer* than the noise alone: if ``|u|^2``, in
units of sigma C, lies below the lowest billionth of chi-squared with as many degrees of freedom as there are numbers,
there was less noise than was booked. The same holds for half the squared difference of two rounds, which also finds
noise that was drawn once and used twice. This looks at the finished run itself, unlike a rehearsal;
one round at a time finds gross faults, :mod:`common.privacy.audit.pooled_noise` looks at all of them together.

========================================  ===================================================
case                                      found by
========================================  ===================================================
noise left out, or too small              length of an update
the same noise in two rounds              length of their difference
noise too large                           not looked for: it harms nobody
noise of the right size from a bad seed   not here: by the tests of the noise
========================================  ===================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from common.privacy.audit.evidence import Sent

PARTS = frozenset({"reply", "updates", "histograms", "extra"})
FIELDS = frozenset({"site", "request-id", "networks", "num-examples", "loss"})
SUM_PARTS = frozenset({"reply", "sum", "vector"})
IMPOSSIBLE = 1e-9
"""How often sound noise looks too small."""
ROUNDING = 0.99
"""What 16-bit numbers on the wire may take of a squared length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What an update looks like beside its claim, all in the units of the sum before it is scaled.

    Attributes:
        claimed: standard deviation that was claimed, sigma C.
        seen: root mean square of the update: noise and signal.
        between: root mean square of half the difference to the round before, times root two; ``None`` for a first.
        values: numbers in the update.
    """

    claimed: float
    seen: float
    between: float | None
    values: int

    def problems(self) -> Iterator[str]:
        """Why this cannot be what was claimed."""
        from scipy.stats import chi2  # noqa: PLC0415  half a second

        least = self.claimed * math.sqrt(ROUNDING * float(chi2.ppf(IMPOSSIBLE, self.values)) / self.values)
        if self.seen < least:
            yield f"noise of standard deviation {self.claimed:g} was claimed, what left shows {self.seen:.3g}"
        if self.between is not None and self.between < least:
            yield (
                f"it differs from the round before by less than two draws of noise do ({self.between:.3g} where "
                f"{self.claimed:g} was claimed): the same noise was used twice"
            )


def strays(sent: Sent, sizes: Mapping[str, int], *, closing: bool) -> Iterator[str]:
    """Whatever a reply holds that is not on the allow-list.

    Args:
        sent: the reply.
        sizes: network of the plan -> numbers of its update.
        closing: whether it is the round after the last, in which nothing is computed from patients.
    """
    unknown = sorted((set(sent.fields) | set(sent.arrays)) - PARTS)
    if unknown:
        yield f"parts {unknown} are not on the allow-list"
    fields = sent.fields.get("reply", {})
    if set(fields) != FIELDS:
        yield f"fields {sorted(set(fields) ^ FIELDS)} are not as the allow-list has them"
    for part in ("histograms", "extra"):
        if sent.arrays.get(part):
            yield f"{part} left: {sorted(sent.arrays[part])!s:.200}"
    yield from _counts(fields, closing=closing)
    updates = sent.arrays.get("updates", {})
    if closing and updates:
        yield f"updates left in the closing round: {sorted(updates)!s:.200}"
    for name in sorted(set(updates) - set(sizes)):
        yield f"tensor {name} is none of the plan's"
    for name, (kind, values) in updates.items():
        if name in sizes and len(values) != sizes[name]:
            yield f"tensor {name} has {len(values)} numbers, the plan's network {sizes[name]}"
        if kind not in ("float32", "bfloat16") or not np.isfinite(values).all():
            yield f"tensor {name} is not of finite numbers"


def strays_of_sum(sent: Sent, *, length: int) -> Iterator[str]:
    """Whatever a reply to a secure sum holds beside one vector under masks.

    Args:
        sent: the reply.
        length: numbers of the plan's sum.
    """
    unknown = sorted((set(sent.fields) | set(sent.arrays)) - SUM_PARTS)
    if unknown:
        yield f"parts {unknown} are not on the allow-list"
    fields = {name: set(part) for name, part in sent.fields.items()}
    if fields.get("reply") != {"site", "request-id"} or not fields.get("sum", set()) <= {"phase", "site"}:
        yield f"fields {sorted(set().union(*fields.values()))!s:.200} are not as the allow-list has them"
    vectors = sent.arrays.get("vector", {})
    if len(vectors) != 1:
        yield f"{len(vectors)} vectors left, where one under masks should"
    for kind, values in vectors.values():
        if not kind.startswith("uint") or len(values) != length:
            yield f"a vector of {len(values)} numbers ({kind}) left, the plan's sum has {length} of a ring"


def noise(
    sent: Sent, *, claimed: float, scale: float, before: Float64[np.ndarray, " _"] | None
) -> tuple[Noise, Float64[np.ndarray, " _"]]:
    """Measure an update beside the noise that was claimed for it.

    Args:
        sent: the reply.
        claimed: sigma C.
        scale: by what the sum was multiplied before it left: learning rate over q N.
        before: the update of the round before, as this function returned it.

    Returns:
        The measurement, and the update in the units of the sum.
    """
    updates = sent.arrays["updates"]
    flat = np.concatenate([updates[name][1] for name in sorted(updates)]) / scale
    between = None
    if before is not None and before.shape == flat.shape:
        between = float(np.linalg.norm(flat - before)) / math.sqrt(2 * len(flat))
    seen = float(np.linalg.norm(flat)) / math.sqrt(len(flat))
    return Noise(claimed=claimed, seen=seen, between=between, values=len(flat)), flat


def _counts(fields: Mapping[str, object], *, closing: bool) -> Iterator[str]:
    counts, losses = fields.get("num-examples"), fields.get("loss")
    if not isinstance(counts, list) or any(count != 1 and not (closing and count == 0) for count in counts):
        yield "numbers of examples left, where all networks should say 1"
    if not isinstance(losses, list) or any(not math.isnan(loss) for loss in losses):
        yield "losses left"
