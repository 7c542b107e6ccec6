"""A centre that asks for a round of a finished secure campaign once more: every site refuses, and draws nothing.

Two sums of one round, of which one site is missing in the second, differ by what that site added. So a site that has
helped to open a round makes no other attempt at it (:mod:`client.consent.opened_sums`). What is asked is what the
centre itself would ask, and the sites' own code answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.consent.opened_sums import FOLDER
from client.ledger import ledger
from client.rounds.exchange import Compute
from client.rounds.sum_exchange import answer_sum
from client.site import keys
from client.site.site import Site
from client.state import decisions
from common import wire
from common.aggregation.algorithms import algorithm
from common.errors import PolicyError
from common.messages import Refusal, SumReply, SumRequest, sum_request_id
from common.methods import groups
from common.methods.stages import method
from common.secure_aggregation.centre import Attempt
from common.secure_aggregation.terms import Context
from server.rounds.opened_sum import GroupSum
from server.runs.run_folder import RunFolder

ROUND = 1


def refusals(run: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Each site's code of refusal; its ledger is as long as before.

    Args:
        run: of the campaign, which has ended.
        folders: of the sites that took part.

    Raises:
        PolicyError: if a site lets the round be opened again, or debits anybody for it.
    """
    settings = RunFolder(run).settings()
    (stage,) = method(settings.method).stages(settings, {})
    (group,) = groups.of_stage(stage, settings)
    summed = GroupSum(group, settings=settings, algorithm=algorithm(settings.federation))
    context = Context(
        plan_hash=settings.plan_hash(),
        run=_run_of(folders[0], settings.plan_hash()),
        group=group.name,
        server_round=ROUND,
        attempt=os.urandom(16).hex(),
        content=os.urandom(32).hex(),
    )
    registered = {Site.open(folder).name: keys.public_key(folder) for folder in folders}
    asks = Attempt(context=context, terms=summed.terms(), registered=registered).requests()
    for folder in folders:
        name, before = Site.open(folder).name, len(ledger.book(folder).releases)
        request = SumRequest(
            campaign=settings.name,
            request_id=sum_request_id(context, "keys"),
            networks=summed.networks,
            asks=asks[name],
            train=None,
        )
        answer = wire.decode_round_reply(
            SumReply, answer_sum(folder, wire.encode(request), Compute(device="cpu", threads=1))
        )
        if not isinstance(answer, Refusal) or len(ledger.book(folder).releases) != before:
            raise PolicyError(f"Expected {name} to refuse to open round {ROUND} again, it went along")
        yield f"{name} refuses ({answer.code}): {_said(folder)}"


def _run_of(folder: Path, plan_hash: str) -> str:
    """What the centre called the run under which a site helped to open the round."""
    place = decisions.folder(folder, plan_hash) / FOLDER / f"{ROUND}.json"
    opened: dict[str, dict[str, str]] = json.loads(place.read_text(encoding="utf-8"))
    return next(iter(next(iter(opened.values()))))


def _said(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1]


def main(arguments: Sequence[str]) -> int:
    """Ask every site of a cohort for the first round of a run once more; returns 0 if all refuse."""
    run, cohort = map(Path, arguments)
    for line in refusals(run, sorted(cohort.glob("site-*"))):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
