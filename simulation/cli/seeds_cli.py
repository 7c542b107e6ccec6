"""``synofed simulate --seeds``: the same configuration once per seed, then mean and standard deviation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import typer

from common.errors import SubsetError
from common.networks.spec import COMBINED
from common.text.terminal import Console, Table
from simulation.engine import interruption
from simulation.studies import seeds
from simulation.studies.seeds import Figure, Summary

TITLES = {
    "seen": "held-out patients",
    "unseen": "device never trained on",
    "gain": "own patients, federated minus alone",
    "gain_personal": "own patients, own networks minus alone",
    "federated_minus_alone_mean": "federated minus sites alone (mean)",
    "centralised_minus_federated": "pooled minus federated",
    "personal_minus_federated": "own networks minus federated",
}
"""What a terminal shows; all else is in the JSON."""
NAMES = {"accuracy": "accuracy, % or points", "kappa_linear": "linear kappa"}


def simulate(config: Path, text: str, *, overrides: Sequence[str], out: Path | None, as_json: bool) -> None:
    """Do the runs that are not done, then say what they have in common."""
    found = seeds.study(config, seeds.parse(text), overrides=overrides, out=out)
    with interruption.said():
        failed = seeds.run_all(found, console=Console(quiet=as_json))
    told = seeds.write(found)
    if as_json:
        typer.echo(json.dumps(seeds.as_json(told)))
    else:
        console = Console()
        console.print(_table(told))
        console.print(_drawn(told))
        console.print(f"Written: {found.folder / seeds.NAME}; each seed's report: {found.folder / 'runs'}")
    if told.missing:
        missing = "; ".join(f"seed {seed}: {failed[seed]}" for seed in told.missing)
        raise SubsetError(f"{len(told.missing)} of {len(found.runs)} runs are missing. {missing}")


def _table(told: Summary) -> Table:
    """Every measurement of the ensemble; of comparisons the main score alone."""
    figures = {(figure.what, figure.score, figure.metric): figure for figure in told.figures}
    scores = list(dict.fromkeys(figure.score for figure in told.figures))
    main = COMBINED if COMBINED in scores else scores[0]
    shown = Table(title=f"{told.name}: mean ± SD over seeds (lowest to highest), {len(told.seeds)} done")
    for title in ("", *NAMES.values()):
        shown.add_column(title, justify="right" if title else "left", no_wrap=bool(title))
    for what, title in TITLES.items():
        rows = scores if what in ("seen", "unseen") else [main]
        rows = [score for score in rows if any((what, score, metric) in figures for metric in NAMES)]
        if rows:
            shown.add_section()
            shown.add_row(title)
        for score in rows:
            cells = (figures.get((what, score, metric)) for metric in NAMES)
            shown.add_row(f"  {score}", *(_cell(figure, told) for figure in cells))
    return shown


def _cell(figure: Figure | None, told: Summary) -> str:
    """Shares in percent, their differences in points, kappas as they are."""
    if figure is None:
        return "-"
    scale, digits = (100, 1) if figure.metric == "accuracy" else (1, 2)
    sign = "" if figure.what in ("seen", "unseen") else "+"

    def number(value: float) -> str:
        return f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}"

    spread = "" if math.isnan(figure.sd) else f" ± {scale * figure.sd:.{digits}f}"
    each = figure.values.values()
    between = f" ({number(min(each))} to {number(max(each))})" if len(each) > 1 else ""
    fewer = f" of {len(each)} seeds" if len(each) < len(told.seeds) else ""
    return f"{number(figure.mean)}{spread}{between}{fewer}"


def _drawn(told: Summary) -> str:
    if told.same_patients:
        return "All seeds had the same patients: SD says how far training moves a figure, not other patients"
    return "Each seed drew patients, split and start: SD says how far a figure moves when all are drawn again"
