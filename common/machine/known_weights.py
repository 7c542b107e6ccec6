"""Which files of start weights are known, and what was imported of them.

A list is TOML: ``[[files]]`` with the attributes of :class:`KnownFile`. Ours lies beside this module; a list of one's
own is written alike. What was imported lies in the folder ``weights``, where ``network.weights = "imagenet"`` looks
first, as ``<backbone>.safetensors``, and says in its metadata what it is.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
from pydantic import Field, ValidationError

from common.errors import ConfigurationError
from common.sections.section import Section, describe

OURS = Path(__file__).with_suffix(".toml")
FOLDER = Path("weights")
"""In the working folder, as ``runs`` and ``cohorts`` are."""
ABOUT = "about"
"""The one key of an imported file's metadata; with several, equal content would not give equal bytes."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pretrained = Literal["resnet18", "mobilenet_v2", "vgg16", "inception_v3"]


class KnownFile(Section):
    """A file of weights that somebody looked at.

    Attributes:
        backbone: whose weights it has.
        trained_on: what they learnt from.
        package: that it comes in, by its name for pip; empty: in none.
        version: of the package.
        file: its path in the package.
        sha256: of the file, in hex.
        size_bytes: of the file.
        names: of its tensors: ``torchvision``'s, or others, ``in_order`` of torchvision's.
        licence: under which it may be used.
        origin: whose work it is.
    """

    backbone: Pretrained
    trained_on: str = "not said"
    package: str = ""
    version: str = ""
    file: str = ""
    sha256: Digest
    size_bytes: Annotated[int, Field(ge=1, le=2**30)]
    names: Literal["torchvision", "in_order"] = "torchvision"
    licence: str = "not said"
    origin: str = "not said"

    @property
    def source(self) -> str:
        """Where it comes from, in a few words."""
        return f"{self.package} {self.version}".strip() or self.file or "a file"

    @property
    def about(self) -> dict[str, str]:
        """What an imported file says of itself."""
        shown = ("backbone", "trained_on", "package", "version", "file", "sha256", "licence", "origin")
        return {name: getattr(self, name) for name in shown}


class _List(Section):
    files: tuple[KnownFile, ...] = ()


def read(path: Path = OURS) -> tuple[KnownFile, ...]:
    """The files of a list.

    Raises:
        ConfigurationError: if it is none, with every line that is wrong.
    """
    try:
        return _List.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).files
    except OSError as error:
        raise ConfigurationError(
            f"Expected a list of files in {path}, it cannot be read: {error.strerror}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Expected a list of files as TOML in {path}: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=str(path))) from None


def trusted(sha256: str, *, backbone: str, size_bytes: int, name: str) -> KnownFile:
    """A file that is on no list, and that whoever imports it vouches for.

    Args:
        sha256: as it was told by whoever published the file, in hex.
        backbone: whose weights it has.
        size_bytes: of the file.
        name: of the file.

    Raises:
        ConfigurationError: if that is no SHA-256, or no backbone that has pretrained weights.
    """
    given = {"sha256": sha256.strip().lower(), "backbone": backbone, "size_bytes": size_bytes, "file": name}
    try:
        return KnownFile.model_validate(given)
    except ValidationError as error:
        raise ConfigurationError(describe(error, source="What --trust says")) from None


def imported_path(backbone: str, *, folder: Path = FOLDER) -> Path:
    """Where a backbone's imported weights lie."""
    return folder / f"{backbone}.safetensors"


def said_of(path: Path) -> dict[str, str]:
    """What an imported file says of itself; empty: nothing, or there is none."""
    try:
        opened: Any = safetensors.safe_open(path, framework="numpy")
        with opened as file:
            said = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return {}
    return {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}


def saying(said: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file that says this of itself."""
    return {ABOUT: json.dumps(dict(said))}


def about(path: Path) -> str:
    """The same in a few words, as far as it is said: what it learnt from, where it comes from, its licence."""
    said = said_of(path)
    where = f"{said.get('package', '')} {said.get('version', '')}".strip() or said.get("file", "")
    words = (said.get("trained_on", ""), where, said.get("licence", ""))
    return ", ".join(word for word in words if word and word != "not said")
