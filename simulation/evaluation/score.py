"""Scores pictures with a finished run's ensemble: one exam's, or those of a whole manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from client.data.pictures.arrays import decoded
from client.data.pictures.pictures import Cut
from client.data.tables.manifest import image_problems, image_refs
from client.data.tables.rows import Row, read_rows, refuse
from client.ensemble import personal, scoring
from client.ensemble.scoring import Pictures
from common.ensemble.committee import BATCH, Committee, Scores
from common.ensemble.number_stack import NumberStack
from common.errors import ConfigurationError, DataError
from common.exam import ImageRef
from common.machine import network_files
from common.sections.compute import ComputeSettings
from common.settings import Settings
from server.runs.run_folder import RunFolder
from simulation.engine import engines

Progress = Callable[[int, int], None]


def open_committee(run: Path) -> Committee:
    """The ensemble that a run trained.

    Args:
        run: the run's folder.

    Raises:
        ConfigurationError: if it is no run's folder.
        DataError: if its networks are not all there.
    """
    folder = RunFolder(run)
    manifest = folder.manifest()
    trained = manifest.get("networks")
    if not isinstance(trained, dict):
        raise DataError(
            f"Expected a run with trained networks at {run}, its status is {manifest.get('status')}: finish it "
            f"with synofed simulate --resume, or synofed run resume"
        )
    networks = list(network_files.load_all(run / "networks"))
    missing = sorted(set(trained) - {network.spec.name for network in networks})
    if missing:
        raise DataError(
            f"Expected {len(trained)} networks in {run / 'networks'}; missing: {', '.join(missing)}"
        )
    return network_files.committee(
        [network for network in networks if network.spec.name in trained],
        folder.settings(),
        temperatures=personal.temperatures(manifest),
        stacks=_stacks(manifest),
    )


def _stacks(manifest: Mapping[str, object]) -> dict[str, NumberStack]:
    """How stacked numbers come of their networks; none in a run of before there were any."""
    found = manifest.get("stacks") or {}
    assert isinstance(found, Mapping)
    return {number: NumberStack.model_validate(stack) for number, stack in found.items()}


def choose_device(compute: ComputeSettings, name: str | None = None) -> torch.device:
    """Where to score: the device that is named, or else where the run's own predictions were made.

    A CUDA device of the run that this machine does not have is replaced by what it has.

    Raises:
        ConfigurationError: if a device is named that is not there.
    """
    wanted = (name,) if name is not None else compute.devices
    try:
        return torch.device(engines.devices(ComputeSettings(devices=wanted))[0])
    except ConfigurationError:
        if name is not None:
            raise
    return torch.device(engines.devices(ComputeSettings())[0])


def score_manifest(committee: Committee, manifest: Path, *, progress: Progress | None = None) -> pd.DataFrame:
    """Score every exam of a manifest: columns ``exam_id``, ``<image>_path`` and optionally ``<image>_roi, site``.

    Args:
        committee: the ensemble.
        manifest: the table; paths start from its folder.
        progress: told of exams done, out of all.

    Returns:
        One row per exam, in the order of the manifest: ``exam_id, reason``, ``decision_<m>`` and ``combined``
        (where there is such a score), then the other columns of :func:`score_columns`, and ``note``, what was
        guessed of its pictures. An exam with a picture that cannot be used has its reason and no scores.

    Raises:
        DataError: if the table cannot be used, all errors listed, or no exam can be scored.
    """
    exams_named, pictures = _read_manifest(manifest, committee.settings)
    exam_ids = [row["exam_id"] for row in exams_named]
    reasons: dict[int, str] = {}
    notes: dict[int, str] = {}
    frames: list[pd.DataFrame] = []
    for rows, exams in _batches(manifest.parent, pictures, committee.settings, reasons, progress):
        columns = _answer_first(scoring.scores(committee, exams))
        notes |= {
            row: note
            for row, cuts in zip(rows, exams, strict=True)
            if (note := scoring.guesses_of(cuts, committee))
        }
        frames.append(pd.DataFrame(columns, index=pd.Index(rows)))
    if not frames:
        first = "\n".join(f"  {exam_ids[row]}: {reason}" for row, reason in list(reasons.items())[:5])
        raise DataError(f"Expected usable pictures in {manifest}, got none, for example:\n{first}")
    rows_in_order = range(len(exam_ids))
    table = pd.concat(frames).reindex(rows_in_order).convert_dtypes()
    table.insert(0, "exam_id", exam_ids)
    table.insert(1, "reason", [reasons.get(row, "") for row in rows_in_order])
    table["note"] = pd.Series(notes, dtype="string").reindex(rows_in_order)
    if "site" in exams_named[0]:
        table.insert(0, "site", [row["site"] for row in exams_named])
    return table


def score_columns(scores: Scores) -> dict[str, object]:
    """Columns of a table of scores, one value per exam.

    ``vote_<m>_<k>``, ``decision_<m>`` and ``majority_<m>`` for each score, ``number_<n>_<k>`` and ``number_<n>``,
    their mean or the stacked one, for each number, then ``contested, tie, weight, runner_up_weight``.
    """
    columns: dict[str, object] = {}
    for index, name in enumerate(scores.names):
        votes = scores.votes[:, :, index]
        columns |= {f"vote_{name}_{model}": votes[:, model] for model in range(votes.shape[1])}
        columns[f"decision_{name}"] = scores.decision[:, index]
        columns[f"majority_{name}"] = scores.majority[:, index]
    for name, values in scores.numbers.items():
        columns |= {f"number_{name}_{k}": values[:, k] for k in range(values.shape[1])}
        columns[f"number_{name}"] = scores.number(name)
    return columns | {
        "contested": scores.contested,
        "tie": scores.tie,
        "weight": scores.weight,
        "runner_up_weight": scores.runner_up_weight,
    }


def _answer_first(scores: Scores) -> dict[str, object]:
    columns = score_columns(scores)
    answer = {name: columns[name] for name in columns if name.startswith("decision_")}
    combined = {} if scores.combined is None else {"combined": scores.combined}
    return answer | combined | columns


def _read_manifest(manifest: Path, settings: Settings) -> tuple[list[Row], list[dict[str, ImageRef]]]:
    """The rows, told apart by ``exam_id``, and by ``site`` where there is such a column; their images."""
    table = read_rows(manifest, ["exam_id", *(f"{image}_path" for image in settings.images)])
    root = manifest.parent.resolve()
    seen: set[tuple[str, str]] = set()
    errors: list[str] = []
    for line, row in table.rows:
        problems = [problem for image in settings.images for problem in image_problems(root, image, row)]
        exam = row.get("site", ""), row["exam_id"]
        if not row["exam_id"] or exam in seen:
            problems.append(f"exam_id is {row['exam_id']!r}, expected an identifier of its own")
        seen.add(exam)
        errors += [f"  line {line}: {problem}" for problem in problems]
    refuse(manifest, errors)
    return [row for _, row in table.rows], [image_refs(row, settings) for _, row in table.rows]


def _batches(
    folder: Path,
    pictures: Sequence[Pictures],
    settings: Settings,
    reasons: dict[int, str],
    progress: Progress | None,
) -> Iterator[tuple[list[int], list[list[Cut]]]]:
    """Rows and pictures of up to ``BATCH`` exams at a time; why others are left out goes to ``reasons``."""
    rows: list[int] = []
    exams: list[list[Cut]] = []
    for row, result in enumerate(decoded(folder, pictures, settings)):
        if isinstance(result, str):
            reasons[row] = result
        else:
            rows.append(row)
            exams.append(result)
        if exams and (len(exams) == BATCH or row + 1 == len(pictures)):
            yield rows, exams
            rows, exams = [], []
        if progress is not None:
            progress(row + 1, len(pictures))
