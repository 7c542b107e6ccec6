"""Figures that a reader of RATING's paper expects to find again (Zhou et al. 2022, figures 3, 6 and 7)."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from common.text.figures import INK, room_in
from server.report import figures
from server.report.content import Content, Json
from server.report.examples import HEATMAP, StoredExample
from server.report.figures import CHART_STYLE, COLOURS, Figure, saved, table
from server.report.tables import Cell, is_phantom, title

OVER, UNDER = COLOURS["centralised"], COLOURS["federated"]
"""Colours of answers above and below the reference."""


def drawn(content: Content) -> Iterator[Figure]:
    """Those that the run has something to show for."""
    yield from _pictures("contrasts", "What fusion and MULTITUDE changed, one exam each.", content.contrasts)
    if content.metrics.get("beside_readers"):
        yield _readers(content)
    for name in content.measurements:
        yield from _failures(content, name)
    yield from _pictures(
        "failures", "Kinds of failure, the most frequent of each measurement.", content.failures
    )


def _readers(content: Content) -> Figure:
    """Figure 6: accuracy and Youden's index at each cut, of every reader beside the ensemble."""
    beside, primary = content.metrics["beside_readers"], content.primary
    ensemble = beside["ensemble"][primary]
    panels = ["accuracy", *ensemble["youden"]]
    word = "simulated readers" if is_phantom(content) else "readers"
    rows: list[tuple[str, Json | None, Json]] = [("Ensemble, all exams", None, ensemble)]
    rows.append((f"Mean of {word}", beside["mean"][primary], ensemble))
    rows += [
        (f"{name} ({each['exams']} exams)", each["reader"][primary], each["ensemble"][primary])
        for name, each in beside["readers"].items()
    ]
    labels = [label for label, _, _ in rows]
    with mpl.rc_context(CHART_STYLE):
        width = 1.6 + room_in(labels) + 1.4 * len(panels)
        canvas = Canvas(figsize=(width, 0.85 + 0.26 * len(rows)), layout="constrained")
        for axes, panel in zip(
            canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            for place, (_, reader, run) in enumerate(rows):
                _dot(axes, place - 0.12, _rate(run, panel), COLOURS["federated"])
                if reader is not None:
                    _dot(axes, place + 0.12, _rate(reader, panel), COLOURS["readers"])
            axes.set_yticks(range(len(rows)), labels)
            axes.set(ylim=(len(rows) - 0.4, -0.6), title=_panel_title(panel, len(panels)))
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.grid(axis="x")
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
        svg = saved(canvas, "readers")
    caption = (
        f"{title(primary)}: {word} (violet) beside the ensemble (blue) on the exams that the reader graded; "
        f"accuracy, and Youden's index at each cut, with 95 % intervals over patients."
    )
    return Figure(name="readers", caption=caption, svg=svg, csv=table(_READERS, _reader_rows(rows, panels)))


_READERS = ("row", "of", "quantity", "value", "ci95_low", "ci95_high")


def _reader_rows(
    rows: Sequence[tuple[str, Json | None, Json]], panels: Sequence[str]
) -> Iterator[tuple[Cell, ...]]:
    for label, reader, run in rows:
        for panel in panels:
            for of, rates in (("reader", reader), ("ensemble", run)):
                if rates is not None:
                    rate = _rate(rates, panel)
                    what = panel if panel == "accuracy" else f"youden_{panel}"
                    yield label, of, what, rate["value"], *rate["ci95"]


def _rate(rates: Json, panel: str) -> Json:
    found: Json = rates["accuracy"] if panel == "accuracy" else rates["youden"][panel]
    return found


def _panel_title(panel: str, panels: int) -> str:
    if panel == "accuracy":
        return "Accuracy"
    grades, cut = "".join(map(str, range(panels))), int(panel.removeprefix("gt")) + 1
    return f"Youden {grades[:cut]} | {grades[cut:]}"


def _dot(axes: Axes, place: float, rate: Json, colour: str) -> None:
    if rate["value"] is None:
        return
    low, high = rate["ci95"]
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, alpha=0.5)
    axes.plot([rate["value"]], [place], "o", color=colour, markersize=4.5)


