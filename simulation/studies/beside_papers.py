"""Published systems beside their papers: each on patients of its own, federated, pooled and alone.

A study without a reference row is of this kind: its rows are whole systems that share no patients, so that nothing is
compared from row to row. Each row names its paper and the figures to be set beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from common.evaluation.own_patients import ALONE
from common.machine import atomic
from common.text import table_forms
from common.text.json_values import finite
from common.text.terminal import Table
from common.version import VERSION
from simulation.evaluation.metrics import metrics, scoring_models
from simulation.evaluation.scorer import Block
from simulation.studies.study import Figure, Part, Study, StudyRun

NOTHING = "-"
SYSTEMS = {"federated": "federated", "centralised": "pooled", ALONE: "each site alone"}
"""What trained a system's networks -> how it is called here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One system's figures.

    Attributes:
        run: that made them.
        row: what the study's file says of it.
        models: that vote, in each of the systems.
        exams: that were graded, and of how many patients.
        measured: system (``federated``, ``centralised``, ``alone``) -> metrics as in ``metrics.json``; alone: each
            site's patients by what the site trained by itself.
    """

    run: StudyRun
    row: Part
    models: int
    exams: tuple[int, int]
    measured: Mapping[str, Block]

    def cells(self, figure: Figure) -> tuple[str, ...]:
        """The figure of each system, ``NOTHING`` where it has none."""
        return tuple(_text(_at(self.measured.get(system, {}), figure.metric), figure) for system in SYSTEMS)


def beside_papers(study: Study) -> tuple[Beside, ...]:
    """Every run that is done, in the study's order."""
    return tuple(_read(study, run) for run in study.runs if study.done(run))


def _read(study: Study, run: StudyRun) -> Beside:
    folder = study.run_folder(run)
    frame = pd.read_parquet(folder / "predictions.parquet")
    measured = {"federated": json.loads((folder / "metrics.json").read_text(encoding="utf-8"))}
    others = folder / "predictions_baselines.parquet"
    if others.exists():
        table = pd.read_parquet(others)
        pooled = table[table["system"] == "centralised"]
        own = table[table["system"] == "alone:" + table["site"].astype(str)]
        parts = {"centralised": pooled, ALONE: own}
        cut = table[table["system"] == "federated"]  # as many models as the baselines, where the run has more
        parts |= {"federated": cut} if len(cut) else {}
        for name, part in parts.items():
            if len(part):
                measured[name] = metrics(_whole(part), settings=run.settings, generator_seed=run.seed)
    patients = frame[["site", "patient_id"]].drop_duplicates()
    return Beside(
        run=run,
        row=study.file.rows[run.row],
        models=scoring_models(frame) or 1,
        exams=(len(frame), len(patients)),
        measured=measured,
    )


def _whole(part: pd.DataFrame) -> pd.DataFrame:
    """One system's table by itself, without networks that only some sites chose, as Andersen's best layer."""
    table = part.drop(columns="system").dropna(axis="columns", how="all").reset_index(drop=True)
    partly = [name for name in table if str(name).startswith("p:") and table[name].isna().any()]
    return table.drop(columns=partly)


def _at(block: object, path: str) -> object:
    for part in path.split("."):
        if isinstance(block, Mapping):
            block = block.get(part)
        elif isinstance(block, Sequence) and not isinstance(block, str) and part.isdecimal():
            block = block[int(part)] if int(part) < len(block) else None
        else:
            return None
    return block


def _text(found: object, figure: Figure) -> str:
    """A value with its interval, or a mean with its standard deviation."""
    scale, digits, unit = (100.0, 1, " %") if figure.percent else (1.0, figure.digits, "")
    match found:
        case {"value": float(value), "ci95": [float(low), float(high)]}:
            shown = (f"{scale * one:.{digits}f}" for one in (value, low, high))
            return "{}{unit} ({} to {})".format(*shown, unit=unit)
        case {"mean": float(value), "sd": float(sd)}:
            return f"{scale * value:.{digits}f}{unit} (SD {scale * sd:.{digits}f})"
        case {"value": float(value)} | {"mean": float(value)} | float(value):
            return f"{scale * value:.{digits}f}{unit}"
    return NOTHING


def tables(found: Sequence[Beside]) -> Iterator[Table]:
    """One table a system: the printed figures, and ours."""
    for one in found:
        exams, patients = one.exams
        shown = Table(
            title=f"{one.row.title or one.run.row} ({one.row.paper})",
            caption=(
                f"{exams} exams of {patients} patients, {one.models} scoring models in each system, seed "
                f"{one.run.seed}. {one.row.note}"
            ).strip(),
        )
        shown.add_column("")
        for title in ("printed", *(f"phantom, {name}" for name in SYSTEMS.values())):
            shown.add_column(title, justify="right")
        for figure in one.row.figures:
            shown.add_row(figure.what, figure.printed or NOTHING, *one.cells(figure))
        yield shown


def markdown(study: Study, found: Sequence[Beside], *, command: str) -> str:
    """The whole page.

    Args:
        study: the study.
        found: what is done of it.
        command: that made it.
    """
    lines = [
        f"# {study.file.title or study.file.name}",
        "",
        f"`{command}`, synofed {VERSION}. Every system is trained three times with as many networks and steps: "
        f"federated over its sites, on all sites' data pooled, and at each site alone, which is judged on its own "
        f"patients. What a paper prints was measured on patients, and the rest on drawn ones: the two cannot be "
        f"compared. Intervals are 95 %, by bootstrap over patients; SD is over folds.",
    ]
    for one, table in zip(found, (table.plain() for table in tables(found)), strict=True):
        lines += ["", f"## {table.title}", "", table_forms.markdown(replace(table, title=""))]
        if one.row.differs:
            lines += [
                "",
                "What differs from the paper, and is ours:",
                "",
                *(f"- {item}" for item in one.row.differs),
            ]
        lines += ["", f"This row alone: `{command} run --index {study.runs.index(one.run)}`"]
    done = {one.run.name for one in found}
    missing = [run.name for run in study.runs if run.name not in done]
    if missing:
        lines += ["", f"Not done yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def as_json(found: Sequence[Beside]) -> list[dict[str, object]]:
    """Plain values: of each row its figures, as printed and of each system."""
    return [
        {
            "row": one.run.row,
            "seed": one.run.seed,
            "models": one.models,
            "figures": [
                {
                    "what": figure.what,
                    "printed": figure.printed,
                    "metric": figure.metric,
                    **{system: finite(_at(block, figure.metric)) for system, block in one.measured.items()},
                }
                for figure in one.row.figures
            ],
        }
        for one in found
    ]


def write(study: Study, found: Sequence[Beside], *, command: str) -> list[Path]:
    """Write ``table.md`` and ``table.json`` into the study's folder."""
    folder = study.folder
    atomic.write(folder / "table.md", markdown(study, found, command=command).encode())
    atomic.write(folder / "table.json", json.dumps(as_json(found), indent=1).encode() + b"\n")
    return [folder / "table.md", folder / "table.json"]
