"""Flower's SuperLink, that waits for its own database.

``python -P -m server.service.waiting_superlink ...`` takes the arguments of ``flower-superlink``. While the
objects of a large message are deleted the database is locked for seconds; Flower gives up after five and answers
500, upon which its executor ends, and with it every campaign's process. Here it waits for nearly as long as its
clients do.
"""

from __future__ import annotations

import sys
from importlib import import_module

BUSY_TIMEOUT = "busy_timeout"
WAIT_MS = 25_000
"""Clients wait for 30 s."""


def retry_while_locked(pragmas: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """SQLite's settings with the longer wait."""
    if BUSY_TIMEOUT not in dict(pragmas):
        sys.exit(
            "Expected busy_timeout among the settings of Flower's database: another version of Flower is here"
        )
    return tuple((name, str(WAIT_MS) if name == BUSY_TIMEOUT else value) for name, value in pragmas)


def main() -> None:
    """Run the SuperLink until it is ended."""
    database = import_module("flwr.supercore.sql_mixin")
    vars(database)["SQLITE_PRAGMAS"] = retry_while_locked(vars(database)["SQLITE_PRAGMAS"])
    from flwr.superlink.cli.flower_superlink import flower_superlink  # noqa: PLC0415

    flower_superlink()


if __name__ == "__main__":
    main()
