"""Asking many networks: each in turn, or all of one architecture at once, whichever is faster at the place.

An ensemble is built once and asked many times. Where a network is small or the device fast, starting its
operations costs more than computing them, and :mod:`common.networks.stacking` starts each once for all networks;
where networks are large, that only costs cache. What is faster depends on the architecture, the number of
pictures, the device and its threads, so both ways are tried once per process and the choice is kept. Their
answers differ by rounding only (at most 1e-4 in float32).

Weights are kept once, for both ways: layer by layer they are copied into one tensor for all networks of an
architecture, where they are computed, and each network keeps a view of its part. For 60 ResNet-18 networks (90
backbones) that is 4 GB, in bfloat16 2 GB; what held them before is let go, unless somebody else holds it too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from common.ensemble.architecture import architecture, gather, weights_of
from common.networks.stacking import logits as stacked_logits
from common.networks.stacking import stacked_network

Precision = Literal["float32", "bfloat16"]
Way = Literal["loop", "stacked"]

CPU = torch.device("cpu")

PICTURES = 512
"""Most pictures times networks that are stacked at once; more leave the cache (measured: 256 to 640)."""

LONG_S = 0.01
"""A network that computes longer than this gains nothing worth trying from company: starting its operations
takes a tenth of that at most (measured beyond it: 0.6 to 1.2 times the speed)."""

GAIN = 1.1
"""A stack must be faster than the loop by this factor; below it, noise would decide."""

TRIALS, TRIAL_S = 7, 0.5
"""A trial compares the two ways this often, or for this long if that is over first, but once at least."""

TRIED = (1, 8, 64)
"""Batch sizes that are tried; any other number of pictures uses the largest of these that it reaches."""

TOLERANCE: Mapping[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of the two ways over the largest logit that is still rounding (with TF32, in float32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and how networks are asked.

    Attributes:
        device: where to compute.
        precision: ``bfloat16`` (of weights, products and convolutions, by autocast) halves memory and, where the
            device has such units and the networks are large, time; probabilities move in their third digit.
        memory_format: of pictures and convolutions. Channels last was faster in nearly every case measured on
            a CPU, in either way.
        clock: seconds; it decides which way is taken, nothing else.
    """

    device: torch.device = CPU
    precision: Precision = "float32"
    memory_format: torch.memory_format = torch.channels_last
    clock: Callable[[], float] = time.perf_counter


