"""``synofed site join``: the site takes part, for as long as this runs."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

from client.cli.cli_options import Folder
from client.connection.join import Joined, joining
from client.log.log import site_log
from common.text.redaction import redacted
from common.text.terminal import LAYOUT, visible


def join(
    folder: Folder,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when the connection ends instead of reconnecting.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Connect to the centre and stay connected until SIGTERM or Ctrl-C. The policy is checked at every request."""
    start = joining(folder)

    def say(text: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        text = visible(redacted(text), keep=LAYOUT)
        with suppress(OSError):  # its log may lie on a full disk
            sys.stdout.write(
                (json.dumps({"time": now, "event": text}) if as_json else f"{now} {text}") + "\n"
            )
            sys.stdout.flush()
        site_log(folder, logging.INFO, text)

    say(f"joining {start.address}")
    Joined(folder, say).run(once=once)
