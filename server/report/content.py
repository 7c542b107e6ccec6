"""Reads what a run's folder holds; every part but the folder itself may be missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import ConfigurationError, DataError
from common.text import toml_text
from server.report.examples import StoredExample, read_examples, read_sheets

Json: TypeAlias = dict[str, Any]
"""An object of a JSON or TOML file; its values are checked where they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One line of ``rounds.jsonl``; ``None`` for what was not measured."""

    system: str
    stage: str
    group: str
    number: int
    loss: float | None
    auc: float | None
    participants: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A run's folder.

    Attributes:
        name: of the run.
        config: ``config.toml`` as text.
        settings: the same, parsed.
        manifest: ``manifest.json``.
        metrics: ``metrics.json``; empty before the evaluation.
        rounds: ``rounds.jsonl``, in order.
        examples: of ``figures/examples``.
        far_off: of ``figures/far_off``.
        contrasts: of ``figures/contrasts``.
        failures: of ``figures/failures``.
        heatmaps: of ``figures/heatmaps``.
        hotspots: title and data URI of each contact sheet of ``figures/hotspots``.
    """

    name: str
    config: str
    settings: Json
    manifest: Json
    metrics: Json
    rounds: Sequence[Round]
    examples: Sequence[StoredExample]
    far_off: Sequence[StoredExample]
    heatmaps: Sequence[StoredExample]
    contrasts: Sequence[StoredExample] = ()
    failures: Sequence[StoredExample] = ()
    hotspots: Sequence[tuple[str, str]] = ()

    @property
    def measurements(self) -> list[str]:
        """What was scored, in the order of the settings; the combined score, if any, is last."""
        return list(self.metrics.get("grades", {}))

    @property
    def primary(self) -> str:
        """The measurement that headlines are about: the combined score, or else the first."""
        return "combined" if "combined" in self.measurements else self.measurements[0]


def read(run: Path, rounds: Sequence[Round] | None = None) -> Content:
    """Read a run's folder.

    Args:
        run: the folder.
        rounds: taken for those of ``rounds.jsonl``, which is not read then.

    Raises:
        DataError: if it is no folder, or a file in it cannot be read.
    """
    if not run.is_dir():
        raise DataError(f"Expected a run's folder at {run}: run `synofed simulate` first.")
    try:
        config = _text(run / "config.toml")
        settings = toml_text.parse(config, source=str(run / "config.toml"))
        about = manifest(run)
        return Content(
            name=str(about.get("name") or settings.get("name") or run.name),
            config=config,
            settings=settings,
            manifest=about,
            metrics=json.loads(_text(run / "metrics.json") or "{}"),
            rounds=_rounds(run) if rounds is None else rounds,
            examples=read_examples(run / "figures" / "examples"),
            far_off=read_examples(run / "figures" / "far_off"),
            contrasts=read_examples(run / "figures" / "contrasts"),
            failures=read_examples(run / "figures" / "failures"),
            heatmaps=read_examples(run / "figures" / "heatmaps"),
            hotspots=read_sheets(run / "figures" / "hotspots"),
        )
    except (ConfigurationError, ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"Expected a whole run in {run}, but a file cannot be read: {error!r}") from None


def manifest(run: Path) -> Json:
    """What a run's ``manifest.json`` says; empty where there is none.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return dict(json.loads(_text(run / "manifest.json") or "{}"))
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"Expected a run's manifest in {run}: {error}") from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _rounds(run: Path) -> list[Round]:
    return [_round(json.loads(line)) for line in _text(run / "rounds.jsonl").splitlines() if line]


def _round(line: Json) -> Round:
    return Round(
        system=str(line.get("system", "federated")),
        stage=str(line.get("stage", "")),
        group=str(line["group"]),
        number=int(line["round"]),
        loss=line.get("loss"),
        auc=line.get("auc"),
        participants=tuple(line.get("participants", ())),
    )
