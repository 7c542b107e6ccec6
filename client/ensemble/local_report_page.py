"""The local report as one HTML page, without scripts or links to anything outside it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from client.ensemble.local_report import ALONE, ENSEMBLE, HELD_OUT, PERSONAL, TRAINED_ON, Part, Report
from common.evaluation.bootstrap import Estimate
from common.text.figures import HASH_SALT, INK, LINE, STYLE, element, room_in, svg

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

TITLES = {
    HELD_OUT: "Patients that no network has seen",
    TRAINED_ON: "Patients that the networks were trained on: no test of them",
}
COLOURS = {ENSEMBLE: "#2b7bba", PERSONAL: "#2f9e77", ALONE: "#7f8c99", "readers": "#8e63b0"}


def render(report: Report) -> str:
    """The page's HTML."""
    template = files("client.ensemble").joinpath("local_report.html").read_text(encoding="utf-8")
    style = files("common").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(template).render(
        report=report,
        style=Markup(style),
        figure=lambda part, score: Markup(_figure(part, score)),
        networks=len(report.statement.networks),
        notices=report.notices,
        titles=TITLES,
        percent=lambda share: f"{100 * share:.1f} %",
        number=_number,
        interval=_interval,
    )


def estimate(value: Estimate) -> str:
    """A number with its interval; a dash where it cannot be computed."""
    interval = _interval(value)
    return f"{_number(value)} ({interval})" if interval else _number(value)


def _number(value: Estimate) -> str:
    return f"{value.value:.2f}" if np.isfinite(value.value) else "-"


def _interval(value: Estimate) -> str:
    return f"{value.low:.2f} to {value.high:.2f}" if np.isfinite([value.value, value.low]).all() else ""


def _rows(part: Part, score: str) -> Iterator[tuple[str, str, Estimate]]:
    """Label, kind and kappa of each line of a chart."""
    against_consensus = part.ensemble[score][0]
    yield f"ensemble, {against_consensus.first}", ENSEMBLE, against_consensus.kappa_linear
    for system, compared in part.own.items():
        own = compared[score][0]
        yield f"{own.second}, {own.first}", system, own.kappa_linear
    for pair in part.readers[score]:
        yield f"{pair.second}, {pair.first}", "readers", pair.kappa_linear


def _figure(part: Part, score: str) -> str:
    """Kappas with their intervals, as an SVG element in the page's own colours."""
    rows = list(_rows(part, score))
    inks: dict[RcKeyType, Any] = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with mpl.rc_context({**STYLE, "svg.hashsalt": HASH_SALT, **inks}):
        width = 4.6 + room_in(label for label, _, _ in rows)
        canvas = Figure(figsize=(width, 0.65 + 0.3 * len(rows)), layout="constrained")
        axes = canvas.add_subplot()
        for place, (_, kind, kappa) in enumerate(rows):
            axes.plot([kappa.low, kappa.high], [place, place], color=COLOURS[kind], linewidth=1.6)
            axes.plot([kappa.value], [place], "o", color=COLOURS[kind], markersize=4.5)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(np.nanmin([-0.02, *(kappa.low - 0.02 for _, _, kappa in rows)]), 1.02)
        axes.set_xlabel("linear kappa")
        axes.grid(axis="x", color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        return element(svg(canvas))
