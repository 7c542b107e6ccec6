"""Networks as files, and what is built of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common import settings as configuration
from common.errors import DataError
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.methods.stages import NetworkResult, networks

CONFIG = Path(__file__).parents[3] / "configs" / "quickstart.toml"


def test_weights_of_another_number_are_said_to_be_of_another_version() -> None:
    settings = configuration.load(CONFIG)
    spec = next(spec for spec in networks(settings).values() if spec.scoring and len(spec.images) == 1)
    result = NetworkResult(best_round=1, auc=0.5, threshold=0.5)
    other = TrainedNetwork(spec=spec, result=result, weights=np.zeros(7, dtype=np.float32), frozen={})
    with pytest.raises(
        DataError, match=r"vascularity/gt0/a: Expected \d+ values .* Another version of synofed"
    ):
        network_files.committee([other], settings)
