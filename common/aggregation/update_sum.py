"""Updates, numbers of examples and histograms of a group of networks as one vector that is summed.

Of every network, in turn: ``num_examples`` times its rounded update, ``num_examples`` itself, and the counts of its
validation scores. So the centre learns the weighted mean, and how many exams and scores there are in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from common.errors import UpdateError
from common.evaluation.histograms import BINS
from common.messages import NetworkReply
from common.sections.secure import SecureSettings
from common.secure_aggregation.fixed_point import Weighted
from common.secure_aggregation.terms import Terms

BITS = 64
"""In 32 bits a round number of exams would leave an update too few steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """What one network has in the vector.

    Attributes:
        size: numbers in its update.
        classes: of its histograms; 0: it has none.
    """

    size: int
    classes: int

    @property
    def length(self) -> int:
        """Numbers in the vector."""
        return self.size + 1 + self.classes * BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSum:
    """What the sum says of one network.

    Attributes:
        mean: of the sites' updates, weighted by examples; zeros where no site had one.
        num_examples: of all sites.
        histograms: of all sites; ``None`` where no site has any.
    """

    mean: Float32[np.ndarray, " size"]
    num_examples: int
    histograms: Int64[np.ndarray, "classes 256"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSum:
    """The public settings of a sum.

    Attributes:
        networks: name -> what it has in the vector, in order.
        secure: of the plan.

    Raises:
        ConfigurationError: if the ring is too small for that many examples.
    """

    networks: Mapping[str, Summed]
    secure: SecureSettings

    def __post_init__(self) -> None:
        self.terms()
        _ = self.weighted

    @property
    def weighted(self) -> Weighted:
        """How an update becomes whole numbers."""
        return Weighted(
            largest_update=self.secure.largest_update,
            most_examples=self.secure.most_examples,
            sites=self.secure.sites,
            bits=BITS,
        )

    def terms(self) -> Terms:
        """What all sites of the sum agree on."""
        length = sum(one.length for one in self.networks.values())
        return self.secure.terms(length=length, bits=BITS)

    def encode(self, networks: Mapping[str, NetworkReply]) -> Int64[np.ndarray, " length"]:
        """What a site puts under its masks.

        Raises:
            UpdateError: if a network is missing, is none of the sum's, has other sizes, is not finite, or has more
                examples than agreed.
        """
        if list(networks) != list(self.networks):
            raise UpdateError(f"Expected the networks {list(self.networks)}, got {list(networks)}")
        parts = [part for name, reply in networks.items() for part in self._parts(name, reply)]
        vector: Int64[np.ndarray, " length"] = np.concatenate(parts)
        return vector

    def decode(self, total: Int64[np.ndarray, " length"]) -> dict[str, NetworkSum]:
        """What the sum says of every network."""
        ends = np.cumsum([one.length for one in self.networks.values()])
        parts = np.split(total, ends[:-1])
        return {
            name: self._sum(part, one) for (name, one), part in zip(self.networks.items(), parts, strict=True)
        }

    def _parts(self, name: str, reply: NetworkReply) -> Iterator[Int64[np.ndarray, " _"]]:
        one = self.networks[name]
        counted = reply.update is not None and reply.num_examples > 0
        update = reply.update if counted else np.zeros(one.size, np.float32)
        assert update is not None
        if update.shape != (one.size,) or reply.extra:
            raise UpdateError(f"Expected {one.size} numbers of {name} and no more, got {update.shape}")
        yield self.weighted.encode(update, num_examples=reply.num_examples if counted else 0)
        histograms = np.zeros((one.classes, BINS), np.int64)
        if reply.histograms is not None:
            if reply.histograms.shape != histograms.shape:
                raise UpdateError(
                    f"Expected histograms of {histograms.shape} for {name}, got {reply.histograms.shape}"
                )
            histograms = reply.histograms
        if histograms.size and not 0 <= histograms.min() <= histograms.max() <= self.secure.most_examples:
            raise UpdateError(
                f"Expected 0..{self.secure.most_examples} scores in a bin of {name}, got a value outside"
            )
        yield histograms.reshape(-1)

    def _sum(self, part: Int64[np.ndarray, " length"], one: Summed) -> NetworkSum:
        counts = part[one.size + 1 :].reshape(one.classes, BINS)
        mean, num_examples = np.zeros(one.size), int(part[one.size])
        if num_examples > 0:
            mean, num_examples = self.weighted.mean(part[: one.size + 1])
        return NetworkSum(
            mean=mean.astype(np.float32),
            num_examples=num_examples,
            histograms=counts.copy() if counts.any() else None,
        )
