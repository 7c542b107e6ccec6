"""Flower's package of the app (its FAB): a file that names the two apps, its checksum, and no code.

What runs at a site is the synofed that the site itself installed. The bytes depend on the version alone, so that a
site knows the only package that it accepts without asking anybody.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from functools import cache

from common.version import VERSION

PUBLISHER = "synofed"
NAME = "synofed"
CAMPAIGN = "campaign"
"""The one key of a run's configuration: the campaign's name."""

_PYPROJECT = """\
[project]
name = "{name}"
version = "{version}"
description = "Names the apps of an installed synofed"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
{campaign} = ""
"""
_REFUSAL = "Only the package of synofed {version} runs here"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@cache
def fab() -> bytes:
    """The package of this version: a zip of ``pyproject.toml`` and its checksum, the same bytes everywhere."""
    project = _PYPROJECT.format(name=NAME, version=VERSION, publisher=PUBLISHER, campaign=CAMPAIGN).encode()
    checksum = f"pyproject.toml,{hashlib.sha256(project).hexdigest()},{8 * len(project)}".encode()
    content = io.BytesIO()
    with zipfile.ZipFile(
        content, "w", zipfile.ZIP_STORED
    ) as archive:  # stored: compressors differ in versions
        for name, data in (("pyproject.toml", project), (".info/CONTENT", checksum)):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return content.getvalue()


@cache
def fab_hash() -> str:
    """SHA-256 of :func:`fab`, in hex: what a site's list of permitted packages holds."""
    return hashlib.sha256(fab()).hexdigest()


def refusal() -> str:
    """What a site answers to any other package than its own."""
    return _REFUSAL.format(version=VERSION)


def refused_by(text: str) -> str | None:
    """The version of the site that answered with its :func:`refusal`; ``None`` if the text is none."""
    found = re.fullmatch(_REFUSAL.format(version=r"([0-9A-Za-z.+-]{1,40})"), text)
    return found[1] if found else None
