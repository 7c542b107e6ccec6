"""Public encoders from phantoms: what private campaigns train their heads on.

For each measurement and encoder one network learns the grades of phantom patients, all sites' exams together. What is
exported is its backbones and a *neck*: a linear map of their features to a few numbers, which a head reads scaled
to unit length, and a public *head*, where private ones may start (:mod:`simulation.runs.projection`). The numbers are
few, because noise grows with their number, and alike in size, because all of a clipped gradient is noised alike.
Everything follows from phantoms, so it is public and costs no privacy.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor
from torch.nn import functional as F

from client.data.site_store import site_store
from client.site.site import Site
from common.errors import ConfigurationError, DataError, refusal
from common.evaluation import agreement
from common.exam import MISSING
from common.machine import encoder_files
from common.machine.encoder_files import About
from common.networks import build
from common.networks.backbones import backbone
from common.networks.probe import ProbeNetwork
from common.networks.spec import NetworkSpec, Probe, Target
from common.sections.cohort import PhantomSettings
from common.sections.validity import dumped
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.inputs import inputs, labels, training_exams
from common.training.local import score, train_network
from common.training.local_settings import LocalSettings, local_settings
from common.training.seeds import derive_seed
from common.version import VERSION
from simulation.cohorts import cohort
from simulation.cohorts.disjoint import machines
from simulation.engine import engines
from simulation.engine.progress import Display
from simulation.runs.projection import head, projection

PICTURES = 128
"""Exams whose features are computed together."""
HEADS = 1
"""Version of the public heads beside the encoders; folders from before there were any are not taken for the same."""
MANY_PATIENTS = 100
"""The fewest phantoms for which making them in parallel processes pays off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Encoders that are there.

    Attributes:
        folder: for ``network.weights``.
        about: what is known of them.
        reused: whether they were there already, made with the same settings.
    """

    folder: Path
    about: About
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoder:
    tensors: Mapping[str, Tensor]
    kappa: float | None


def pretrain(settings: Settings, *, out: Path, display: Display) -> Made:
    """Make public encoders, or find those of the same settings.

    Args:
        settings: ``images``, ``measurements``, ``network``, ``training``, ``federation.rounds`` (of
            ``training.local_steps`` each), ``probe.encoders``, ``probe.neck`` and ``cohort.phantom`` count.
        out: folder to be made; it appears when it is complete.
        display: shows progress.

    Raises:
        ConfigurationError: for settings of which no encoder can be made, or if ``out`` holds something else.
        VerificationError: if ``out`` holds such encoders, and they were changed.
        DataError: if the folder cannot be written.
    """
    phantom, neck = _checked(settings)
    wanted = _identity(settings, phantom)
    with cohort.by_one(out, display.line) as there:
        if there:
            return Made(folder=out, about=_existing(out, wanted), reused=True)
        return Made(folder=out, about=_made(settings, phantom, neck, wanted, out, display), reused=False)


def _made(
    settings: Settings,
    phantom: PhantomSettings,
    neck: int,
    wanted: dict[str, Any],
    out: Path,
    display: Display,
) -> About:
    draft = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        about = _make(settings, phantom, neck, wanted, draft, display)
        cohort.place(draft / "made", out)
        return about
    except OSError as error:
        raise DataError(f"The encoders cannot be written to {out}: {refusal(error)}") from None
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _checked(settings: Settings) -> tuple[PhantomSettings, int]:
    phantom = settings.cohort.phantom if settings.cohort is not None else None
    if phantom is None:
        raise ConfigurationError(
            "Expected [cohort.phantom]: encoders are public only if they have learnt from no patient"
        )
    if phantom.seed is None:
        raise ConfigurationError("Expected cohort.phantom.seed, one that no private cohort has")
    if settings.probe.neck is None:
        raise ConfigurationError("Expected probe.neck, how many numbers an encoder gives of an exam")
    if settings.privacy is not None or settings.network.weights != "none":
        raise ConfigurationError(
            'Expected no [privacy] section and network.weights = "none": phantoms need no privacy, and encoders '
            "start at random"
        )
    with torch.device("meta"):  # nothing is allocated
        _, features = backbone(settings.network)
    fewest = min(len(measurement.images) for measurement in settings.measurements.values()) * features
    if settings.probe.neck > fewest:
        raise ConfigurationError(
            f"Expected probe.neck of at most {fewest}, as many features as a measurement's backbones give, got "
            f"{settings.probe.neck}"
        )
    return phantom, settings.probe.neck


def _identity(settings: Settings, phantom: PhantomSettings) -> dict[str, Any]:
    """All that the encoders follow from."""
    return {
        **{key: getattr(settings, key).model_dump(mode="json") for key in ("network", "training")},
        "images": {name: image.model_dump(mode="json") for name, image in settings.images.items()},
        "measurements": {name: m.model_dump(mode="json") for name, m in settings.measurements.items()},
        "validity": dumped(settings.validity),
        "rounds": settings.federation.rounds,
        "encoders": settings.probe.encoders,
        "neck": settings.probe.neck,
        "phantom": phantom.model_dump(mode="json"),
        "generator": cohort.VERSION,
        "seed": settings.seed,
        "heads": HEADS,
    }


def _existing(out: Path, wanted: Mapping[str, Any]) -> About:
    found = encoder_files.read(out).about
    differ = sorted(key for key in wanted if found.settings.get(key) != wanted[key])
    if differ:
        raise ConfigurationError(
            f"Expected encoders of the same settings at {out}, theirs differ in {', '.join(differ)}: remove the "
            f"folder or choose another with --out"
        )
    return found


def _make(
    settings: Settings,
    phantom: PhantomSettings,
    neck: int,
    identity: dict[str, Any],
    draft: Path,
    display: Display,
) -> About:
    assert phantom.seed is not None
    workers = 2 if phantom.sites * phantom.patients >= MANY_PATIENTS else 1
    with display.step("phantoms") as bar:
        made = cohort.make(phantom, seed=phantom.seed, out=draft / "phantoms", workers=workers, progress=bar)
    with display.step("pictures") as bar:
        stores = []
        for number, site in enumerate(made.sites, start=1):
            stores.append(site_store(Site.open(site.folder), settings).tensors)
            bar(number, len(made.sites))
    data = pooled(stores)
    names = list(product(range(settings.probe.encoders), settings.measurements))
    encoders = dict(zip(names, _trained(names, data, settings, display), strict=True))
    about = About(
        name=settings.name,
        seed=phantom.seed,
        machines=machines(phantom, seed=phantom.seed),
        exams=int((data.fold != MISSING).sum()),
        encoders=settings.probe.encoders,
        backbone=settings.network.backbone,
        width=settings.network.width,
        image_px=settings.network.image_px,
        neck=neck,
        images=settings.images,
        measurements=settings.measurements,
        kappa={
            name: tuple(encoders[e, name].kappa for e in range(settings.probe.encoders))
            for name in settings.measurements
        },
        versions={"synofed": VERSION, "torch": torch.__version__, "phantom": str(cohort.VERSION)},
        settings=identity,
        sha256="",
    )
    (draft / "made").mkdir()
    tensors = {name: tensor for encoder in encoders.values() for name, tensor in encoder.tensors.items()}
    return encoder_files.write(draft / "made", about, tensors)


def pooled(stores: Sequence[ExamTensors]) -> ExamTensors:
    """All sites' exams as one's."""
    before = np.cumsum([0, *(int(store.patient.max()) + 1 for store in stores)])
    first = stores[0]
    return ExamTensors(
        images={name: torch.cat([store.images[name] for store in stores]) for name in first.images},
        grades={name: torch.cat([store.grades[name] for store in stores]) for name in first.grades},
        fold=torch.cat([store.fold for store in stores]),
        patient=torch.cat([s.patient + int(n) for s, n in zip(stores, before[:-1], strict=True)]).int(),
        numbers={name: torch.cat([store.numbers[name] for store in stores]) for name in first.numbers},
    )


def _trained(
    names: Sequence[tuple[int, str]], data: ExamTensors, settings: Settings, display: Display
) -> list[_Encoder]:
    """Side by side, one on each worker; the results do not depend on how many there are."""
    devices = engines.devices(settings.compute)
    rounds, stop = settings.federation.rounds, threading.Event()
    done = dict.fromkeys(names, 0)
    with display.step("encoders") as bar:

        def one(index: int) -> _Encoder:
            def progress(rounds_done: int) -> None:
                if stop.is_set():
                    raise KeyboardInterrupt
                done[names[index]] = rounds_done
                bar(sum(done.values()), rounds * len(names))

            device = torch.device(devices[index % len(devices)])
            return _encoder(*names[index], data, settings, device, progress)

        def started() -> None:
            torch.set_num_threads(settings.compute.threads)

        with ThreadPoolExecutor(len(devices), initializer=started) as pool:
            try:
                return list(pool.map(one, range(len(names))))
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise


def _encoder(
    number: int,
    measurement: str,
    data: ExamTensors,
    settings: Settings,
    device: torch.device,
    progress: Callable[[int], None],
) -> _Encoder:
    graded = settings.measurements[measurement]
    source = f"encoder{number}/{measurement}"
    spec = NetworkSpec(
        name=source,
        images=graded.images,
        target=Target(measurement=measurement, kind="nominal", threshold=None, classes=graded.grades),
        replica=number,
        probe=Probe(neck=settings.network.hidden),
    )
    local = local_settings(spec, settings, device=device)
    if len(labels(data, spec)[training_exams(data, spec)].unique()) < graded.grades:
        raise ConfigurationError(f"Expected phantoms of each grade of {measurement}: ask for more patients")
    weights = learnt(local, data, seed=derive_seed(settings.seed, "pretrain", source), progress=progress)
    found = _read(weights, data, local, settings)
    assert settings.probe.neck is not None
    weight, bias = projection(*found, size=settings.probe.neck)
    head_weight, head_bias = head(
        F.normalize(found[0] @ weight.T + bias, dim=1), found[1], classes=graded.grades
    )
    parts = {
        f"backbones.{index}": _named(weights, local, f"backbones.{index}")
        for index in range(len(graded.images))
    }
    linear = {
        "neck": {"weight": weight, "bias": bias},
        "head": {"weight": head_weight, "bias": head_bias},
    }
    tensors = {
        f"{source}/{part}/{name}": tensor
        for part, named in (parts | linear).items()
        for name, tensor in named.items()
    }
    return _Encoder(tensors=tensors, kappa=_kappa(weights, data, local))


def learnt(
    local: LocalSettings,
    data: ExamTensors,
    *,
    seed: int,
    progress: Callable[[int], None],
    start: Float32[Tensor, " size"] | None = None,
) -> Float32[Tensor, " size"]:
    """A network that has learnt from all training exams in one place.

    Args:
        local: the network and its training.
        data: the exams.
        seed: of the start and of what training draws.
        progress: told of rounds done.
        start: where it starts; ``None``: at random.

    Raises:
        ConfigurationError: if the training diverges.
    """
    weights = build.initial_weights(local.spec, local.network, seed=seed) if start is None else start
    for server_round in range(1, local.rounds + 1):
        trained, _ = train_network(weights, {}, data, local, server_round, derive_seed(seed, server_round))
        weights = weights + trained.update
        progress(server_round)
    if not bool(weights.isfinite().all()):
        raise ConfigurationError(f"The training of {local.spec.name} diverged: lower training.learning_rate")
    return weights


def _named(weights: Float32[Tensor, " size"], local: LocalSettings, part: str) -> dict[str, Tensor]:
    """A trained part's tensors by their names in it."""
    flat = build.part(local.spec, local.network, weights, part)
    return dict(build.part_layout(local.spec, local.network, part).pieces(flat))


