"""Where a campaign's networks start: at random, from pretrained weights, from networks trained before them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.machine import network_files, pretrained
from common.networks import build
from common.networks.build import initial_weights, layout
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.seeds import derive_seed

Flat = Float32[np.ndarray, " _"]


class StartWeights:
    """Start weights and frozen parts of a campaign's networks.

    Args:
        settings: the campaign's.
        folder: of networks that are trained already.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder

    def start(self, spec: NetworkSpec) -> Flat:
        """A network's start, the same for the same seed and network.

        Raises:
            ConfigurationError: if pretrained weights do not fit.
            DataError: if a network that it starts from is not there.
        """
        seed = derive_seed(self._settings.seed, "start", spec.start or spec.identity)
        weights = initial_weights(spec, self._settings.network, seed=seed)
        whole = layout(spec, self._settings.network)
        for part in pretrained.starting_parts(spec):
            values = self._source(spec, part)
            if values is not None:
                _put(weights, whole.slices(part), values)
        return weights.numpy()

    def frozen(self, spec: NetworkSpec) -> dict[str, Flat]:
        """Part -> weights of each frozen part; errors as of :meth:`start`."""
        found: dict[str, Flat] = {}
        for piece in spec.frozen:
            values = self._source(spec, piece.part)
            assert values is not None, "a frozen part has a source"
            found[piece.part] = values.numpy()
        return found

    def _source(self, spec: NetworkSpec, part: str) -> Tensor | None:
        """What a part starts from; ``None``: random."""
        piece = next((p for p in spec.pieces if p.part == part), None)
        if piece is not None and piece.network is not None:
            trained = network_files.load(network_files.path(self._folder, piece.network))
            weights = torch.from_numpy(trained.weights)
            return build.part(trained.spec, self._settings.network, weights, piece.source)
        if self._settings.network.weights == "none":
            return None
        return pretrained.part(spec, self._settings.network, part)


def _put(weights: Tensor, places: Iterable[slice], values: Tensor) -> None:
    start = 0
    for place in places:
        stop = start + place.stop - place.start
        weights[place] = values[start:stop]
        start = stop
