"""Has the sites of a finished campaign judge its ensemble on their held-out patients, and keeps their tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flwr.serverapp import Grid

from common import wire
from common.errors import UpdateError
from common.evaluation.inside import site_tables
from common.evaluation.inside.number_sums import NumberSums
from common.evaluation.inside.site_tables import SiteTables
from common.messages import EvaluateReply, EvaluateRequest
from common.scoring import validity
from common.settings import Settings
from server.campaign.ensemble import Ensemble
from server.campaign.hand_out import DAY_S, Errand, Keys, Nodes, Told, hand_out
from server.campaign.members import PACE, Pace
from server.campaign.received_receipts import Receipts
from server.rounds import site_results


def evaluate(
    grid: Grid,
    ensemble: Ensemble,
    *,
    run: Path,
    sites: Iterable[str],
    keys: Keys,
    receipts: Receipts,
    told: Told = lambda site, reason: None,
    nodes: Nodes | None = None,
    patience_s: float = DAY_S,
    pace: Pace = PACE,
) -> dict[str, str]:
    """Ask sites for their tables, once.

    Args:
        grid: connects to the sites.
        ensemble: what they judge.
        run: the run's folder; sites whose tables lie there are not asked again.
        sites: who is asked, by name.
        keys: who is registered.
        receipts: where acknowledgements are kept.
        told: told of every change.
        nodes: see :func:`server.campaign.hand_out.hand_out`.
        patience_s: after which the others have given none.
        pace: how often to look and ask.

    Returns:
        Site -> why it has given none.
    """

    def take(reply: EvaluateReply) -> None:
        found = site_tables.parse(reply.tables)
        _check(found, reply.site, ensemble.settings)
        site_results.keep(run, reply.site, reply.tables)

    left = hand_out(
        grid,
        ensemble,
        Errand(route=wire.EVALUATE, request=EvaluateRequest, reply=EvaluateReply, begins=False, done=take),
        sites=[site for site in sites if not site_results.has(run, site)],
        keys=keys,
        receipts=receipts,
        told=told,
        nodes=nodes,
        patience_s=patience_s,
        pace=pace,
    )
    site_results.keep_without(run, left)
    return left


def _check(found: SiteTables, site: str, settings: Settings) -> None:
    grades = validity.grades(settings)
    strays = any(grades.get(one.score) != len(one.confusion) for one in found.tables)
    beside = any(one.cases is not None for one in found.tables) and not settings.campaign.cases
    if found.site != site or strays or beside or not all(_of_plan(one, settings) for one in found.numbers):
        raise UpdateError(f"Expected tables of {site} with the scores and numbers of the plan, got others")


def _of_plan(told: NumberSums, settings: Settings) -> bool:
    """Whether sums are of a number of the plan, and its readers' mean lies where it can."""
    known = settings.numbers.get(told.number)
    slack = 0.001  # numbers are frozen in thousandths
    return known is not None and (
        known.smallest - slack <= told.reference / told.exams <= known.largest + slack
    )
