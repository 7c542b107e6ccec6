"""The two figures of a privacy report, as SVG in the page's own colours: spending over time, claim against bound."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from common.privacy.accounting.costs import Cost, Spending
from common.privacy.audit.evidence import Evidence
from common.privacy.audit.rehearsal import Rehearsal
from common.text.figures import HASH_SALT, LINE, STYLE, element, svg

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLOURS = ("#2b7bba", "#d9822b", "#2c8a57", "#8e63b0", "#c2455a", "#8a8f98")
CLAIM, BOUND, CEILING = "#2b7bba", "#c2455a", "#8a8f98"
SHORT_S = 120
"""A campaign shorter than this is shown by its releases, not by the clock."""


def spending(sites: Sequence[tuple[Evidence, Spending]]) -> str:
    """Epsilon of the patient who has spent most, site by site, with the cap; empty where nothing was spent."""
    shown = [(evidence, found) for evidence, found in sites if found.curve]
    if not shown:
        return ""
    with mpl.rc_context(_STYLE):
        return _spending(shown)


def _spending(shown: Sequence[tuple[Evidence, Spending]]) -> str:
    times = [datetime.fromisoformat(time) for _, found in shown for time, _ in found.curve]
    clock = (max(times) - min(times)).total_seconds() > SHORT_S
    figure, axes = _canvas(height=2.4)
    points: NDArray[Any]
    for place, (evidence, found) in enumerate(shown):
        values = [0.0, *(value for _, value in found.curve)]
        if clock:
            points = _clock([found.curve[0][0], *(time for time, _ in found.curve)])
        else:
            releases = sum(campaign.releases for campaign in found.campaigns)
            points = np.linspace(0, releases, len(values))
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(points, values, drawstyle="steps-post", color=colour, linewidth=1.8, label=evidence.site)
        axes.plot(points[-1], values[-1], "o", color=colour, markersize=4)
    caps = sorted({found.maximum_epsilon for _, found in shown if found.maximum_epsilon is not None})
    for cap in caps:
        axes.axhline(cap, color=BOUND, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"cap of the policy: {cap:g}",
            (0.01, cap),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=BOUND,
            fontsize=8.5,
        )
    axes.set_ylim(0, 1.12 * max([*caps, *(value for _, found in shown for _, value in found.curve)]))
    axes.set_ylabel("epsilon spent")
    if clock:
        axes.tick_params(axis="x", labelrotation=0)
    else:
        axes.set_xlabel("private releases")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(shown) > 1:
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    return _svg(figure)


def claim_against_bound(cost: Cost, rehearsals: Sequence[Rehearsal]) -> str:
    """Bars: what is claimed at most, by two accountants, and what attacks on rehearsals showed at least."""
    rows: list[tuple[str, float, str]] = [
        ("claimed at most: PLD", cost.epsilon, CLAIM),
        ("claimed at most: PRV", cost.second_high, CLAIM),
    ]
    for number, one in enumerate(rehearsals):
        which = "" if number == 0 else ", more noise"
        if number:
            rows.append((f"claim of the rehearsal{which}", one.claim, CLAIM))
        rows += [
            (f"measured at least: white box{which}", one.white_box, BOUND),
            (f"measured at least: white box, by its curve{which}", one.white_box_curve, BOUND),
            (f"measured at least: black box{which}", one.black_box, BOUND),
            (f"measured at least: black box, by its curve{which}", one.black_box_curve, BOUND),
            (f"most that {one.canaries} canaries can show{which}", one.ceiling, CEILING),
        ]
    figure, axes = _canvas(height=0.65 + 0.27 * len(rows))
    longest = max(value for _, value, _ in rows)
    for place, (_, value, colour) in enumerate(rows):
        axes.barh(place, value, color=colour, height=0.62)
        axes.text(value + 0.01 * longest, place, f"{value:.2f}", va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * longest if longest else 1)
    axes.set_xlabel(f"epsilon at delta {cost.delta:g}, one patient added or removed")
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    return _svg(figure)


_STYLE: dict[RcKeyType, Any] = {
    **STYLE,
    "svg.hashsalt": HASH_SALT,
    "date.converter": "concise",
}


def _clock(times: Sequence[str]) -> NDArray[Any]:
    naive = [datetime.fromisoformat(time).astimezone(UTC).replace(tzinfo=None) for time in times]
    return np.array(naive, dtype="datetime64[s]")


def _canvas(*, height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    with mpl.rc_context(_STYLE):
        return element(svg(figure))
