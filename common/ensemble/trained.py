"""A network as its campaign left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from common.methods.stages import NetworkResult
from common.networks.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetwork:
    """A network as its campaign left it.

    Attributes:
        spec: what it is.
        result: how it was selected.
        weights: flat.
        frozen: part -> flat weights of frozen parts that no other network of the campaign has, where they come
            along; else they are the pretrained weights that the settings name.
    """

    spec: NetworkSpec
    result: NetworkResult
    weights: Float32[np.ndarray, " parameters"]
    frozen: Mapping[str, Float32[np.ndarray, " _"]] = field(default_factory=dict)
