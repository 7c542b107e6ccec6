"""What a site keeps of a network from round to round: control variates, norms, moments, what updates lost.

``<site folder>/state/<plan hash>/<run>/<network>/round_0007.safetensors``. It is written whole under the round that
made it, and read from the round that the centre last counted: asked for a round again, the site starts from the same
state and ends with the same bytes; a reply that came too late leaves no trace. None of it leaves the site.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from client.files import atomic
from common.errors import SiteStateError, UpdateError
from common.machine import tensor_file
from common.text.file_names import file_name

RUN = re.compile(r"[0-9a-f]{32}")


class SiteState:
    """The state of one run's networks at a site.

    Raises:
        UpdateError: if the run is not 32 hexadecimal digits.
    """

    def __init__(self, site_folder: Path, *, plan_hash: str, run: str) -> None:
        self._folder = run_folder(site_folder, plan_hash=plan_hash, run=run)

    def read(self, network: str, server_round: int) -> dict[str, Tensor]:
        """The state after a round; empty after round 0.

        Raises:
            SiteStateError: if it is not there or cannot be read.
        """
        if server_round == 0:
            return {}
        try:
            return dict(load_file(self._path(network, server_round)))
        except (OSError, SafetensorError):
            raise SiteStateError(
                f"Expected what this site kept of {network} after round {server_round} in {self._folder}, it is "
                f"missing or damaged: put the folder back from a backup, or start the campaign anew"
            ) from None

    def last(self, network: str) -> dict[str, Tensor]:
        """The state after the last round that there is one of; empty if there is none."""
        rounds = sorted(self._path(network, 0).parent.glob("round_*.safetensors"))
        return self.read(network, int(rounds[-1].stem.removeprefix("round_"))) if rounds else {}

    def write(self, network: str, server_round: int, state: Mapping[str, Tensor], *, keep: int) -> None:
        """Write the state after a round; of earlier ones only that of round ``keep`` stays.

        Later ones stay too: a round that the centre has given up may end after the next one.

        Raises:
            StorageError: if it cannot be written.
        """
        path = self._path(network, server_round)
        atomic.write(path, tensor_file.parts({name: values.numpy() for name, values in state.items()}, {}))
        kept = self._path(network, keep).name
        for other in path.parent.glob("round_*.safetensors"):
            if other.name < path.name and other.name != kept:
                other.unlink(missing_ok=True)

    def _path(self, network: str, server_round: int) -> Path:
        return self._folder / file_name(network) / f"round_{server_round:06d}.safetensors"


def folder(site_folder: Path, *, plan_hash: str) -> Path:
    """Where the states of all runs of a plan lie."""
    return site_folder / "state" / plan_hash


def run_folder(site_folder: Path, *, plan_hash: str, run: str) -> Path:
    """Where what is kept of one run lies.

    Raises:
        UpdateError: if the run is not 32 hexadecimal digits: it becomes a folder's name.
    """
    if not RUN.fullmatch(run):
        raise UpdateError("Expected a run of 32 hexadecimal digits, got something else")
    return folder(site_folder, plan_hash=plan_hash) / run


def newest_run(site_folder: Path, *, plan_hash: str) -> str | None:
    """The run of a plan whose state was written last; ``None``: nothing is kept."""
    runs = [
        place for place in folder(site_folder, plan_hash=plan_hash).glob("*") if RUN.fullmatch(place.name)
    ]
    return max(runs, key=lambda place: place.stat().st_mtime_ns).name if runs else None


def forget(site_folder: Path, *, plan_hash: str, run: str) -> None:
    """Remove the state of a finished run."""
    of_plan = folder(site_folder, plan_hash=plan_hash)
    shutil.rmtree(of_plan / run, ignore_errors=True)
    with contextlib.suppress(OSError):  # other runs' states are in there still
        of_plan.rmdir()
        of_plan.parent.rmdir()
