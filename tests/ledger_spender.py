"""Spends from a site's ledger and is killed again and again: ``python -m tests.ledger_spender FOLDER KILLS``.

A child books a release, then notes it as released; it is killed (SIGKILL) at some instant, and the next one goes on.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

# Accounting imports them where it needs them, which takes longer than a child lives.
import scipy.optimize
import scipy.special  # noqa: F401

from client.ledger import ledger
from client.site.site import Site
from tests.ledgers import make_release, patients

RELEASED = "released.txt"
PATIENTS = 6


def spend(folder: Path, seed: int) -> None:
    """Book, release, book, ... without end; patients come one after another."""
    site = Site.open(folder)
    rng = random.Random(seed)
    released = os.open(folder / RELEASED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(1_000_000):
        request_id = f"r{seed}-{number}"
        eligible = rng.sample(patients(PATIENTS + seed), k=rng.randint(1, PATIENTS))
        ledger.reserve(site, make_release(request_id, sigma=1000.0), eligible)
        os.write(released, f"{request_id} {' '.join(eligible)}\n".encode())


def main() -> None:
    """Let one child after another spend, and kill it."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)
    for seed in range(kills):
        child = os.fork()
        if child == 0:
            try:
                spend(folder, seed)
            finally:
                os._exit(1)
        time.sleep(0.01 + rng.random() * 0.08)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit("a child ended by itself")


if __name__ == "__main__":
    main()
