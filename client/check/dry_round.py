"""What a dry round gave: times, bytes, and all that would have been sent."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

RECEIPT_BYTES = 1000
"""Of a reply's receipt, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One thing that would leave the site.

    Attributes:
        part: of the reply.
        name: of the network or field.
        shape: of an array; a field's number of values.
        dtype: how a value is written.
        size_bytes: of all values.
    """

    part: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """Networks of one architecture.

    Attributes:
        network: the first of them, which was trained.
        networks: how many there are in the stage.
        seconds: a round of one takes; NaN where the few exams were all of one class.
        up_bytes: from the site in a round, of one.
        down_bytes: to the site in a round, of one.
        sent: what left out of the trained one's reply.
        tensors: name -> shape of what its update is made of.
    """

    network: str
    networks: int
    seconds: float
    up_bytes: int
    down_bytes: int
    sent: tuple[Sent, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The plan's first stage, as it would run here.

    Attributes:
        stage: its name.
        rounds: of training; one more scores the final weights.
        exams: that were used.
        device: where it was trained.
        shapes: one an architecture.
    """

    stage: str
    rounds: int
    exams: int
    device: str
    shapes: tuple[Rehearsed, ...]

    @property
    def seconds_per_round(self) -> float:
        """All networks of the stage, one after the other."""
        return sum(shape.networks * shape.seconds for shape in self.shapes)

    @property
    def up_bytes_per_round(self) -> int:
        """From the site."""
        return RECEIPT_BYTES + sum(shape.networks * shape.up_bytes for shape in self.shapes)

    @property
    def down_bytes_per_round(self) -> int:
        """To the site."""
        return sum(shape.networks * shape.down_bytes for shape in self.shapes)

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return asdict(self) | {
            "seconds_per_round": None
            if math.isnan(self.seconds_per_round)
            else round(self.seconds_per_round, 3),
            "up_bytes_per_round": self.up_bytes_per_round,
            "down_bytes_per_round": self.down_bytes_per_round,
            "shapes": [_plain(shape) for shape in self.shapes],
        }


def _plain(shape: Rehearsed) -> dict[str, object]:
    """Without NaN, which is no JSON."""
    return asdict(shape) | {"seconds": None if math.isnan(shape.seconds) else round(shape.seconds, 4)}
