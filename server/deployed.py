"""A campaign over registered hospitals, in the process that the SuperLink's executor starts for it."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from flwr.serverapp import Grid

from common.ensemble.statement import RECIPIENT
from common.errors import ConfigurationError, SynofedError
from common.machine import file_lock
from common.settings import Settings
from server.campaign import campaign, evaluation, hand_out
from server.campaign.campaign import Outcome
from server.campaign.ensemble import Ensemble
from server.campaign.events import CentreNews, Event, SiteNews, StageStarted
from server.campaign.received_receipts import Receipts
from server.campaign.roster import Roster
from server.federation.home import Home
from server.federation.registry import Registry
from server.rounds import journal
from server.rounds.journal import RoundRecord
from server.runs.run_folder import RunFolder
from server.runs.runs import CampaignStatus, Run, SiteStatus, Wish, find, now
from server.service.superlink import HOME_VARIABLE

logger = logging.getLogger("synofed.campaign")
SYSTEM = "federated"


def run(grid: Grid, *, name: str) -> None:
    """Run the campaign of that name of the home in the environment, from where its journal stands.

    What was expected to go wrong ends the campaign as ``FAILED``; anything else leaves it ``INTERRUPTED``, and the
    service tries again. Either way the reason stands in ``status.json`` and ``log.txt``.

    Raises:
        Exception: what interrupted the campaign, so that Flower counts its run as failed.
    """
    home = Home(Path(os.environ[HOME_VARIABLE]))
    this = find(home, name)
    with file_lock.alone(this.path):  # after an outage Flower may take a living process for dead
        _run(grid, home, this)


def _run(grid: Grid, home: Home, this: Run) -> None:
    handler = _log_to(this.log)
    reporter = Reporter(this)
    try:
        settings = this.settings()
        outcome = campaign.run(
            grid,
            settings,
            roster=roster(home, this.wish()),
            folder=this.path,
            campaign=this.name,
            observer=reporter,
            kept=home.receipts,
            admitted=lambda: roster(home, this.wish()),
        )
        if RECIPIENT in settings.campaign.recipients:
            _hand_out(grid, home, this, settings, outcome, reporter)
        if settings.campaign.evaluation:
            _evaluate(grid, home, this, settings, outcome, reporter)
        reporter.end(outcome.status.value, missing=dict(outcome.missing))
        RunFolder(this.path).update_manifest(
            status=outcome.status.value,
            sites=list(outcome.sites),
            missing=dict(outcome.missing),
            networks={name: result.facts() for name, result in outcome.results.items()},
            stacks={number: stack.model_dump() for number, stack in outcome.stacks.items()},
            finished=now(),
        )
    except SynofedError as error:
        reporter.end("FAILED", reason=str(error))
        with suppress(SynofedError, OSError):
            RunFolder(this.path).update_manifest(status="FAILED", finished=now())
        raise
    except Exception as error:
        logger.exception("interrupted")
        reporter.end("INTERRUPTED", reason=traceback.format_exception_only(error)[-1].strip())
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _hand_out(
    grid: Grid, home: Home, this: Run, settings: Settings, outcome: Outcome, reporter: Reporter
) -> None:
    """Give the networks to the sites that trained them."""
    sites = reporter.without_ensemble()

    def give(ensemble: Ensemble, patience_s: float) -> dict[str, str]:
        return hand_out.hand_out(
            grid,
            ensemble,
            hand_out.KEEP,
            sites=sites,
            keys=lambda: _registered(home),
            receipts=Receipts(this.path, kept=home.receipts),
            told=reporter.handed,
            patience_s=patience_s,
        )

    lacks = "has not got the ensemble"
    _send(give, home, this, settings, outcome, sites=sites, told=reporter.handed, lacks=lacks)


def _evaluate(
    grid: Grid, home: Home, this: Run, settings: Settings, outcome: Outcome, reporter: Reporter
) -> None:
    """Have the sites judge the networks, those that trained nothing too."""
    wish = this.wish()
    asked = dict.fromkeys((*outcome.sites, *wish.late, *wish.judges))
    sites = [site for site in asked if site in _registered(home)]

    def ask(ensemble: Ensemble, patience_s: float) -> dict[str, str]:
        return evaluation.evaluate(
            grid,
            ensemble,
            run=this.path,
            sites=sites,
            keys=lambda: _registered(home),
            receipts=Receipts(this.path, kept=home.receipts),
            told=reporter.judged,
            patience_s=patience_s,
        )

    lacks = "has given no tables"
    _send(ask, home, this, settings, outcome, sites=sites, told=reporter.judged, lacks=lacks)


def _send(
    send: Callable[[Ensemble, float], dict[str, str]],
    home: Home,
    this: Run,
    settings: Settings,
    outcome: Outcome,
    *,
    sites: Sequence[str],
    told: hand_out.Told,
    lacks: str,
) -> None:
    """Send the ensemble to some sites; one that does not answer changes no outcome."""
    try:
        ensemble = Ensemble.of(outcome, settings, folder=this.path, campaign=this.name, home=home)
        left = send(ensemble, min(hand_out.DAY_S, settings.federation.approval_s))
    except SynofedError as error:
        left = dict.fromkeys(sites, str(error))
    for site, reason in left.items():
        told(site, reason)
        logger.error("%s %s: %s", site, lacks, reason)


def _registered(home: Home) -> dict[str, str]:
    """Registered site -> the key of its receipts."""
    return {site.name: site.receipt_key for site in Registry.open(home.path).registered()}


def roster(home: Home, wish: Wish) -> Roster:
    """The sites that a campaign was submitted with, and their keys as they are registered now.

    Raises:
        ConfigurationError: if none of them is registered any more.
    """
    keys = _registered(home)
    if not any(name in keys for name in wish.sites):
        raise ConfigurationError(
            f"None of the campaign's sites is registered any more: {', '.join(wish.sites)}. Invite them again, or "
            f"submit a campaign over others"
        )
    return Roster.of(
        {name: keys[name] for name in (*wish.sites, *wish.late, *wish.judges) if name in keys},
        gone=(name for name in wish.sites if name not in keys),
        late=wish.late,
        judges=wish.judges,
    )


class Reporter:
    """Keeps ``status.json``, ``rounds.jsonl`` and ``log.txt`` of a campaign that runs.

    Args:
        run: the campaign; its ``rounds.jsonl`` is made to say what its journals say.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = RunFolder(run.path)
        records = journal.records(run.path / "journal", plan_hash=run.settings().plan_hash())
        self._folder.rewrite_rounds((SYSTEM, record) for record in records)
        used = Counter(site for record in records for site in record.participants)
        last = {site: record.time for record in records for site in record.participants}
        before = run.status()
        former = before.sites
        self._status = CampaignStatus(
            state="RUNNING",
            sites={
                site: SiteStatus(
                    state="expected",
                    since=former[site].since if site in former else "",
                    used=used[site],
                    last_used=last.get(site, ""),
                )
                for site in run.wish().sites
            },
            ensemble=before.ensemble,
            evaluation=before.evaluation,
        )
        self._stage_rounds: dict[str, int] = {}
        self._started = time.monotonic()
        self._closed = 0
        self._update()
        logger.info("the campaign's process starts; %d rounds of groups are done", len(records))

    def __call__(self, event: Event) -> None:
        """See :data:`server.campaign.events.Observer`."""
        match event:
            case StageStarted():
                self._stage(event)
            case RoundRecord():
                self._round(event)
            case SiteNews():
                self._site(event)
            case CentreNews():
                logger.warning("waiting: %s", event.reason)
                with suppress(OSError):  # the disk may be full
                    self._update(waits=event.reason)

    def without_ensemble(self) -> tuple[str, ...]:
        """The sites that took part and have not got the networks yet."""
        took_part = (site for site, status in self._status.sites.items() if status.used)
        return tuple(site for site in took_part if self._status.ensemble.get(site) != hand_out.RECEIVED)

    def handed(self, site: str, reason: str) -> None:
        """What became of the networks that a site gets; see :data:`server.campaign.hand_out.Told`."""
        logger.info("ensemble for %s: %s", site, reason)
        self._update(ensemble={**self._status.ensemble, site: reason})

    def judged(self, site: str, reason: str) -> None:
        """What became of the tables that a site is asked for, as :meth:`handed`."""
        logger.info("tables of %s: %s", site, reason)
        self._update(evaluation={**self._status.evaluation, site: reason})

    def end(self, state: str, *, reason: str = "", missing: dict[str, int] | None = None) -> None:
        """The last word of this process; an error while it is said is only logged: the disk may be full."""
        (logger.info if not reason else logger.error)("%s %s", state, reason)
        try:
            self._update(state=state, reason=reason, missing=missing or {}, waits="")
        except OSError:
            logger.exception("the status cannot be written")

    def _stage(self, event: StageStarted) -> None:
        logger.info(
            "stage %s: %d networks in %d groups, %d of %d rounds are done, %d networks taken over",
            event.stage,
            event.networks,
            event.groups,
            event.done,
            event.total,
            event.reused,
        )
        rounds = [record for record in self._run.rounds() if record["stage"] == event.stage]
        self._stage_rounds = {str(one["group"]): int(str(one["round"])) for one in rounds}
        self._update(
            stage=event.stage,
            networks=event.networks,
            total=event.total,
            done=event.done,
            groups=dict(self._stage_rounds),
        )

    def _round(self, record: RoundRecord) -> None:
        self._folder.append_round(SYSTEM, record)
        self._closed += 1
        self._stage_rounds[record.group] = record.round
        sites = dict(self._status.sites)
        for site in record.participants:
            before = sites.get(site, SiteStatus())
            sites[site] = before.model_copy(update={"used": before.used + 1, "last_used": record.time})
        logger.info("%s, round %d: loss %.4f, AUC %.4f", record.group, record.round, record.loss, record.auc)
        for site, reason in record.dropped.items():
            logger.warning("%s, round %d: without %s: %s", record.group, record.round, site, reason)
        hours = (time.monotonic() - self._started) / 3600.0
        self._update(
            sites=sites,
            done=self._status.done + 1,
            groups=dict(self._stage_rounds),
            rounds_per_hour=self._closed / hours,
            waits="",
        )

    def _site(self, news: SiteNews) -> None:
        logger.info("%s is %s%s", news.site, news.state, f": {news.reason}" if news.reason else "")
        before = self._status.sites.get(news.site, SiteStatus())
        after = before.model_copy(update={"state": news.state, "reason": news.reason, "since": now()})
        self._update(sites={**self._status.sites, news.site: after})

    def _update(self, **changes: object) -> None:
        self._status = self._status.model_copy(update=changes)
        self._run.write_status(self._status)


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler
