"""Public pictures with grades, laid out as site folders.

A collection is made from any folder of pictures with a table of labels (:func:`import_pictures`), or is any
manifest with its grades (:func:`read_collection`); it is split into sites by :func:`split`,
or :func:`ensure` does all of it for a run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median_low

import numpy as np

from common.cohort_settings import PublicSettings
from common.errors import ConfigurationError, DataError
from common.extensions import is_own, own
from common.settings import Settings
from simulation import partition
from simulation.cohort import Cohort, discover
from simulation.collection import (
    READING,
    Collection,
    Row,
    draft_folder,
    import_pictures,
    read_collection,
    read_labels,
    read_rows,
    write_folder,
)
from simulation.partition import Partition, Patient

VERSION = 2
"""Of the layout: a cohort of another version is not taken for the same."""
MINIMUM_COHORT = 1
"""The pictures are public: counts need no crowd to hide in."""
SITE_TOML = """\
name = "{name}"

[data]
consensus = "median"

[policy]
allow_unprotected = true
approval = "automatic"
methods = ["*"]
code = ["*"]
metrics = ["counts", "losses", "score_histograms"]
minimum_cohort = {minimum_cohort}
maximum_update_bytes = 100_000_000_000
keep_outbox_days = 0
"""
__all__ = [
    "Collection",
    "ensure",
    "import_pictures",
    "read_collection",
    "read_labels",
    "split",
    "split_collection",
]
Progress = Callable[[int, int], None]


def split(
    manifest: Path,
    *,
    by: str,
    sites: int | None,
    seed: int,
    out: Path,
    alpha: float = 1.0,
    weights: Sequence[float] = (),
    held_out: float = 0.3,
    progress: Progress | None = None,
) -> Cohort:
    """Split a manifest, with the grades and pictures beside it, into sites: see :func:`split_collection`."""
    return split_collection(
        read_collection(manifest),
        by=by,
        sites=sites,
        seed=seed,
        out=out,
        alpha=alpha,
        weights=weights,
        held_out=held_out,
        progress=progress,
    )


def split_collection(
    collection: Collection,
    *,
    by: str,
    sites: int | None,
    seed: int,
    out: Path,
    alpha: float = 1.0,
    weights: Sequence[float] = (),
    held_out: float = 0.3,
    least_patients: int = 2,
    identity: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Split a collection into site folders; ``out`` appears under its name only when it is complete.

    A patient's exams stay together. A ``split`` column that is filled throughout is honoured; otherwise each
    site's held-out patients are drawn by the seed, the same share of every grade.

    Args:
        collection: what is split.
        by: ``device`` or ``column:NAME`` (a patient's most frequent value decides), ``dirichlet``, ``size``,
            ``file:ASSIGNMENT.csv`` (columns ``patient_id, site``) or ``package.module:Name`` of one's own.
        sites: how many; ``None``: as many as there are groups, weights or sites in the file.
        seed: the same seed gives the same folders.
        out: folder to be made; must not exist.
        alpha: for ``dirichlet``.
        weights: for ``size``: one positive number a site; none: all alike.
        held_out: share of patients held out.
        least_patients: training patients that every site needs; a site may have none if all its patients are
            in the ``split`` column's ``test``: it is then never trained on.
        identity: what ``cohort.json`` says of the settings.
        progress: told of pictures copied, out of all.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the assignment does not fit, or ``out`` exists.
    """
    splits = planned_splits(
        collection,
        by=by,
        sites=sites,
        seed=seed,
        alpha=alpha,
        weights=weights,
        held_out=held_out,
        least_patients=least_patients,
    )
    trains = {name: "train" in chosen.values() for name, chosen in splits.items()}
    index = {
        "version": VERSION,
        "seed": seed,
        "settings": {"by": by, "alpha": alpha, "held_out": held_out, "weights": list(weights)},
        **(identity or {}),
        "sites": [{"name": name, "trains": trains[name]} for name in splits],
    }
    with draft_folder(out) as draft:
        for name, chosen in splits.items():
            _write_site(draft / name, name, collection, chosen)
            if progress is not None:
                progress(list(splits).index(name) + 1, len(splits))
        (draft / "cohort.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return discover(out)


def planned_splits(
    collection: Collection,
    *,
    by: str,
    sites: int | None,
    seed: int,
    alpha: float = 1.0,
    weights: Sequence[float] = (),
    held_out: float = 0.3,
    least_patients: int = 2,
) -> dict[str, dict[str, str]]:
    """Site -> patient -> ``train`` or ``test``, as :func:`split_collection` will write them; nothing is written.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the assignment does not fit.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x70617274]))
    parts = _partition(
        _patients(collection, column=_column(by)),
        by=by,
        sites=sites,
        alpha=alpha,
        weights=weights,
        held_out=held_out,
        least_patients=least_patients,
        rng=rng,
    )
    splits = {name: partition.choose_held_out(part, share=held_out, rng=rng) for name, part in parts.items()}
    _check_sizes(parts, splits, least_patients)
    return splits


def ensure(
    public: PublicSettings, *, settings: Settings, folder: Path, progress: Progress | None = None
) -> Cohort:
    """The cohort that a run's ``[cohort.public]`` describes, made on first use.

    Args:
        public: that section.
        settings: the whole run; its seed decides the split, its folds how many patients a site needs.
        folder: folder of cohorts; this one's name there has a hash of all that shapes it.
        progress: told of sites written, out of all.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the labels or pictures cannot be used.
    """
    identity: dict[str, object] = {
        "version": VERSION,
        "seed": settings.seed,
        "settings": public.model_dump(mode="json"),
        "folds": settings.rating.folds,
        "labels": _digest(public.labels),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    out = folder / f"public-{key}"
    if out.is_dir():
        return discover(out)
    return split_collection(
        read_labels(public.images, public.labels, public.columns),
        by=public.by,
        sites=public.sites,
        seed=settings.seed,
        out=out,
        alpha=public.alpha,
        weights=public.weights,
        held_out=public.held_out,
        least_patients=settings.rating.folds,
        identity=identity,
        progress=progress,
    )


def planned(
    public: PublicSettings, *, settings: Settings
) -> tuple[Collection, Mapping[str, Mapping[str, str]]]:
    """What :func:`ensure` would make: the labels, and site -> patient -> ``train`` or ``test``; nothing is written.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the labels or pictures cannot be used.
    """
    collection = read_labels(public.images, public.labels, public.columns)
    return collection, planned_splits(
        collection,
        by=public.by,
        sites=public.sites,
        seed=settings.seed,
        alpha=public.alpha,
        weights=public.weights,
        held_out=public.held_out,
        least_patients=settings.rating.folds,
    )


def _column(by: str) -> str | None:
    """The manifest column that patients are grouped by."""
    return "device" if by == "device" else by.removeprefix("column:") if by.startswith("column:") else None


def _patients(collection: Collection, *, column: str | None) -> list[Patient]:
    """Patients in the order of the manifest.

    Raises:
        DataError: if the column is missing, a patient is in both splits, or only some are in one.
    """
    if column is not None and any(column not in row for row in collection.manifest):
        raise DataError(f"Expected a column {column!r} in the manifest, to split by")
    grade = _exam_grades(collection.grades)
    exams: dict[str, list[Row]] = {}
    for row in collection.manifest:
        exams.setdefault(row["patient_id"], []).append(row)
    both = [patient for patient, rows in exams.items() if len({row.get("split", "") for row in rows}) > 1]
    if both:
        raise DataError(f"Expected one split a patient; {len(both)} have several: {both[:10]}")
    if len({bool(rows[0].get("split")) for rows in exams.values()}) > 1:
        raise DataError("Expected split to be train or test in every row, or in none")
    return [
        Patient(
            patient_id=patient,
            grade=max(grade.get(row["exam_id"], 0) for row in rows),
            group=_most_frequent(row[column] for row in rows) if column is not None else "",
            split=rows[0].get("split", ""),
        )
        for patient, rows in exams.items()
    ]


def _exam_grades(readings: Sequence[Row]) -> dict[str, int]:
    """The highest measurement of each exam, each the lower median of its readers."""
    given: dict[tuple[str, str], list[int]] = {}
    for reading in readings:
        for name, text in reading.items():
            if name not in READING and text.isdecimal():
                given.setdefault((reading["exam_id"], name), []).append(int(text))
    highest: dict[str, int] = {}
    for (exam, _), grades in given.items():
        highest[exam] = max(highest.get(exam, 0), median_low(grades))
    return highest


def _most_frequent(values: Iterable[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _partition(
    patients: Sequence[Patient],
    *,
    by: str,
    sites: int | None,
    alpha: float,
    weights: Sequence[float],
    held_out: float,
    least_patients: int,
    rng: np.random.Generator,
) -> Partition:
    if _column(by) is not None:
        names = _slugs({patient.group for patient in patients})
        return partition.by_group(patients, sites=sites, names=names)
    if by.startswith("file:"):
        rows = read_rows(Path(by.removeprefix("file:")), ["patient_id", "site"])
        parts = partition.by_assignment(patients, {row["patient_id"]: row["site"] for _, row in rows})
        return {_site_name(name): part for name, part in parts.items()}
    if is_own(by):
        rule = own(by, what="by")
        parts = partition.by_own(patients, rule, sites=sites or 2, rng=rng)
        return {_site_name(name): part for name, part in parts.items()}
    if by == "size":
        shares = _weights(weights, sites)
        return partition.by_size(patients, weights=shares, rng=rng)
    if by == "dirichlet":
        return partition.by_dirichlet(
            patients,
            sites=sites or 2,
            alpha=alpha,
            least_patients=least_patients,
            held_out=held_out,
            rng=rng,
        )
    raise ConfigurationError(
        f"Expected by = device, dirichlet, size, column:NAME, file:ASSIGNMENT.csv or package.module:Name, got {by!r}"
    )


def _weights(weights: Sequence[float], sites: int | None) -> Sequence[float]:
    count = sites if sites is not None else len(weights) or 2
    shares = list(weights) or [1.0] * count
    if len(shares) != count or not all(np.isfinite(w) and w > 0 for w in shares):
        raise ConfigurationError(f"Expected {count} positive weights, one a site, got {list(weights)}")
    return shares


def _slugs(groups: Iterable[str]) -> dict[str, str]:
    """Site names that resemble the groups' values."""
    names: dict[str, str] = {}
    for group in sorted(groups):
        slug = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")[:48] or "unknown"
        taken = sum(name == slug or name.startswith(f"{slug}.") for name in names.values())
        names[group] = f"{slug}.{taken + 1}" if taken else slug
    return names


def _site_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise DataError(
            f"Expected site names of letters, digits, '.', '_', '-' in the assignment, got {name!r}"
        )
    return name


def _check_sizes(parts: Partition, splits: Mapping[str, Mapping[str, str]], least_patients: int) -> None:
    """Whether each site can train, or is one that is only tested on."""
    for name, part in parts.items():
        training = sum(where == "train" for where in splits[name].values())
        tested_only = training == 0 and part and all(patient.split == "test" for patient in part)
        if training < least_patients and not tested_only:
            raise ConfigurationError(
                f"Expected at least {least_patients} training patients at each site, got {training} of "
                f"{len(part)} patients at {name}: ask for fewer sites or folds, or split by something else"
            )


def _write_site(folder: Path, name: str, collection: Collection, chosen: Mapping[str, str]) -> None:
    rows = [
        row | {"split": chosen[row["patient_id"]]}
        for row in collection.manifest
        if row["patient_id"] in chosen
    ]
    folder.mkdir()
    (folder / "site.toml").write_text(
        SITE_TOML.format(name=name, minimum_cohort=MINIMUM_COHORT), encoding="utf-8"
    )
    write_folder(folder, collection, rows)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"Expected a table of labels at {path}: {error}") from None
