"""What a site trained alone: what training together is held against, on its own patients.

``synofed site alone`` trains a campaign's networks on this site's exams only, with as many rounds and steps as the
campaign, into ``<site folder>/campaigns/<plan hash>/alone/``. No weight of them leaves the site. Where a campaign
gets tables of held-out patients, their decisions are counted there beside those of as many of the ensemble's models,
on the same exams.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from client.ensemble import network_folder
from client.files import lock
from client.site.site import Site
from client.state import decisions
from common.ensemble.committee import Committee
from common.errors import BusyError, StorageError
from common.machine import file_lock, network_files
from common.machine.network_files import TrainedNetwork
from common.settings import Settings

NOTICE = (
    "These networks were trained on this site's patients alone, without noise. They are for use here: give them to "
    "nobody, and publish nothing that they were built into."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What a site trained alone, ready to be asked.

    Attributes:
        committee: its networks.
        models: scoring models in it; the ensemble is cut down to as many where the two are compared.
    """

    committee: Committee
    models: int


def folder(site_folder: Path, plan_hash: str) -> Path:
    """Where a campaign's networks of the site alone lie."""
    return decisions.folder(site_folder, plan_hash) / decisions.ALONE


def training(site_folder: Path, plan_hash: str) -> AbstractContextManager[None]:
    """Held while the site trains alone: who asks for tables is told to come back."""
    return lock.locked(_lock(site_folder, plan_hash))


def check_not_training(site_folder: Path, plan_hash: str) -> None:
    """Whether what a site trains alone is there, or was never asked for.

    Raises:
        BusyError: if it is on its way.
        StorageError: if that cannot be told.
    """
    place = _lock(site_folder, plan_hash)
    try:
        busy = file_lock.is_held(place)
    except OSError as error:
        raise StorageError(f"{place} cannot be looked at: {error.strerror}") from None
    if busy:
        raise BusyError("The site trains alone for this campaign: its tables wait until that has ended")


def keep(
    site: Site, plan_hash: str, networks: Sequence[TrainedNetwork], settings: Settings, *, fingerprint: str
) -> None:
    """Keep what a site trained alone.

    Args:
        site: the site.
        plan_hash: of the campaign that it is compared with.
        networks: all of them.
        settings: what they were trained with: the campaign's, perhaps with fewer scoring models.
        fingerprint: of the store that they were trained on.

    Raises:
        StorageError: if it cannot be written.
    """
    network_folder.write(
        folder(site.folder, plan_hash),
        networks,
        settings,
        status="ALONE",
        site=site.name,
        notice=NOTICE,
        facts={"plan_hash": plan_hash, "fingerprint": fingerprint},
    )


def opened(site: Site, plan_hash: str, settings: Settings, *, fingerprint: str) -> Alone | None:
    """What a site trained alone.

    Args:
        site: the site.
        plan_hash: of the campaign.
        settings: of the campaign.
        fingerprint: of the site's store now.

    Returns:
        ``None``: it trained nothing, or on other exams than it has now, of which some may have been held out since.
    """
    place = folder(site.folder, plan_hash)
    if network_folder.manifest_of(place).get("fingerprint") != fingerprint:
        return None
    networks = list(network_files.load_all(place / "networks"))
    models = models_of(networks)
    rating = settings.rating.model_copy(update={"models": models})
    return Alone(
        committee=network_files.committee(networks, settings.model_copy(update={"rating": rating})),
        models=models,
    )


def models_of(networks: Iterable[TrainedNetwork]) -> int:
    """How many scoring models are among networks: one for each of their folds."""
    return len({network.spec.fold for network in networks if network.spec.scoring})


def forget(site_folder: Path, plan_hash: str) -> None:
    """Remove what a site trained alone."""
    shutil.rmtree(folder(site_folder, plan_hash), ignore_errors=True)


def _lock(site_folder: Path, plan_hash: str) -> Path:
    place = folder(site_folder, plan_hash)
    return place.with_name(f".{place.name}.lock")
