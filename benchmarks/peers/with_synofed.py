"""A side of ``compare.py``: synofed's simulation over the site folders, two workers of one thread.

    python benchmarks/peers/with_synofed.py FOLDER OUT [--set compute.engine=ray]

Messages, spool, journal with fsync, networks' files are those of every campaign. The sites permit no histograms, so
nothing is scored.
"""

import sys

import torch
import work

from common import settings as configuration
from server.campaign.events import Event, StageStarted
from server.rounds.journal import Journal, RoundRecord
from simulation.engine import engines
from simulation.engine.grid import Workers


def main() -> None:
    asked = work.asked()
    overrides = sys.argv[4:5]
    settings = configuration.load(work.CONFIG, overrides=[*asked.overrides, *overrides])

    def observe(event: Event) -> None:
        if isinstance(event, StageStarted):
            asked.began(1)
        if isinstance(event, RoundRecord):
            asked.began(event.round + 1)

    folders = [asked.folder / "sites" / name for name in asked.sites]
    with Workers(("cpu",) * 2, threads=1) as pool:
        engines.run_campaign(settings, folders, folder=asked.out, observer=observe, workers=pool)
    (group,) = (asked.out / "journal").iterdir()
    journal = Journal(asked.out / "journal", group.name)
    last = journal.last(plan_hash=settings.plan_hash())
    assert last is not None
    asked.done(torch.from_numpy(journal.weights(last.server_round)[asked.spec.name]))


if __name__ == "__main__":
    main()
