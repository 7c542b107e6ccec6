"""A run's rounds and held-out scores as TensorBoard's event files, made of what the run's folder holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigurationError, DataError
from common.text.file_names import file_name
from server.report import content
from server.report.content import Content

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAME = "tensorboard"
METRICS = ("accuracy", "kappa_linear")
Scalar = tuple[str, float, int]
"""Tag, value, step."""


def write(run: Path, out: Path) -> Path:
    """Write event files.

    Args:
        run: the run's folder; of an unfinished run the rounds so far.
        out: folder to be made, with one for each system that was trained: ``federated``, ``alone-SITE``,
            ``centralised``. A step is a round.

    Returns:
        ``out``.

    Raises:
        ConfigurationError: if TensorBoard is not installed, or ``out`` exists.
        DataError: if it is no run's folder, or nothing was trained in it yet.
    """
    writer = _writer()
    if out.exists():
        raise ConfigurationError(f"Expected a new folder, {out} exists already: remove it or choose another")
    systems = dict(scalars(content.read(run)))
    if not systems:
        raise DataError(f"Expected a run with rounds at {run}, rounds.jsonl is not there or empty")
    for system, found in systems.items():
        with writer(str(out / file_name(system.replace(":", "-")))) as events:
            for tag, value, step in found:
                events.add_scalar(tag, value, step)
    return out


def scalars(run: Content) -> Iterator[tuple[str, list[Scalar]]]:
    """System -> its losses and validation AUCs by round and group, then its held-out scores at its last round."""
    for system in dict.fromkeys(one.system for one in run.rounds):
        own = [one for one in run.rounds if one.system == system]
        last = max(one.number for one in own)
        values = [
            (f"{what}/{one.group}", value, one.number)
            for one in own
            for what, value in (("loss", one.loss), ("validation AUC", one.auc))
            if value is not None
        ]
        yield system, values + [(tag, value, last) for tag, value in _held_out(run, system)]


def _held_out(run: Content, system: str) -> Iterator[tuple[str, float]]:
    baselines = run.metrics.get("baselines") or {}
    name, _, site = system.partition(":")
    scores: Mapping[str, Any] = run.metrics if name == "federated" else baselines.get(name) or {}
    if site:
        scores = scores.get(site) or {}
    for score in run.measurements:
        for metric in METRICS:
            value = ((scores.get(score) or {}).get(metric) or {}).get("value")
            if value is not None:
                yield f"held-out {metric}/{score}", value


def _writer() -> type[SummaryWriter]:
    """TensorBoard's writer, which torch has and TensorBoard makes work."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "Expected the package tensorboard, which is installed by choice: pip install 'synofed[tensorboard]'"
        ) from None
    return SummaryWriter
