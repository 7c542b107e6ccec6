"""What frozen, public encoders make of a site's pictures: computed once, kept beside the store.

Where the encoders' norms train, too, derivatives by their moves stand behind the features
(:meth:`common.networks.probe.ProbeNetwork.read`): training is to first order about the public encoder, so that no
round reads a picture.

``<site folder>/store/features/<data>-<key>.npy``, ``float32 (exams, views, features)``, memory-mapped. The data part
stands for the store's fingerprint and its exams in their order, the key for everything else that the numbers follow
from: encoder, pictures, views. So a file is what was asked for, or it is not there. Those of other data are removed;
a withdrawal removes all.

**Guarantees**

* *A patient's features depend on that patient alone*: a batch holds pictures of one patient, and an augmented picture
  is drawn from its exam's own seed. Whoever else comes or goes, not one bit changes (on a CPU). Passes of one shape
  over several patients, filled up with zeros, would be 1.3 to 3.7 times as fast there, but do not keep that: of 21
  pictures of 112 px by two threads, the last bits of some rows go by their place.
* *Nobody who withdrew stays*: nothing is written for a store that holds them.

==========================================  ==================================================
picture                                     is
==========================================  ==================================================
first view of the first set                 as it is
every other                                 augmented, as ``training.augmentation`` says
any, with no ``training.augmentation``      as it is
==========================================  ==================================================

Numbers that are not finite are kept as they are: the private step counts such a patient as zero.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import FORMAT as STORE_FORMAT
from client.data.store import Store
from client.files import atomic
from client.files.lock import locked
from client.ledger import ledger_file, ledger_patients
from client.log.log import site_log
from client.site.site import Site
from common.errors import DataError
from common.imaging import augment
from common.imaging.augment import AugmentParameters
from common.imaging.prepare import picture
from common.networks import build
from common.networks.probe import ProbeNetwork
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.seeds import derive_seed

FORMAT = 1
FOLDER = "features"
PICTURES = 64
"""Most pictures of one patient that are computed together."""
Frozen = Mapping[str, Float32[Tensor, " _"]]
Found = Float32[Tensor, "exams views features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Which augmented pictures: those of a set, and a number in it."""

    augmentation: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What features follow from, beside the exams.

    Attributes:
        spec: of a network that reads them.
        settings: of the campaign.
        frozen: part -> flat vector.
        views: ``None``: the picture as it is.
    """

    spec: NetworkSpec
    settings: Settings
    frozen: Frozen
    views: tuple[View | None, ...]


def features(
    site: Site,
    specs: Sequence[NetworkSpec],
    settings: Settings,
    frozen: Mapping[str, Frozen],
    *,
    device: torch.device,
    share: int = 1,
    store: Store | None = None,
) -> dict[str, Found]:
    """What linear probes read of a site's exams, from files or computed now.

    Args:
        site: the site.
        specs: the networks; those that share an encoder, pictures and views share a tensor.
        settings: of the campaign.
        frozen: network's name -> part -> flat vector.
        device: where to compute.
        share: by what the pictures of a pass are divided, where memory is short.
        store: whose exams; ``None``: the site's, opened now.

    Returns:
        Network's name -> features of every exam in the store's order, under each of its views, on the CPU. They may
        be memory-mapped: never write to them.

    Raises:
        DataError: if a patient of the store has withdrawn meanwhile.
        StorageError: if they cannot be kept.
    """
    opened = site_store(site, settings) if store is None else store
    data = _digest([STORE_FORMAT, opened.fingerprint, _exam_ids(opened)])
    known: dict[str, Found] = {}
    found = {}
    for spec in specs:
        work = Work(spec=spec, settings=settings, frozen=frozen[spec.name], views=_views(spec, settings))
        key = _key(work)
        if key not in known:
            path = site.folder / "store" / FOLDER / f"{data[:16]}-{key[:32]}.npy"
            known[key] = _from_file_or_now(site, path, opened, work, device, share)
        found[spec.name] = known[key]
    return found


def _views(spec: NetworkSpec, settings: Settings) -> tuple[View | None, ...]:
    if spec.probe is None:
        raise DataError(f"Expected a linear probe, got {spec.name}")
    if settings.training.augmentation is None:
        return (None,) * settings.probe.views
    views = [View(augmentation=spec.probe.augmentation, number=n) for n in range(settings.probe.views)]
    first = None if spec.probe.augmentation == 0 else views[0]
    return (first, *views[1:])


def _key(work: Work) -> str:
    spec, settings = work.spec, work.settings
    ranges = settings.training.augmentation
    augmented = any(view is not None for view in work.views)
    return _digest(
        [
            FORMAT,
            [None if view is None else [view.augmentation, view.number] for view in work.views],
            [settings.seed, ranges.model_dump()] if augmented and ranges is not None else None,
            [[name, settings.images[name].model_dump()] for name in spec.images],
            [repr(spec.shape), settings.network.backbone, settings.network.image_px, settings.network.width],
            [[part, _hash_of(weights)] for part, weights in sorted(work.frozen.items())],
        ]
    )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _hash_of(weights: Float32[Tensor, " _"]) -> str:
    return hashlib.sha256(np.ascontiguousarray(weights.cpu().numpy(), dtype="<f4").data).hexdigest()


def _from_file_or_now(
    site: Site, path: Path, store: Store, work: Work, device: torch.device, share: int
) -> Found:
    found = _load(path, exams=len(store.tensors), views=len(work.views))
    if found is not None:
        return found
    with _alone(site, store):
        found = _load(path, exams=len(store.tensors), views=len(work.views))  # another may have been first
        if found is not None:
            return found
        began = time.monotonic()
        now = _computed(store.tensors, _exam_ids(store), work, device, share)
        _keep(path, now)
        exams, views, size = now.shape
        site_log(
            site.folder,
            logging.INFO,
            f"features of {exams} exams under {views} views for {work.spec.name} and those like it: {size} numbers "
            f"each, {time.monotonic() - began:.1f} s",
        )
    return now


@contextmanager
def _alone(site: Site, store: Store) -> Iterator[None]:
    """While no withdrawal deletes, and only if none has since the store was opened."""
    with locked(site.folder / "store" / ".lock"):
        if _withdrawn(site, store):
            raise DataError(
                "A patient has withdrawn while the exams were read: the next request goes on without"
            )
        yield


def _withdrawn(site: Site, store: Store) -> bool:
    folder = site.folder
    refused = ledger_patients.read(folder, ledger_patients.WITHDRAWN)
    if not refused:
        return False
    secret = ledger_file.site_secret(folder)
    names = set(map(str, store.exams["patient_id"]))
    return any(ledger_patients.has_withdrawn(secret, refused, name) for name in names)


def _load(path: Path, *, exams: int, views: int) -> Found | None:
    """A file's features, or ``None`` where it is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    fits = array.dtype == np.dtype("<f4") and array.ndim == 3 and array.shape[:2] == (exams, views)
    return torch.from_numpy(array) if fits else None


