"""Public encoders in a folder: frozen parts of networks, and what is known of where they come from.

``encoders.safetensors`` has the tensors of a part ``encoder0/hypertrophy/neck`` under names that begin so, such as
``encoder0/hypertrophy/neck/weight``; ``about.json`` says from which phantoms they were made, and has the file's
SHA-256. Nothing in either comes from a patient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from common.errors import ConfigurationError, VerificationError
from common.machine import atomic
from common.sections.measurements import MeasurementSettings
from common.sections.networks import ImageSettings
from common.sections.section import Name, Positive, Section, describe
from common.settings import Settings

TENSORS = "encoders.safetensors"
ABOUT = "about.json"


class Machine(Section):
    """An ultrasound machine whose pictures an encoder has seen.

    Attributes:
        name: of the machine.
        profile: SHA-256 of all its properties but the name, in hex.
    """

    name: str
    profile: str


class About(Section):
    """What is known of a folder's encoders.

    Attributes:
        format: of the folder.
        name: of the configuration that they were made with.
        seed: of the phantoms; no private cohort may have the same.
        machines: whose pictures they learnt from, or were chosen by.
        exams: that they learnt from.
        encoders: of each measurement.
        backbone: as in ``network``.
        width: as in ``network``.
        image_px: as in ``network``.
        neck: numbers that they give of an exam.
        images: kinds of pictures.
        measurements: which pictures of an exam each reads.
        kappa: measurement -> linear weighted kappa of each encoder's own classifier on phantoms held out; ``None``
            where there are too few.
        versions: of what made them.
        settings: all that they were made with.
        sha256: of the file of tensors, in hex.
    """

    format: Literal[1] = 1
    name: Name
    seed: int
    machines: tuple[Machine, ...]
    exams: Positive
    encoders: Positive
    backbone: str
    width: int
    image_px: int
    neck: Positive
    images: dict[str, ImageSettings]
    measurements: dict[str, MeasurementSettings]
    kappa: dict[str, tuple[float | None, ...]]
    versions: dict[str, str]
    settings: dict[str, Any]
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """A folder that was read.

    Attributes:
        about: what is known of it.
        tensors: by name.
    """

    about: About
    tensors: Mapping[str, Tensor]

    def part(self, source: str) -> dict[str, Tensor]:
        """The tensors of one part, for example ``encoder0/hypertrophy/neck``, by their names in it."""
        prefix = f"{source}/"
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}


def write(folder: Path, about: About, tensors: Mapping[str, Tensor]) -> About:
    """Write a folder's two files; the hash is filled in.

    Args:
        folder: which is there.
        about: what to say.
        tensors: by name, float32 on the CPU.

    Raises:
        OSError: if they cannot be written.
    """
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    complete = about.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    atomic.write(folder / TENSORS, content)
    atomic.write(folder / ABOUT, (complete.model_dump_json(indent=2) + "\n").encode())
    return complete


def read_about(folder: Path) -> About:
    """What is known of a folder's encoders.

    Raises:
        ConfigurationError: if it has none.
    """
    path = folder / ABOUT
    try:
        return About.model_validate_json(path.read_bytes())
    except OSError:
        raise ConfigurationError(
            f"Expected public encoders in {folder}, there is no {ABOUT}: make some with `synofed pretrain`"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=str(path))) from None


def read(folder: Path) -> Encoders:
    """A folder's encoders, held against their hash.

    Raises:
        ConfigurationError: if it has none.
        VerificationError: if the tensors are not those that were written.
    """
    about = read_about(folder)
    try:
        status = (folder / TENSORS).stat()
        tensors = _tensors(folder / TENSORS, about.sha256, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ConfigurationError(
            f"Expected public encoders in {folder / TENSORS}, it cannot be read ({error.strerror}): make them anew"
        ) from None
    return Encoders(about=about, tensors=tensors)


@lru_cache(maxsize=2)
def _tensors(path: Path, sha256: str, size_bytes: int, changed_ns: int) -> Mapping[str, Tensor]:
    """Read once for all parts of all networks, until the file changes."""
    del size_bytes, changed_ns
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VerificationError(
            f"Expected {path} with the SHA-256 that {ABOUT} states, got a different one: restore both "
            "files, or make them again"
        )
    return safetensors.torch.load(content)


def check_fit(about: About, settings: Settings, *, source: str) -> None:
    """Whether the encoders can be what a run's networks start from.

    Args:
        about: the encoders.
        settings: of the run.
        source: the folder, for the message.

    Raises:
        ConfigurationError: naming every setting that differs.
    """
    network, probe = settings.network, settings.probe
    expected: dict[str, tuple[object, object]] = {
        "network.backbone": (about.backbone, network.backbone),
        "network.image_px": (about.image_px, network.image_px),
        "probe.neck": (about.neck, probe.neck),
    }
    if about.backbone == "small":
        expected["network.width"] = (about.width, network.width)
    for name, measurement in settings.measurements.items():
        learnt = about.measurements.get(name)
        expected[f"measurements.{name}.images"] = (learnt and learnt.images, measurement.images)
        for image in measurement.images:
            expected[f"images.{image}"] = (about.images.get(image), settings.images[image])
    differ = [f"  {key}: expected {had}, got {has}" for key, (had, has) in expected.items() if had != has]
    if about.encoders < probe.encoders:
        differ.append(f"  probe.encoders: expected at most {about.encoders}, got {probe.encoders}")
    if differ:
        raise ConfigurationError("\n".join([f"The encoders in {source} do not fit these settings:", *differ]))
