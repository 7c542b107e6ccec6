"""Networks that other runs of a study trained already, found by the hash of what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.networks.spec import NetworkSpec
from common.sections.validity import dumped
from common.settings import Settings
from common.version import VERSION

NOT_MADE_BY = {"group_bytes", "deadline_s", "approval_s"}
"""Settings of the federation that say how messages are packed, not what is trained."""


class NetworkLibrary:
    """A folder of trained networks, shared by runs over the same sites.

    Args:
        folder: of the files, one per network, named by its key.
        fingerprints: of the data of each site that trains.
    """

    def __init__(self, folder: Path, fingerprints: Mapping[str, str]) -> None:
        self._folder = folder
        self._fingerprints = dict(sorted(fingerprints.items()))

    @classmethod
    def keys_only(cls, data: str) -> NetworkLibrary:
        """No networks, only their keys, over data that are not there yet and are named by anything."""
        return cls(Path(), {"data": data})

    def find(
        self, spec: NetworkSpec, settings: Settings, all_specs: Mapping[str, NetworkSpec]
    ) -> TrainedNetwork | None:
        """A network that was made exactly as this one would be, under this one's name; ``None`` if there is none.

        Args:
            spec: the network.
            settings: of the run.
            all_specs: networks of the run by name, among them those that it is built on.
        """
        path = self._path(spec, settings, all_specs)
        if not path.exists():
            return None
        found = network_files.load(path)
        return TrainedNetwork(spec=spec, result=found.result, weights=found.weights)

    def add(self, network: TrainedNetwork, settings: Settings, all_specs: Mapping[str, NetworkSpec]) -> None:
        """Keep a network for other runs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(network.spec, settings, all_specs)
        network_files.write(path, network)

    def _path(self, spec: NetworkSpec, settings: Settings, all_specs: Mapping[str, NetworkSpec]) -> Path:
        return self._folder / f"{self.key(spec, settings, all_specs)}.safetensors"

    def key(self, spec: NetworkSpec, settings: Settings, all_specs: Mapping[str, NetworkSpec]) -> str:
        """The hash of what makes a network; arguments as of :meth:`find`."""
        made_by = {
            "version": VERSION,
            "seed": settings.seed,
            "sites": self._fingerprints,
            "spec": spec.model_dump(mode="json", exclude={"name", "scoring"}),
            "training": (spec.training or settings.training).model_dump(mode="json"),
            "federation": settings.federation.model_dump(mode="json", exclude=NOT_MADE_BY),
            "network": settings.network.model_dump(mode="json", exclude={"weights"}),
            "images": {name: image.model_dump() for name, image in settings.images.items()},
            "measurements": {name: graded.grades for name, graded in settings.measurements.items()},
            "validity": dumped(settings.validity),
            "folds": settings.rating.folds,
            "held_out": settings.held_out,
            "from": [self.key(all_specs[name], settings, all_specs) for name in _sources(spec)],
        }
        return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def _sources(spec: NetworkSpec) -> Sequence[str]:
    return [piece.network for piece in spec.pieces if piece.network is not None]
