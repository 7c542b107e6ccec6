"""A site's own networks, made of the common ones that came back, kept in a folder that nothing sends from.

``<site folder>/campaigns/<plan hash>/personal/`` has networks that were trained on the site's patients without noise
and without anybody's approval of what leaves: they are for use at the site alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import graded
from client.ensemble import delivery, network_folder
from client.files import lock
from client.site import training_device
from client.site.site import Site
from client.state import decisions, site_state
from client.state.site_state import SiteState
from common.aggregation.fedbn import NORMS
from common.ensemble import personal
from common.ensemble.candidates import Bench, Each
from common.ensemble.committee import Committee
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.privacy.planning import notice
from common.sections.evaluation import PersonalSettings
from common.settings import Settings
from common.version import VERSION

NOTICE = (
    "These networks were trained further on this site's patients, without noise. They are for use here alone: give "
    "them to nobody, and publish nothing that they were built into."
)
Progress = Callable[[int, int], None]


def folder(site_folder: Path, plan_hash: str) -> Path:
    """Where a campaign's personal networks lie."""
    return decisions.folder(site_folder, plan_hash) / decisions.PERSONAL


def make(
    site: Site,
    plan_hash: str,
    personal_settings: PersonalSettings,
    *,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, Mapping[str, object]]:
    """Make a site's networks of the ensemble that came back, unless they are there already.

    Args:
        site: the site.
        plan_hash: the campaign's.
        personal_settings: which candidates, and how they are made and chosen.
        progress: told of rounds of training done, out of all.

    Returns:
        Their folder, and what its manifest says.

    Raises:
        DataError: if there is no ensemble, or the site's tables cannot be read.
        VerificationError: if the ensemble was changed since it came.
        StorageError: if they cannot be written.
    """
    statement, _ = delivery.opened(site, plan_hash)
    settings = decisions.plan(site, plan_hash, name=statement.campaign).model_copy(
        update={"personal": personal_settings}
    )
    ensemble = list(network_files.load_all(delivery.folder(site.folder, plan_hash) / "networks"))
    place = folder(site.folder, plan_hash)
    compute = site.file.compute
    with lock.locked(place.with_name(f".{place.name}.lock")):
        found = kept(
            place,
            ensemble,
            site,
            settings,
            run=site_state.newest_run(site.folder, plan_hash=plan_hash),
            device=training_device.prepared(site, device=compute.device, threads=compute.threads),
            progress=progress,
        )
    return place, found


def opened(site: Site, plan_hash: str, *, name: str) -> Committee | None:
    """The site's own networks, ready to be asked; ``None``: there are none.

    Args:
        site: the site.
        plan_hash: the campaign's.
        name: of the campaign.
    """
    place = folder(site.folder, plan_hash)
    if not (manifest := network_folder.manifest_of(place)):
        return None
    networks = list(network_files.load_all(place / "networks"))
    return network_files.committee(
        networks,
        decisions.plan(site, plan_hash, name=name),
        temperatures=temperatures(manifest),
    )


def kept(
    place: Path,
    ensemble: Sequence[TrainedNetwork],
    site: Site,
    settings: Settings,
    *,
    run: str | None,
    device: torch.device,
    each: Each = map,
    progress: Progress = lambda done, total: None,
) -> Mapping[str, object]:
    """The manifest of a site's own networks in a folder, made if what is there was made of anything else.

    Args:
        place: the folder.
        ensemble: all networks of the campaign.
        site: the site.
        settings: of the campaign, with ``personal``.
        run: whose kept norms are candidates, if there are any; ``None``: none are.
        device: where to compute.
        each: runs the work on single networks.
        progress: told of rounds of training done, out of all.
    """
    assert settings.personal is not None, "only called where it is asked for"
    store = graded(site_store(site, settings))
    origin = _origin(ensemble, settings.personal, store.fingerprint)
    manifest = network_folder.manifest_of(place)
    if manifest.get("origin") == origin:
        return manifest
    common = network_files.whole(ensemble, settings)
    counted = _Counted(progress)
    bench = Bench(
        data=store.tensors,
        settings=settings,
        personal=settings.personal,
        site=site.name,
        norms={} if run is None else _norms(site.folder, ensemble, settings.plan_hash(), run),
        device=device,
        each=each,
        progress=counted,
    )
    counted.total = personal.rounds(common, bench)
    made = personal.personalise(common, bench)
    return network_folder.write(
        place,
        made.networks,
        settings,
        status="PERSONAL",
        site=site.name,
        notice=NOTICE,
        facts={
            "plan_hash": settings.plan_hash(),
            "origin": origin,
            "choices": {
                name: {**asdict(choice), "sentence": choice.sentence} for name, choice in made.choices.items()
            },
            "common": notice.label(settings),
        },
    )


def chosen(manifest: Mapping[str, object]) -> dict[str, str]:
    """Measurement -> what a manifest says that the site uses, for a person."""
    choices = manifest.get("choices")
    assert isinstance(choices, dict), "made here"
    return {name: str(choice["sentence"]) for name, choice in choices.items()}


def temperatures(manifest: Mapping[str, object]) -> dict[str, float]:
    """Measurement -> temperature at which the site's own networks show probabilities; empty: no manifest of such."""
    choices = manifest.get("choices")
    if not isinstance(choices, dict):
        return {}
    return {name: float(choice.get("temperature", 1.0)) for name, choice in choices.items()}


class _Counted:
    """From single steps to steps done, out of all."""

    def __init__(self, progress: Progress) -> None:
        self.total = 0
        self._done = 0
        self._progress = progress

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self.total)


def _norms(
    site_folder: Path, ensemble: Sequence[TrainedNetwork], plan_hash: str, run: str
) -> dict[str, Tensor]:
    """What the site kept under FedBN: after the last round, whichever round's weights the campaign selected."""
    state = SiteState(site_folder, plan_hash=plan_hash, run=run)
    found = {n.spec.name: state.last(n.spec.name).get(NORMS) for n in ensemble if not n.spec.frozen}
    return {name: norms for name, norms in found.items() if norms is not None}


def _origin(ensemble: Sequence[TrainedNetwork], personal_settings: PersonalSettings, fingerprint: str) -> str:
    """What the networks follow from: the same, the same networks; kept norms follow from these, and go in time."""
    digest = hashlib.sha256(f"{VERSION}\n{fingerprint}\n{personal_settings.model_dump_json()}".encode())
    for network in ensemble:
        digest.update(network_files.encode(network))
    return digest.hexdigest()