def _keep(path: Path, found: Found) -> None:
    content = io.BytesIO()
    np.save(content, found.numpy().astype("<f4", copy=False))
    atomic.write(path, content.getvalue())
    for other in path.parent.glob("*.npy"):
        if other.name.partition("-")[0] != path.name.partition("-")[0]:
            other.unlink(missing_ok=True)


def _exam_ids(store: Store) -> list[str]:
    return [str(name) for name in store.exams["exam_id"]]


@torch.no_grad()
def _computed(
    data: ExamTensors, exam_ids: Sequence[str], work: Work, device: torch.device, share: int
) -> Found:
    network = _network(work, device)
    parts: list[Float32[Tensor, "n views features"]] = []
    rows: list[Int[Tensor, " n"]] = []
    exams_at_once = max(1, PICTURES // (share * len(work.views)))
    for patient in data.patient.unique():
        for exams in torch.nonzero(data.patient == patient).flatten().split(exams_at_once):
            names = [exam_ids[exam] for exam in exams]
            views = [network.read(_pictures(data, exams, names, view, work, device)) for view in work.views]
            parts.append(torch.stack(views, dim=1).cpu())
            rows.append(exams)
    found = torch.empty(len(data), *parts[0].shape[1:])
    found[torch.cat(rows)] = torch.cat(parts)
    return found


def _network(work: Work, device: torch.device) -> ProbeNetwork:
    spec, settings = work.spec, work.settings.network
    head = torch.zeros(build.layout(spec, settings).size, device=device)
    frozen = {part: weights.to(device) for part, weights in work.frozen.items()}
    network = build.assembled(spec, settings, head, frozen)
    assert isinstance(network, ProbeNetwork), "whose spec has probe"
    return network


def _pictures(
    data: ExamTensors,
    exams: Int[Tensor, " n"],
    exam_ids: Sequence[str],
    view: View | None,
    work: Work,
    device: torch.device,
) -> list[Tensor]:
    settings, image_px = work.settings, work.settings.network.image_px
    pictures = []
    for name in work.spec.images:
        stored = data.images[name].index_select(0, exams).to(device)
        drawn = None
        if view is not None:
            stored_px = stored.shape[-1]
            drawn = _joined([_drawn(name, exam_id, view, settings, stored_px) for exam_id in exam_ids])
        pictures.append(picture(stored, settings.images[name], image_px=image_px, parameters=drawn))
    return pictures


def _drawn(image: str, exam_id: str, view: View, settings: Settings, stored_px: int) -> AugmentParameters:
    """The changes of one picture, from a seed of its own."""
    seed = derive_seed("features", settings.seed, view.augmentation, view.number, exam_id, image)
    ranges = settings.training.augmentation
    assert ranges is not None, "else no view is augmented"
    return augment.draw(
        1,
        image=settings.images[image],
        settings=ranges,
        image_px=settings.network.image_px,
        stored_px=stored_px,
        generator=torch.Generator().manual_seed(seed),
    )


def _joined(drawn: Sequence[AugmentParameters]) -> AugmentParameters:
    return AugmentParameters(
        theta=torch.cat([one.theta for one in drawn]),
        brightness=torch.cat([one.brightness for one in drawn]),
        contrast=torch.cat([one.contrast for one in drawn]),
    )
