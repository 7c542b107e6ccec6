"""The site's own log: what happened here in full, never sent anywhere."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path

from common.text.redaction import redacted


def site_log(folder: Path, level: int, text: str, *, with_traceback: bool = False) -> None:
    """Append to ``<site folder>/log.txt``; a site whose log cannot be written still answers.

    Args:
        folder: the site's folder.
        level: as in :mod:`logging`.
        text: what happened.
        with_traceback: add the traceback of the exception that is being handled.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    details = f"\n{traceback.format_exc()}" if with_traceback else ""
    try:
        with (folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{when} {logging.getLevelName(level)} {redacted(f'{text}{details}')}\n")
    except OSError:
        logging.getLogger("synofed.client").warning("the site's log cannot be written")