def _failures(content: Content, name: str) -> Iterator[Figure]:
    """Figure 7: of the exams of each reference grade the share that was decided as each other grade."""
    counts = np.asarray(content.metrics[name]["confusion"])
    kinds = [(r, d) for r, d in np.ndindex(*counts.shape) if r != d and counts[r, d]]
    if not kinds:
        return
    shares = [counts[r, d] / counts[r].sum() for r, d in kinds]
    signs = [1 if d > r else -1 for r, d in kinds]
    with mpl.rc_context(CHART_STYLE):
        canvas = Canvas(figsize=(4.4, 0.75 + 0.26 * len(kinds)), layout="constrained")
        axes = canvas.add_subplot()
        for place, ((r, d), share, sign) in enumerate(zip(kinds, shares, signs, strict=True)):
            axes.barh(place, sign * share, height=0.7, color=OVER if sign > 0 else UNDER)
            axes.annotate(
                str(counts[r, d]), (sign * share, place), xytext=(3 * sign, 0), textcoords="offset points",
                ha="left" if sign > 0 else "right", va="center", color=INK, fontsize="small",
            )  # fmt: skip
        most = 1.25 * max(shares)
        axes.set(xlim=(-most, most), ylim=(len(kinds) - 0.4, -0.6), xlabel="underestimated | overestimated")
        axes.set_yticks(range(len(kinds)), [f"{r} as {d}" for r, d in kinds])
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * abs(value):.0f}%"))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        svg = saved(canvas, f"failures_{name}")
    caption = (
        f"{title(name)}: share of each reference grade's exams decided as another grade; numbers are exams."
    )
    rows = [
        (int(r), int(d), "over" if sign > 0 else "under", int(counts[r, d]), float(share))
        for (r, d), share, sign in zip(kinds, shares, signs, strict=True)
    ]
    header = ("reference", "decision", "kind", "exams", "share_of_reference")
    yield Figure(name=f"failures_{name}", caption=caption, svg=svg, csv=table(header, rows))


def _pictures(name: str, caption: str, examples: Sequence[StoredExample]) -> Iterator[Figure]:
    """Exams below each other, their pictures side by side, what each is an example of beside them."""
    if not examples:
        return
    images = [image for image in examples[0].pictures if not image.endswith(HEATMAP)]
    with mpl.rc_context({**CHART_STYLE, "image.composite_image": False}):
        canvas = Canvas(figsize=(1.5 * len(images) + 2.6, 1.6 * len(examples)), layout="constrained")
        widths = [1.5] * len(images) + [2.6]
        grid = canvas.subplots(len(examples), len(images) + 1, width_ratios=widths, squeeze=False)
        for row, example in zip(grid, examples, strict=True):
            for axes, image in zip(row, images, strict=False):
                pixels = _pixels(example.pictures[image])
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="equal", interpolation="none")
                axes.set_title(title(image), fontsize="small")
                axes.axis("off")
            row[-1].axis("off")
            row[-1].text(
                0, 0.5, "\n".join(textwrap.wrap(_told(example), 38)), va="center", color=INK, fontsize="small"
            )
        svg = saved(canvas, f"{name}_pictures")
    rows = [
        (example.site, example.exam_id, example.note, measurement, grade, example.decision.get(measurement))
        for example in examples
        for measurement, grade in example.reference.items()
    ]
    header = ("site", "exam_id", "note", "measurement", "reference", "decision")
    yield Figure(name=f"{name}_pictures", caption=caption, svg=svg, csv=figures.table(header, rows))


def _told(example: StoredExample) -> str:
    reference = ", ".join(f"{title(name).lower()} {grade}" for name, grade in example.reference.items())
    return f"{example.note}. Reference: {reference}. {example.site}, {example.exam_id}"


def _pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)
