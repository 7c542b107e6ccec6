"""The commands that submit, watch and stop campaigns."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from common import settings as configuration
from common.errors import ConfigurationError, DataError
from common.text.overrides import SetOption
from common.text.terminal import Console
from server.cli import run_view
from server.cli.federation_cli import DEFAULT_HOME, HomeOption, JsonOption
from server.federation.home import Home
from server.runs import submit as submitting
from server.runs.round_lines import RoundLines
from server.runs.runs import ENDED, EXIT_CODES, Run, all_of, find
from server.service import campaign_facts

LOOK_S = 1.0
Name = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's name.")]


def submit(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="TOML configuration, for example configs/federation.toml."),
    ],
    home: HomeOption = DEFAULT_HOME,
    sites: Annotated[str, typer.Option(help="Registered sites, comma-separated; default: all.")] = "",
    judges: Annotated[
        str, typer.Option(help="Registered sites that train nothing and judge the ensemble, comma-separated.")
    ] = "",
    overrides: SetOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end and exit with its exit code, as `watch` does.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a campaign. The running centre starts it."""
    settings = configuration.load(config, overrides=overrides or ())
    run = submitting.submit(Home(home), settings, sites=_names(sites), judges=_names(judges))
    wish = run.wish()
    if not as_json:
        typer.echo(
            f"{run.name}: submitted to {len(wish.sites)} sites ({', '.join(wish.sites)}), plan "
            f"{settings.plan_hash()}\n"
            + (f"  judged by {', '.join(wish.judges)}, who train nothing\n" if wish.judges else "")
            + f"  each site's people approve it there: synofed site campaigns show SITE_FOLDER "
            f"{settings.plan_hash()[:12]}\n"
            f"  watch it: synofed run watch {run.name} --home {home}"
        )
    elif not wait:
        facts = {"campaign": run.name, "sites": list(wish.sites), "judges": list(wish.judges)}
        whose = {"plan_hash": settings.plan_hash(), "folder": str(run.path.resolve())}
        typer.echo(json.dumps({**facts, **whose}))
    if wait:
        _wait(run, as_json=as_json)


def watch(
    campaign: Name,
    home: HomeOption = DEFAULT_HOME,
    once: Annotated[bool, typer.Option("--once", help="Show its current state and exit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a campaign until it ends. Exits with 0 (all sites), 7 (a subset of them) or 1 (failed or stopped)."""
    run = find(Home(home), campaign)
    if not once:
        _wait(run, as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(campaign_facts.facts(run)))
    else:
        Console().print(run_view.page(run, RoundLines(run.path)))


def report(campaign: Name, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Write a campaign's report: how its sites judged the ensemble, its rounds, its networks."""
    from server.report import inside, page  # noqa: PLC0415  Matplotlib

    run = find(Home(home), campaign)
    path = page.write(run.path)
    judged = inside.read(run.path)
    if as_json:
        facts = {
            "report": str(path.resolve()),
            "judged": judged or None,
            "tables": campaign_facts.tables(run),
        }
        typer.echo(json.dumps(facts))
        return
    if judged:
        Console().print(run_view.judged(judged))
    if stands := campaign_facts.tables(run):
        typer.echo(stands)
    typer.echo(f"Report: {path}")


def matrix(
    campaigns: Annotated[list[str], typer.Argument(metavar="CAMPAIGN...", help="Their names.")],
    home: HomeOption = DEFAULT_HOME,
    score: Annotated[
        str, typer.Option(help="Which score; default: the combined one, or else the first.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Show campaigns beside each other: where each was trained, and how well it grades where it was judged."""
    from server.report import inside, inside_tables  # noqa: PLC0415  NumPy

    judged = {run.name: inside.read(run.path) for run in (find(Home(home), name) for name in campaigns)}
    without = [name for name, found in judged.items() if not found.get("sites")]
    if without:
        raise DataError(
            f"Expected campaigns that sites have judged, {', '.join(without)} has no tables of any: "
            f"synofed run report says why"
        )
    known = inside_tables.scores(judged)
    if score and score not in known:
        raise ConfigurationError(f"Expected a score that was judged ({', '.join(known)}), got {score!r}")
    shown = score or known[0]
    if as_json:
        typer.echo(json.dumps({"score": shown, "campaigns": judged}))
    else:
        Console().print(run_view.matrix(shown, *inside_tables.matrix(judged, shown)))


def list_runs(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List all campaigns and their state."""
    runs = all_of(Home(home))
    if as_json:
        typer.echo(json.dumps([campaign_facts.facts(run) for run in runs]))
    else:
        Console().print(run_view.overview(runs))


def admit(
    campaign: Name,
    sites: Annotated[str, typer.Argument(metavar="SITES", help="Registered sites, comma-separated.")],
    home: HomeOption = DEFAULT_HOME,
    judge: Annotated[
        bool, typer.Option("--judge", help="They judge the ensemble at the end, and train nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let sites into a submitted campaign whose plan allows it; they train from the next round after they agreed."""
    run = submitting.admit(Home(home), campaign, _names(sites), judge=judge)
    wish = run.wish()
    if as_json:
        facts = {"campaign": run.name, "sites": wish.sites, "late": wish.late, "judges": wish.judges}
        typer.echo(json.dumps(facts))
    else:
        typer.echo(
            f"{run.name}: {', '.join(_names(sites))} may agree now: synofed site campaigns show SITE_FOLDER"
        )


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def stop(campaign: Name, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Stop a campaign. `resume` continues from its last aggregated round."""
    _said(submitting.stop(Home(home), campaign), "will be stopped", as_json=as_json)


def resume(campaign: Name, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Resume a campaign that was stopped or failed, or retry now one that is waiting to be retried."""
    _said(submitting.resume(Home(home), campaign), "will go on", as_json=as_json)


def _said(run: Run, what: str, *, as_json: bool) -> None:
    text = f"{run.name} {what} as soon as the centre sees it (synofed federation up)"
    typer.echo(json.dumps({"campaign": run.name, "wanted": run.wish().wanted}) if as_json else text)


def _wait(run: Run, *, as_json: bool) -> None:
    """Until the campaign has ended.

    Raises:
        typer.Exit: with the campaign's exit code.
    """
    console = Console()
    if as_json or not console.is_terminal:
        _wait_silently(run, as_json=as_json)
    else:
        rounds = RoundLines(run.path)
        with Live(run_view.page(run, rounds), console=console, refresh_per_second=2) as live:
            while run.status().state not in ENDED:
                time.sleep(LOOK_S)
                live.update(run_view.page(run, rounds))
            live.update(run_view.page(run, rounds))
    raise typer.Exit(EXIT_CODES[run.status().state])


def _wait_silently(run: Run, *, as_json: bool) -> None:
    """A line whenever something has changed; with JSON the facts at the end alone."""
    shown = ""
    while True:
        status = run.status()
        line = run_view.line(run)
        if not as_json and line != shown:
            typer.echo(line)
        shown = line
        if status.state in ENDED:
            break
        time.sleep(LOOK_S)
    if as_json:
        typer.echo(json.dumps(campaign_facts.facts(run)))