@torch.no_grad()
def _read(
    weights: Float32[Tensor, " size"], data: ExamTensors, local: LocalSettings, settings: Settings
) -> tuple[Float32[Tensor, "n features"], Int[Tensor, " n"]]:
    """What the backbones give of the training exams, each as it is and augmented once, and the exams' grades."""
    network = build.assembled(local.spec, local.network, weights.to(local.device), {})
    assert isinstance(network, ProbeNetwork), "whose spec has probe"
    exams, grades = training_exams(data, local.spec), labels(data, local.spec)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "neck", local.spec.name))
    found, read = [], []
    for drawn_by in (None, generator):
        for chunk in exams.split(PICTURES):
            pictures, classes = inputs(data, chunk, grades[chunk], local, drawn_by)
            backbones = zip(network.backbones, pictures, strict=True)
            found.append(torch.cat([module(picture) for module, picture in backbones], dim=1).cpu())
            read.append(classes.cpu())
    return torch.cat(found), torch.cat(read)


def _kappa(weights: Float32[Tensor, " size"], data: ExamTensors, local: LocalSettings) -> float | None:
    """Of the network's own classifier, on phantoms held out."""
    grades = labels(data, local.spec)
    tested = torch.nonzero((data.fold == MISSING) & (grades != MISSING)).flatten()
    answers = score(weights, data, tested, local).argmax(dim=1)
    matrix = agreement.confusion(grades[tested].numpy(), answers.numpy(), local.spec.target.classes)
    found = float(agreement.kappa(matrix, "linear"))
    return found if math.isfinite(found) else None
