"""Trained networks as files: ``networks/<name>.safetensors``, slashes in the name written as dots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.ensemble.committee import Committee
from common.ensemble.number_stack import NumberStack
from common.ensemble.trained import TrainedNetwork
from common.errors import DataError, UpdateError
from common.machine import atomic, pretrained, tensor_file
from common.methods.stages import NetworkResult
from common.networks import build
from common.networks.spec import NetworkSpec, Piece
from common.settings import Settings
from common.text.file_names import file_name

__all__ = [
    "TrainedNetwork",
    "committee",
    "encode",
    "load",
    "load_all",
    "modules",
    "path",
    "save",
    "whole",
    "write",
]

FROZEN = "frozen:"
"""Before a frozen part's name in the file."""


def path(folder: Path, name: str) -> Path:
    """The file of a network."""
    return folder / f"{file_name(name)}.safetensors"


def encode(network: TrainedNetwork) -> bytes:
    """What the file of one network holds."""
    return b"".join(_parts(network))


def _parts(network: TrainedNetwork) -> list[bytes | memoryview]:
    # one key: safetensors writes several in no fixed order, and the same network should be the same file
    metadata = {
        "network": json.dumps(
            {"spec": network.spec.model_dump(mode="json"), "result": network.result.facts()}
        )
    }
    given = {f"{FROZEN}{part}": values for part, values in network.frozen.items()}
    return tensor_file.parts({"weights": network.weights, **given}, metadata)


def save(folder: Path, network: TrainedNetwork) -> None:
    """Write one network under its name, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write(path(folder, network.spec.name), network)


def write(file_path: Path, network: TrainedNetwork) -> None:
    """Write one network to a file, whole or not at all."""
    atomic.write(file_path, _parts(network))


def load(file_path: Path) -> TrainedNetwork:
    """Read one network.

    Raises:
        DataError: if the file is none that holds :func:`encode`'s bytes.
    """
    try:
        metadata, tensors = tensor_file.read(file_path)
        network = json.loads(metadata["network"])
        return TrainedNetwork(
            spec=NetworkSpec.model_validate(network["spec"]),
            result=NetworkResult(**network["result"]),
            weights=tensors.pop("weights"),
            frozen={name.removeprefix(FROZEN): values for name, values in tensors.items()},
        )
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"Expected a trained network at {file_path}: {error}") from None


def load_all(folder: Path) -> Iterator[TrainedNetwork]:
    """All networks of a folder, in the order of their file names."""
    return (load(found) for found in sorted(folder.glob("*.safetensors")))


def modules(
    networks: Sequence[TrainedNetwork], wanted: Sequence[NetworkSpec], settings: Settings
) -> list[nn.Module]:
    """Networks ready to be asked; frozen parts are views into the networks that they come from.

    Args:
        networks: the wanted ones and all that they are built on.
        wanted: which.
        settings: of the campaign.

    Raises:
        DataError: if a network is missing, or has another number of weights than this version gives it.
    """
    parts, built = _Parts(networks, settings), []
    for spec in wanted:
        try:
            built.append(build.assembled(spec, settings.network, parts.flat(spec.name), parts.frozen(spec)))
        except UpdateError as error:
            raise DataError(f"{spec.name}: {error} Another version of synofed trained it") from None
    return built


def whole(networks: Sequence[TrainedNetwork], settings: Settings) -> tuple[TrainedNetwork, ...]:
    """The networks that score, each with its frozen parts in it: built on no other, and all of it can be trained.

    Args:
        networks: of a campaign, those that the scoring ones are built on included.
        settings: of the campaign.

    Raises:
        DataError: if a network is missing.
    """
    parts = _Parts(networks, settings)

    def joined(network: TrainedNetwork) -> TrainedNetwork:
        spec = network.spec
        weights = build.joined(spec, settings.network, parts.flat(spec.name), parts.frozen(spec))
        return replace(network, spec=build.unfrozen(spec), weights=weights.numpy(), frozen={})

    return tuple(joined(network) for network in networks if network.spec.scoring)


class _Parts:
    """Where the weights of networks lie that are built on each other."""

    def __init__(self, networks: Sequence[TrainedNetwork], settings: Settings) -> None:
        self._networks = {network.spec.name: network for network in networks}
        self._settings = settings

    def flat(self, name: str) -> Float32[Tensor, " _"]:
        if name not in self._networks:
            raise DataError(f"Expected the network {name} among the trained ones, it is missing")
        return torch.from_numpy(self._networks[name].weights)

    def frozen(self, spec: NetworkSpec) -> dict[str, Float32[Tensor, " _"]]:
        return {piece.part: self._frozen(spec, piece) for piece in spec.frozen}

    def _frozen(self, spec: NetworkSpec, piece: Piece) -> Float32[Tensor, " _"]:
        if piece.network is not None:
            weights = self.flat(piece.network)
            return build.part(
                self._networks[piece.network].spec, self._settings.network, weights, piece.source
            )
        if piece.part in self._networks[spec.name].frozen:
            return torch.from_numpy(self._networks[spec.name].frozen[piece.part])
        return pretrained.part(spec, self._settings.network, piece.part)


def committee(
    networks: Sequence[TrainedNetwork],
    settings: Settings,
    *,
    temperatures: Mapping[str, float] | None = None,
    stacks: Mapping[str, NumberStack] | None = None,
) -> Committee:
    """The ensemble of a campaign's networks; those that do not score are only built on.

    Args:
        networks: in the order of its columns.
        settings: of the campaign.
        temperatures: by measurement, of a site's own networks.
        stacks: by number, as sites' sums gave them; not of part of the networks.
    """
    scoring = [network for network in networks if network.spec.scoring]
    specs = tuple(network.spec for network in scoring)
    return Committee(
        specs=specs,
        modules=tuple(modules(networks, specs, settings)),
        thresholds=tuple(network.result.threshold for network in scoring),
        settings=settings,
        temperatures=temperatures or {},
        stacks=stacks or {},
    )
