"""A site's store, opened from what ``site.toml`` says of its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from client.site.site import Site
from common.settings import Settings

if TYPE_CHECKING:
    from client.data.store import Store


def site_store(
    site: Site, settings: Settings, *, progress: Callable[[int, int], None] | None = None
) -> Store:
    """The site's exams as tensors: built once, then opened.

    Args:
        site: the site.
        settings: of the campaign; say which images and measurements are read.
        progress: told of exams decoded, out of all.

    Raises:
        DataError: if tables or images cannot be used.
    """
    from client.data.store import open_store  # noqa: PLC0415  torch: only where exams are read
    from client.data.tables.sources import Sources  # noqa: PLC0415

    return open_store(Sources.of(site), settings, progress=progress)
