import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from client.ledger import ledger, ledger_check, ledger_file, ledger_patients
from common.privacy.accounting.spending import PrivateRelease
from tests.ledger_spender import RELEASED
from tests.ledgers import make_release, make_site

ROOT = Path(__file__).parents[3]
KILLS = 40


def test_killed_at_any_instant_no_release_is_unbooked(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=1000.0)
    command = [sys.executable, "-W", "ignore", "-m", "tests.ledger_spender", str(site.folder), str(KILLS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, output.decode()
    released: Counter[str] = Counter()
    requests = set()
    for line in (site.folder / RELEASED).read_text(encoding="utf-8").splitlines():
        request_id, *names = line.split()
        requests.add(request_id)
        released.update(names)
    assert requests
    book = ledger.book(site.folder)
    secret = ledger_file.site_secret(site.folder)
    table = ledger_patients.patients(site.folder, book)
    pseudonyms = {name: ledger_patients.name_of(secret, table, name) for name in released}
    numbers = ledger_patients.numbers(table, book, pseudonyms.values())
    booked = {
        name: sum(step.count for step in book.history(numbers[pseudonyms[name]]).steps) for name in released
    }
    assert all(booked[name] >= released[name] for name in released)
    ids = [one.release.request_id for one in book.releases if isinstance(one.release, PrivateRelease)]
    assert requests <= set(ids)
    assert len(ids) - len(requests) <= KILLS
    assert ledger_check.check(site.folder).head.sequence >= len(ids) + 1
    ledger.reserve(site, make_release("afterwards"), ["p000"])
    assert ledger_check.check(site.folder).head.torn_bytes == 0
