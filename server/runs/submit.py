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
from server.runs.runs import ENDED, CampaignStatus, Run, Wish, find, now


def submit(home: Home, settings: Settings, *, sites: Sequence[str] = ()) -> Run:
    """Make a campaign's folder; the service starts the campaign as soon as it sees it.

    Args:
        home: of the centre.
        settings: the configuration; its ``name`` is the campaign's.
        sites: that take part, by registered names; empty: all that are registered now.

    Raises:
        ConfigurationError: if there is a campaign of that name, a site is not registered, or none is; if the quorum
            or the rule ask for more sites; or if a network cannot be trained as the plan says.
    """
    from common import preflight  # noqa: PLC0415  torch
    from common.machine import pretrained  # noqa: PLC0415  torch
    from server.rounds.quorum import check_quorum  # noqa: PLC0415  torch

    home.federation()
    chosen = _sites(Registry.open(home.path), sites)
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
    RunFolder.begin(draft.path, _with_absolute_weights(pretrained.resolved(settings)))
    asked = now()
    draft.write_status(CampaignStatus(state="SUBMITTED"))
    draft.write_wish(Wish(sites=chosen, submitted=asked, asked=asked))
    draft.path.rename(place)
    return Run(place)


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
    if state in {"COMPLETE_ALL_SITES", "COMPLETE_SUBSET"}:
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
