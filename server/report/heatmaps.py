"""The report's table of heatmaps: how much of their mass falls inside what they should show on the phantom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.report.content import Content, Json
from server.report.tables import NOTHING, bounds, number, title

HEADER = (
    "Image", "Inside", "Chance", "Inside / chance", "Other patients' heatmaps", "More than those, points",
)  # fmt: skip
SHARE = "accuracy"
"""A metric that is shown in percent, as shares are."""


def rows(content: Content) -> Iterator[tuple[str, Sequence[tuple[str, str]]]]:
    """One row per image; none where heatmaps were not compared with the truth."""
    for name, block in ((content.metrics.get("heatmaps") or {}).get("images") or {}).items():
        empty = f"\n{block['empty']} exams without a heatmap left out" if block["empty"] else ""
        shares = [_share(block[key]) for key in ("inside", "chance")]
        cells = [*shares, _ratio(block["ratio"]), _share(block["shuffled"])]
        cells.append(_points(block["inside_minus_shuffled"]))
        yield f"{title(name)}{empty}", cells


def region(content: Content) -> str:
    """What heatmaps should show: the phantom's synovium, or the damaged joints of its radiographs."""
    return str((content.metrics.get("heatmaps") or {}).get("region", "synovium"))


def marks_flow(content: Content) -> bool:
    """Whether heatmaps of Doppler images are among them."""
    images = (content.metrics.get("heatmaps") or {}).get("images") or {}
    kinds = content.settings.get("images") or {}
    return any((kinds.get(name) or {}).get("kind") == "doppler" for name in images)


def _share(estimate: Json) -> tuple[str, str]:
    return number(estimate["value"], SHARE), bounds(estimate, SHARE)


def _ratio(estimate: Json) -> tuple[str, str]:
    value, (low, high) = estimate["value"], estimate["ci95"]
    spread = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return (NOTHING if value is None else f"{value:.2f}"), spread


def _points(difference: Json) -> tuple[str, str]:
    """A difference of shares in percentage points."""
    value, (low, high) = difference["value"], difference["ci95"]
    spread = "" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    return (NOTHING if value is None else f"{100 * value:+.1f}"), spread
