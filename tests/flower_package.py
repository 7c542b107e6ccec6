"""Packages of Flower's form with any files, as a centre that is not honest would ship them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping


def package(files: Mapping[str, str]) -> bytes:
    """A package that lists its files with their checksums, as Flower wants it."""
    listed = [
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text)}" for name, text in files.items()
    ]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in {**files, ".info/CONTENT": "\n".join(listed)}.items():
            archive.writestr(name, text)
    return content.getvalue()
