import sqlite3
from importlib import import_module
from pathlib import Path

import pytest

from server.service.waiting_superlink import WAIT_MS, retry_while_locked

DATABASE = "flwr.supercore.sql_mixin"
PRAGMAS = "SQLITE_PRAGMAS"


def test_flower_s_database_waits_as_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = import_module(DATABASE)
    monkeypatch.setattr(module, PRAGMAS, retry_while_locked(vars(module)[PRAGMAS]))
    with sqlite3.connect(tmp_path / "link.db") as connection:
        vars(module)["_set_sqlite_pragmas"](connection, None)
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (WAIT_MS,)
    connection.close()


def test_without_the_setting_nothing_starts() -> None:
    with pytest.raises(SystemExit, match="busy_timeout"):
        retry_while_locked((("journal_mode", "WAL"),))
