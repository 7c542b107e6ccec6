"""Submitting, stopping and resuming campaigns: what is written into a campaign's folder, and checked before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.errors import CampaignError, ConfigurationError
from common.settings import Settings
from server.federation.home import Home
from server.federation.registry import Registry
from server.runs.run_folder import RunFolder
from server.runs.runs import COMPLETE, ENDED, CampaignStatus, Run, Wish, find, now


def submit(home: Home, settings: Settings, *, sites: Sequence[str] = (), judges: Sequence[str] = ()) -> Run:
    """Make a campaign's folder; the service starts the campaign as soon as it sees it.

    Args:
        home: of the centre.
        settings: the configuration; its ``name`` is the campaign's.
        sites: that take part, by registered names; empty: all that are registered now, but for the judges.
        judges: registered sites that train nothing, and judge the ensemble.

    Raises:
        ConfigurationError: if there is a campaign of that name, a site is not registered, or none is; if the quorum
            or the rule ask for more sites; or if a network cannot be trained as the plan says.
    """
    from common import preflight  # noqa: PLC0415  torch
    from common.machine import pretrained  # noqa: PLC0415  torch
    from server.rounds.quorum import check_quorum  # noqa: PLC0415  torch

    home.federation()
    registry = Registry.open(home.path)
    judging = _sites(registry, judges) if judges else ()
    chosen = tuple(name for name in _sites(registry, sites) if name not in judging)
    if judging:
        _check_may_grow(settings, judging, judge=True)
    if not chosen:
        raise ConfigurationError("Expected judges beside the sites that train, got no site that trains")
    check_quorum(settings.federation, sites=len(chosen))
    preflight.check(settings)
    place = home.runs / settings.name
    if place.exists():
        raise ConfigurationError(
            f"There is a campaign {settings.name!r} already: take another name (--set name=...), or go on with it "
            f"(synofed run resume {settings.name})"
        )
    home.runs.mkdir(mode=0o700, exist_ok=True)
    draft = Run(home.runs / f".{settings.name}.{os.getpid()}")
    shutil.rmtree(draft.path, ignore_errors=True)
    settings = pretrained.resolved(settings)
    begun = RunFolder.begin(draft.path, _with_absolute_weights(settings))
    begun.update_manifest(start_weights=pretrained.starts(settings))
    asked = now()
    draft.write_status(CampaignStatus(state="SUBMITTED"))
    draft.write_wish(Wish(sites=chosen, judges=judging, submitted=asked, asked=asked))
    draft.path.rename(place)
    return Run(place)


def admit(home: Home, name: str, sites: Sequence[str], *, judge: bool = False) -> Run:
    """Let registered sites into a campaign that was submitted without them; a running one asks them from now on.

    Args:
        home: of the centre.
        name: of the campaign.
        sites: by registered names.
        judge: they judge the ensemble at the end, and train nothing.

    Raises:
        ConfigurationError: if there is no such campaign, its plan keeps to the sites that it was submitted with, or a
            site is not registered or in it already.
        CampaignError: if it is complete.
    """
    run = find(home, name)
    wish, state = run.wish(), run.status().state
    added = _sites(Registry.open(home.path), sites)
    _check_may_grow(run.settings(), added, judge=judge)
    if known := sorted({*wish.sites, *wish.late, *wish.judges} & set(added)):
        raise ConfigurationError(f"Expected sites that are not in {name!r} yet, got {', '.join(known)}")
    if state in COMPLETE:
        raise CampaignError(
            f"The campaign {name!r} is complete ({state}): submit a new one, with --judges for sites that are to "
            f"judge without training"
        )
    grown = {"judges": (*wish.judges, *added)} if judge else {"late": (*wish.late, *added)}
    run.write_wish(wish.model_copy(update=grown))
    return run


def _check_may_grow(settings: Settings, sites: Sequence[str], *, judge: bool) -> None:
    if not settings.campaign.late_joining:
        raise ConfigurationError(
            f"Expected a plan with campaign.late_joining = true, under which {', '.join(sites)} may come in: the "
            f"sites of this one approved it for themselves alone"
        )
    if judge and not settings.campaign.evaluation:
        raise ConfigurationError("Expected a plan with campaign.evaluation = true: without it nobody judges")


def stop(home: Home, name: str) -> Run:
    """Want a campaign to stop; its journal stays, so that :func:`resume` goes on with it.

    Raises:
        ConfigurationError: if there is none of that name.
        CampaignError: if it has ended.
    """
    run = find(home, name)
    if run.status().state in ENDED:
        raise CampaignError(f"The campaign {name!r} has ended already: {run.status().state}")
    run.write_wish(run.wish().model_copy(update={"wanted": "stop", "asked": now()}))
    return run


def resume(home: Home, name: str) -> Run:
    """Want a campaign to go on: one that was stopped, that failed, or whose next try is due later.

    Raises:
        ConfigurationError: if there is none of that name.
        CampaignError: if it is complete.
    """
    run = find(home, name)
    state = run.status().state
    if state in COMPLETE:
        raise CampaignError(
            f"The campaign {name!r} is complete ({state}): submit a new one under another name"
        )
    run.write_wish(run.wish().model_copy(update={"wanted": "run", "asked": now()}))
    return run


def _with_absolute_weights(settings: Settings) -> Settings:
    """What runs the campaign is started in another folder."""
    if settings.network.weights in ("none", "imagenet"):
        return settings
    weights = str(Path(settings.network.weights).resolve())
    return settings.model_copy(update={"network": settings.network.model_copy(update={"weights": weights})})


def _sites(registry: Registry, wanted: Sequence[str]) -> tuple[str, ...]:
    registered = tuple(site.name for site in registry.registered())
    unknown = sorted(set(wanted) - set(registered))
    if unknown:
        raise ConfigurationError(
            f"Expected registered sites ({', '.join(registered) or 'there is none'}), got {', '.join(unknown)}"
        )
    if not registered:
        raise ConfigurationError(
            "No site is registered: invite one with synofed federation invite, and accept its request"
        )
    return tuple(name for name in registered if not wanted or name in wanted)
