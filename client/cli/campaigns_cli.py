"""``synofed site campaigns``: what the centre asked for, and what this site decides."""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from typing import Annotated

import typer

from client.cli.cli_options import AsJson, Folder
from client.consent import campaign_page, deciding
from client.consent import campaigns as decisions
from client.consent.deciding import Decision
from client.site.site import Site
from client.state.decisions import listed
from common.text.terminal import Console, Table

campaigns = typer.Typer(no_args_is_help=True)
Prefix = Annotated[
    str, typer.Argument(metavar="ID", help="At least the first 6 digits of the campaign's hash.")
]


def _somebody(by: str | None) -> str | None:
    if by is not None and not by.strip():
        raise typer.BadParameter("expected a name, got an empty text")
    return by


By = Annotated[
    str | None,
    typer.Option("--by", help="Who decides; default: the name of your account.", callback=_somebody),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        metavar="MEASUREMENT",
        help="In sums without noise: take no part in this measurement, or in one of its thresholds, "
        "such as `vascularity>2`, for the whole campaign; repeatable.",
    ),
]


@campaigns.command("list")
def list_(folder: Folder, as_json: AsJson = False) -> None:
    """List all campaigns, newest first."""
    found = listed(Site.open(folder))
    if as_json:
        typer.echo(
            json.dumps([{"plan_hash": h, **state.model_dump(mode="json")} for h, state in found.items()])
        )
        return
    table = Table("ID", "campaign", "status", "asked", "decided by", box=None)
    for plan_hash, state in found.items():
        table.add_row(plan_hash[:12], state.names[-1], str(state.status), state.asked, state.by)
    Console().print(table if found else "No campaign yet: the centre has asked for none.")


@campaigns.command("show")
def show(folder: Folder, prefix: Prefix, as_json: AsJson = False) -> None:
    """Show everything that a campaign asks for, on one page."""
    site = Site.open(folder)
    plan_hash = decisions.find(site, prefix)
    page = campaign_page.page(site, plan_hash, listed(site)[plan_hash])
    typer.echo(json.dumps(campaign_page.as_json(page)) if as_json else campaign_page.text(page))


@campaigns.command("approve")
def approve(
    folder: Folder, prefix: Prefix, by: By = None, without: Without = None, as_json: AsJson = False
) -> None:
    """Approve a campaign: exactly this plan. Read `show` first."""
    _decide(folder, prefix, Decision.APPROVE, by, as_json=as_json, without=without or [])


@campaigns.command("pause")
def pause(folder: Folder, prefix: Prefix, by: By = None, as_json: AsJson = False) -> None:
    """Stop answering a campaign's requests until `unpause`."""
    _decide(folder, prefix, Decision.PAUSE, by, as_json=as_json)


@campaigns.command("unpause")
def unpause(folder: Folder, prefix: Prefix, by: By = None, as_json: AsJson = False) -> None:
    """Resume a paused campaign."""
    _decide(folder, prefix, Decision.UNPAUSE, by, as_json=as_json)


@campaigns.command("leave")
def leave(folder: Folder, prefix: Prefix, by: By = None, as_json: AsJson = False) -> None:
    """Leave a campaign: answer no more requests. What has already left cannot be recalled."""
    _decide(folder, prefix, Decision.LEAVE, by, as_json=as_json)


def _decide(
    folder: Folder,
    prefix: str,
    decision: Decision,
    by: str | None,
    *,
    as_json: bool,
    without: Sequence[str] = (),
) -> None:
    site = Site.open(folder)
    plan_hash = decisions.find(site, prefix)
    decided = deciding.take(site, plan_hash, decision, by=by or getpass.getuser(), without=without)
    if as_json:
        typer.echo(json.dumps({"plan_hash": plan_hash, **decided.state.model_dump(mode="json")}))
        return
    typer.echo(decided.sentence)
