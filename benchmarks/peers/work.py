"""The work of every side of ``compare.py``, as a folder that it reads: the same sites, pictures, start and steps.

Only what trains is here: torch, and of synofed the network, the batches and the augmentation. How weights travel and
are averaged is each side's own.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shared import plain_loop
from torch import Tensor, nn

from common import settings as configuration
from common.methods.stages import networks
from common.networks.build import layout
from common.networks.build import network as build
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.data import ExamTensors

CONFIG = Path(__file__).with_name("work.toml")


def save(folder: Path, *, overrides: Sequence[str], sites: Mapping[str, ExamTensors]) -> None:
    """Write what :class:`Work` reads."""
    facts = {"overrides": list(overrides), "sites": list(sites)}
    (folder / "work.json").write_text(json.dumps(facts), encoding="utf-8")
    for name, data in sites.items():
        parts = {
            "images": dict(data.images),
            "grades": dict(data.grades),
            "fold": data.fold,
            "patient": data.patient,
        }
        torch.save(parts, folder / f"{name}.pt")


@dataclass(frozen=True)
class Work:
    """What is trained, and where a side leaves what it has to tell.

    Attributes:
        folder: that :func:`save` wrote into.
        out: of this side and run: ``weights.pt`` and ``rounds.txt``.
    """

    folder: Path
    out: Path

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "work.json").read_text(encoding="utf-8"))
        return facts

    @property
    def sites(self) -> list[str]:
        return list(self._facts["sites"])

    @property
    def overrides(self) -> list[str]:
        """Of ``work.toml``."""
        return list(self._facts["overrides"])

    @functools.cached_property
    def settings(self) -> Settings:
        return configuration.load(CONFIG, overrides=self.overrides)

    @functools.cached_property
    def spec(self) -> NetworkSpec:
        (spec,) = networks(self.settings).values()
        return spec

    def exams(self, site: str) -> ExamTensors:
        """From files that the system pages in as they are read."""
        return ExamTensors(**torch.load(self.folder / f"{site}.pt", mmap=True))

    def start(self) -> Tensor:
        """Start weights, flat."""
        return plain_loop.start(self.spec, self.settings)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Weights by the names of the network's parameters and floating buffers."""
        return dict(layout(self.spec, self.settings.network).pieces(flat))

    def flat(self, named: Mapping[str, Tensor]) -> Tensor:
        """The inverse of :meth:`named`."""
        entries = layout(self.spec, self.settings.network).entries
        return torch.cat([torch.as_tensor(named[name]).reshape(-1).float() for name, _ in entries])

    def train(self, site: str, flat: Tensor, server_round: int) -> tuple[Tensor, int]:
        """A site's weights after a round, and the number of exams behind them."""
        self.began(server_round)
        job = plain_loop.Job(site=site, data=self.exams(site), spec=self.spec)
        return plain_loop.trained(_module(self), job, flat, settings=self.settings, server_round=server_round)

    def began(self, server_round: int) -> None:
        """Note that a round begins; of several notes of one round the first counts."""
        with (self.out / "rounds.txt").open("a", encoding="utf-8") as notes:
            notes.write(f"{server_round} {time.time()}\n")

    def done(self, flat: Tensor) -> None:
        """Leave the final weights."""
        torch.save(flat.clone(), self.out / "weights.pt")

    def result(self) -> tuple[Tensor, dict[int, float]]:
        """Final weights, and the Unix time at which each round began."""
        begun: dict[int, float] = {}
        for line in (self.out / "rounds.txt").read_text(encoding="utf-8").splitlines():
            server_round, moment = line.split()
            begun[int(server_round)] = min(float(moment), begun.get(int(server_round), float("inf")))
        return torch.load(self.out / "weights.pt"), begun


@functools.cache
def _module(work: Work) -> nn.Module:
    """One a process, whatever sites it trains."""
    return build(work.spec, work.settings.network)


def asked() -> Work:
    """The work named on the command line of a side: FOLDER OUT; one thread."""
    torch.set_num_threads(1)
    return Work(Path(sys.argv[1]), Path(sys.argv[2]))
