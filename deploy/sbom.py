"""The bundle's list of contents (SBOM) in CycloneDX 1.6 JSON: every wheel, every other file, what depends on what.

Names, versions, licences and dependencies are those that each wheel's own metadata declare; hashes are of the wheels.
What a wheel carries inside, such as libraries in C, is not looked into.
https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import hashlib
import re
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

LONGEST_LICENCE = 100
"""Characters: some metadata hold a whole licence where its name should be."""
Document = dict[str, Any]


def bill(folder: Path, *, name: str, version: str) -> Document:
    """The bill of materials of a bundle's folder.

    Args:
        folder: with ``wheels/`` and other files.
        name: of what the bundle installs; one of the wheels.
        version: of it.
    """
    wheels = sorted((folder / "wheels").glob("*.whl"))
    metadata = {wheel: _metadata(wheel) for wheel in wheels}
    refs = {_normal(found["Name"]): _purl(found) for found in metadata.values()}
    components = [_library(wheel, found) for wheel, found in metadata.items()]
    own = next(each for each in components if each["name"] == name)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in wheels)
    components += [_file(path, path.relative_to(folder).as_posix()) for path in files]
    seed = "".join(each["hashes"][0]["content"] for each in components)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {
                "components": [{"type": "application", "name": "deploy/bundle.py", "version": version}]
            },
            "component": {**own, "type": "application", "bom-ref": f"{name}-bundle"},
        },
        "components": components,
        "dependencies": [
            {"ref": f"{name}-bundle", "dependsOn": sorted(refs.values())},
            *({"ref": _purl(found), "dependsOn": _needs(found, refs)} for found in metadata.values()),
        ],
    }


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        return HeaderParser().parsestr(archive.read(name).decode("utf-8"))


def _library(wheel: Path, metadata: Message) -> Document:
    purl = _purl(metadata)
    library: Document = {
        "type": "library",
        "bom-ref": purl,
        "name": _normal(metadata["Name"]),
        "version": metadata["Version"],
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256(wheel)}],
        "properties": [{"name": "synofed:file", "value": f"wheels/{wheel.name}"}],
    }
    licences = _licences(metadata)
    return {**library, "licenses": licences} if licences else library


def _file(path: Path, name: str) -> Document:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256(path)}],
    }


def _licences(metadata: Message) -> list[Document]:
    """As SPDX where the metadata have it (PEP 639), else by the names that they give; none where they say nothing."""
    if metadata["License-Expression"]:
        return [{"expression": metadata["License-Expression"]}]
    classifiers = (each.split(" :: ") for each in metadata.get_all("Classifier", []))
    names = [parts[-1] for parts in classifiers if parts[0] == "License" and parts[-1] != "OSI Approved"]
    text = (metadata["License"] or "").strip()
    if text and text != "UNKNOWN" and "\n" not in text and len(text) <= LONGEST_LICENCE:
        names.insert(0, text)
    return [{"license": {"name": name}} for name in dict.fromkeys(names)]


def _needs(metadata: Message, refs: Mapping[str, str]) -> Sequence[str]:
    """What it requires and the bundle has; extras are left out."""
    required = (each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each)
    names = {_normal(found[0]) for each in required if (found := re.match(r"[\w.-]+", each))}
    return sorted({refs[name] for name in names if name in refs})


def _purl(metadata: Message) -> str:
    return f"pkg:pypi/{_normal(metadata['Name'])}@{quote(metadata['Version'], safe='')}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
