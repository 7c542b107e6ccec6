"""Trained ensembles by where their networks lie: small enough to go wherever exams are scored or explained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from client.data.site_store import site_store
from client.site.site import Site
from common.ensemble.committee import Committee
from common.exam import MISSING
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.methods.stages import Output
from common.settings import Settings
from simulation.cohorts.cohort import CohortSite
from simulation.engine.places import Place


@runtime_checkable
class Opens(Protocol):
    """An ensemble that is opened where it is asked: an :class:`Ensemble`, or a committee that is open already."""

    @property
    def settings(self) -> Settings:
        """Of the run that trained it."""

    def on(self, device: torch.device) -> Committee:
        """Ready to be asked on a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """An ensemble on a disk that all places see.

    Attributes:
        folder: of its networks' files.
        settings: of the run that trained it.
        models: scoring models that are asked, the first ones; ``None``: all.
        asked: networks that are asked in their place, as if they scored, built on no others.
    """

    folder: Path
    settings: Settings
    models: int | None = None
    asked: tuple[str, ...] = ()

    def networks(self) -> list[TrainedNetwork]:
        """Its networks, those included that the asked ones are built on."""
        if self.asked:
            found = (network_files.load(network_files.path(self.folder, name)) for name in self.asked)
            return [replace(n, spec=n.spec.model_copy(update={"scoring": True})) for n in found]
        every = network_files.load_all(self.folder)
        return [network for network in every if self.models is None or network.spec.fold < self.models]

    def on(self, device: torch.device) -> Committee:
        """Ready to be asked on a device."""
        return network_files.committee(self.networks(), self.settings).on(device)


def opened(place: Place, ensemble: Opens) -> Committee:
    """The ensemble at a place; pieces of work that ask the same one after the other open it once."""
    return place.kept.get(ensemble, lambda: ensemble.on(torch.device(place.device)))


def outputs(place: Place, ensemble: Opens, site: CohortSite, settings: Settings) -> tuple[Output, ...]:
    """A piece of work: what each network says of a site's held-out exams.

    Args:
        place: where.
        ensemble: which networks.
        site: whose exams.
        settings: of the run, by which the site's store was made.
    """
    store = site_store(Site.open(site.folder), settings)
    held_out = torch.nonzero(store.tensors.fold == MISSING).flatten()
    return opened(place, ensemble).outputs(store.tensors.images, held_out)
