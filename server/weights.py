"""Start weights of a campaign's networks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32

from common.networks.build import initial_weights, layout
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.seeds import derive_seed


def layouts(specs: Iterable[NetworkSpec], settings: Settings) -> dict[str, Layout]:
    """The layout of each network's flat weights, by name; networks of one shape share it."""
    by_shape: dict[tuple[tuple[str, ...], int], Layout] = {}
    found: dict[str, Layout] = {}
    for spec in specs:
        shape = (spec.images, spec.target.classes)
        if shape not in by_shape:
            by_shape[shape] = layout(spec, settings.network)
        found[spec.name] = by_shape[shape]
    return found


def start(spec: NetworkSpec, settings: Settings) -> Float32[np.ndarray, " parameters"]:
    """A network's random start, the same for the same seed and name."""
    seed = derive_seed(settings.seed, "start", spec.name)
    return initial_weights(spec, settings.network, seed=seed).numpy()
