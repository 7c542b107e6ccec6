"""``synofed simulate --seeds``: the same configuration once per seed, then mean and standard deviation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import typer

from common.errors import SubsetError
from common.machine import atomic
from common.networks.spec import COMBINED
from common.text.terminal import Console, Table
from simulation.cli import study_cli
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
NAMES = {"accuracy": "accuracy", "kappa_linear": "linear kappa"}


def simulate(config: Path, text: str, *, overrides: Sequence[str], out: Path | None, as_json: bool) -> None:
    """Do the runs that are not done, then say what they have in common."""
    found = seeds.study(config, seeds.parse(text), overrides=overrides, out=out)
    study_cli.do(found, found.runs, go_on=True, as_json=as_json)
    told = seeds.summary(found)
    content = json.dumps(seeds.as_json(told), indent=1)
    atomic.write(found.folder / seeds.NAME, content.encode() + b"\n")
    if as_json:
        typer.echo(json.dumps(seeds.as_json(told)))
    else:
        console = Console()
        console.print(_table(told))
        console.print(_drawn(told))
        console.print(f"Written: {found.folder / seeds.NAME}; each seed's report: {found.folder / 'runs'}")
    if told.missing:
        missing = ", ".join(map(str, told.missing))
        raise SubsetError(f"{len(told.missing)} of {len(found.runs)} runs are missing: seed {missing}")


def _table(told: Summary) -> Table:
    shown = Table(title=f"{told.name}: mean over {len(told.seeds)} seeds")
    for title in ("", "score", "metric", "mean", "SD", "lowest", "highest", "seeds"):
        shown.add_column(
            title, justify="right" if title in ("mean", "SD", "lowest", "highest", "seeds") else "left"
        )
    before = ""
    for figure in _shown(told):
        if before and figure.what != before:
            shown.add_section()
        label = TITLES[figure.what] if figure.what != before else ""
        shown.add_row(label, figure.score, NAMES[figure.metric], *_numbers(figure), str(len(figure.values)))
        before = figure.what
    return shown


def _shown(told: Summary) -> list[Figure]:
    """Every measurement of the ensemble; of comparisons the main score alone."""
    scores = [figure.score for figure in told.figures]
    main = COMBINED if COMBINED in scores else scores[0]
    wide = ("seen", "unseen")
    return [f for f in told.figures if f.what in TITLES and (f.what in wide or f.score == main)]


def _numbers(figure: Figure) -> list[str]:
    """Shares in percent, their differences in points, kappas as they are."""
    scale, digits = (100, 1) if figure.metric == "accuracy" else (1, 3)
    sign = "" if figure.what in ("seen", "unseen") else "+"
    each = figure.values.values()
    spread = "-" if math.isnan(figure.sd) else f"{scale * figure.sd:.{digits}f}"
    mean, lowest, highest = (
        f"{round(scale * n, digits) + 0.0:{sign}.{digits}f}" for n in (figure.mean, min(each), max(each))
    )
    return [mean, spread, lowest, highest]


def _drawn(told: Summary) -> str:
    if told.same_patients:
        return "All seeds had the same patients: SD says how far training moves a figure, not other patients"
    return "Each seed drew patients, split and start: SD says how far a figure moves when all are drawn again"