HERE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One network of an ensemble.

    Attributes:
        name: unique in the ensemble.
        images: the images it reads.
        network: maps a list of pictures, ``images`` in order, each ``(n, 3, side, side)``, to logits
            ``(n, classes)``. The ensemble takes it over: it stays usable, but its weights move.
    """

    name: str
    images: tuple[str, ...]
    network: nn.Module


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Networks of one architecture that read the same images.

    Attributes:
        names: of the networks.
        images: what they read.
        networks: each by itself, in evaluation.
        merged: all of them at once (:mod:`common.networks.stacking`), on the same weights.
        architecture: equal for stacks whose networks differ in nothing but their weights.
        place: where they are.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    networks: tuple[nn.Module, ...]
    merged: nn.Module
    architecture: Hashable
    place: Place

    def logits(
        self, pictures: Sequence[Float[Tensor, "n ... _ _ _"]], *, way: Way
    ) -> Float32[Tensor, "networks n classes"]:
        """Logits of all networks, on the CPU.

        Args:
            pictures: ``images`` in order.
            way: one network after the other, or all at once.

        Raises:
            UnstackableError: if all at once was asked for and the architecture has no rule for it.
        """
        compute = {"loop": self._loop, "stacked": self._stacked}[way]
        device, half = self.place.device, self.place.precision == "bfloat16"
        ready = [
            _laid_out(picture.to(device, torch.bfloat16 if half else None), self.place.memory_format)
            for picture in pictures
        ]
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            return compute(ready).float().cpu()

    def _loop(self, pictures: list[Tensor]) -> Tensor:
        return torch.stack([network(pictures) for network in self.networks])

    def _stacked(self, pictures: list[Tensor]) -> Tensor:
        count = len(self.networks)
        parts = zip(*(picture.split(max(1, PICTURES // count)) for picture in pictures), strict=True)
        return torch.cat([stacked_logits(self.merged, part, count) for part in parts], dim=1)

    def fastest(self, pictures: Sequence[Float[Tensor, "n ... _ _ _"]]) -> Way:
        """The faster way for this number of pictures and threads; found by trial, once per process.

        Where stacking does not pay for few pictures it does not for more, so these are tried first; and where one
        network takes long by itself, that alone is tried. Clips are long enough.
        """
        numbers = [number for number in TRIED if number <= len(pictures[0])]
        if len(self.networks) == 1 or not numbers or any(picture.ndim > 4 for picture in pictures):
            return "loop"
        ways = (self._faster([picture[:number] for picture in pictures]) for number in numbers)
        return next((way for way in ways if way == "loop"), "stacked")

    def _faster(self, pictures: Sequence[Tensor]) -> Way:
        shapes = tuple(picture.shape for picture in pictures)
        here = (self.architecture, len(self.networks), self.place, torch.get_num_threads(), shapes)
        with _trials:  # two at once would measure each other
            if here not in _known:
                _known[here] = self._try(pictures)
            return _known[here]

    def _try(self, pictures: Sequence[Tensor]) -> Way:
        def loop() -> Tensor:
            return self.logits(pictures, way="loop")

        def stacked() -> Tensor:
            return self.logits(pictures, way="stacked")

        first = replace(self, names=self.names[:1], networks=self.networks[:1])

        def alone() -> Tensor:
            return first.logits(pictures, way="loop")

        if min(self._seconds(alone) for _ in range(3)) > LONG_S:
            return "loop"
        expected = loop()
        try:
            difference = (stacked() - expected).abs().max()
        except Exception:  # whatever a foreign network does with stacked weights, the loop has answered
            return "loop"
        if not difference <= TOLERANCE[self.place.precision] * expected.abs().max():
            return "loop"
        return "stacked" if self._speedup(stacked, over=loop) > GAIN else "loop"

    def _speedup(self, way: Callable[[], Tensor], *, over: Callable[[], Tensor]) -> float:
        """Ratio of the shortest runs, taken in turn: whatever else the machine does only makes runs longer."""
        before: list[float] = []
        after: list[float] = []
        start = self.place.clock()
        while not after or (len(after) < TRIALS and self.place.clock() - start < TRIAL_S):
            before.append(self._seconds(over))
            after.append(self._seconds(way))
        return min(before) / min(after)

    def _seconds(self, way: Callable[[], Tensor]) -> float:
        start = self.place.clock()
        way()
        return self.place.clock() - start


_trials = threading.Lock()
_known: dict[Hashable, Way] = {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """Networks that are asked together.

    Attributes:
        names: of the networks, in the order they were given.
        stacks: the same networks by architecture.
    """

    names: tuple[str, ...]
    stacks: tuple[Stack, ...]

    def logits(
        self,
        pictures: Mapping[str, Float[Tensor, "n ... _ _ _"]],
        *,
        way: Way | Literal["fastest"] = "fastest",
    ) -> dict[str, Float32[Tensor, "n _"]]:
        """Logits ``(n, classes)`` of each network by name, on the CPU.

        Args:
            pictures: image name -> pictures, ready for a network.
            way: ``fastest`` is chosen by measurement, so that last bits may differ from process to process;
                name a way where they must not.
        """
        found: dict[str, Tensor] = {}
        for stack in self.stacks:
            read = [pictures[image] for image in stack.images]
            chosen = stack.fastest(read) if way == "fastest" else way
            found.update(zip(stack.names, stack.logits(read, way=chosen), strict=True))
        return {name: found[name] for name in self.names}


def ensemble(members: Iterable[Member], *, place: Place = HERE) -> Ensemble:
    """Build an ensemble.

    Args:
        members: the networks, which are taken over: their weights move, layer by layer.
        place: where and how they will be asked.
    """
    given = list(members)
    alike: dict[Hashable, list[Member]] = {}
    for member in given:
        alike.setdefault((member.images, architecture(member.network.eval())), []).append(member)
    stacks = tuple(_stack(same, kind, place) for kind, same in alike.items())
    return Ensemble(names=tuple(member.name for member in given), stacks=stacks)


def _stack(members: Sequence[Member], kind: Hashable, place: Place) -> Stack:
    networks = tuple(member.network for member in members)
    return Stack(
        names=tuple(member.name for member in members),
        images=members[0].images,
        networks=networks,
        merged=_merged(networks, place),
        architecture=kind,
        place=place,
    )


def _laid_out(pictures: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Pictures, and those of clips, in a memory format of four axes."""
    flat = pictures.flatten(0, -4).contiguous(memory_format=memory_format)
    laid: Tensor = flat.unflatten(0, pictures.shape[:-3])
    return laid


def _merged(networks: Sequence[nn.Module], place: Place) -> nn.Module:
    """All networks as one, in their place; each keeps working, on views."""
    together = {}
    for name, values in list(weights_of(networks[0])):
        # norms and biases are small and stay as they are
        dtype = torch.bfloat16 if place.precision == "bfloat16" and values.ndim > 1 else values.dtype
        together[name] = gather(
            networks, name, dtype=dtype, device=place.device, memory_format=place.memory_format
        )
    for network in networks:
        network.to(place.device)  # what is not a weight
    return stacked_network(networks[0], together, len(networks))
