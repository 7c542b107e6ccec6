"""Trained networks in a run's folder, each whole or absent; read as :mod:`common.network_files` says."""

from __future__ import annotations

from pathlib import Path

from common import atomic
from common.network_files import TrainedNetwork, committee, encode, load, load_all, modules, path

__all__ = ["TrainedNetwork", "committee", "load", "load_all", "modules", "path", "save", "write"]


def save(folder: Path, network: TrainedNetwork) -> None:
    """Write one network under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    write(path(folder, network.spec.name), network)


def write(file_path: Path, network: TrainedNetwork) -> None:
    """Write one network to a file."""
    atomic.write(file_path, encode(network))
