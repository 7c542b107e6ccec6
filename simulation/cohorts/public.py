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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low

import numpy as np

from client.data.tables.rows import Row, read_rows, refuse, whole
from common.errors import ConfigurationError, DataError, refusal
from common.extensions import is_object_path, load_object
from common.sections.cohort import PublicSettings
from common.sections.section import section
from common.settings import Settings
from simulation.cohorts import partition
from simulation.cohorts.cohort import Cohort, by_one, discover
from simulation.cohorts.collection import (
    DESCRIPTIVE,
    Collection,
    Labels,
    draft_folder,
    import_pictures,
    read_collection,
    read_labels,
    remarks,
    write_copies,
    write_folder,
)
from simulation.cohorts.partition import Partition, Patient
from simulation.phantom.folders import DIAGNOSIS, NO_BUDGET, SITE_TOML

VERSION = 3
"""Of the layout: a cohort of another version is not taken for the same."""
MINIMUM_COHORT = 1
"""The pictures are public: counts need no crowd to hide in."""
__all__ = [
    "DESCRIPTIVE",
    "Collection",
    "Labels",
    "ensure",
    "import_pictures",
    "read_collection",
    "read_labels",
    "remarks",
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
    """Split a manifest, with the grades and pictures beside it, into sites: see :func:`split_collection`.

    Raises:
        ConfigurationError: also for numbers that :class:`PublicSettings` does not allow.
        DataError: also if the manifest or its grades cannot be used.
    """
    given = {"by": by, "alpha": alpha, "weights": weights, "held_out": held_out}
    counted = {} if sites is None else {"sites": sites}
    asked = section(
        PublicSettings,
        {"images": manifest.parent, "labels": manifest, "columns": {}, **given, **counted},
        source="The split",
    )
    return split_collection(
        read_collection(manifest),
        by=asked.by,
        sites=None if sites is None else asked.sites,
        seed=seed,
        out=out,
        alpha=asked.alpha,
        weights=asked.weights,
        held_out=asked.held_out,
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
            ``file:ASSIGNMENT.csv`` (columns ``patient_id, site``) or your own ``package.module:Name``.
        sites: how many; ``None``: as many as there are groups, weights or sites in the file.
        seed: the same seed gives the same folders.
        out: folder to be made; must not exist.
        alpha: for ``dirichlet``.
        weights: for ``size``: one positive number per site; none: all alike.
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
        "remarks": list(_of_two_sites(collection, _column(by))),
        "sites": [{"name": name, "trains": trains[name]} for name in splits],
    }
    with draft_folder(out) as draft:
        write_copies(draft, collection)
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
    _check_exams(collection, splits)
    return splits


def ensure(
    public: PublicSettings,
    *,
    settings: Settings,
    folder: Path,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Cohort:
    """The cohort that a run's ``[cohort.public]`` describes, made on first use.

    Args:
        public: that section.
        settings: the whole run; its seed decides the split, its folds how many patients a site needs.
        folder: folder of cohorts; this one's name there has a hash of all that shapes it.
        progress: told of sites written, out of all.
        say: as of :func:`simulation.cohorts.cohort.by_one`.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the labels or pictures cannot be used.
    """
    how = _labels(public, settings)
    identity: dict[str, object] = {
        "version": VERSION,
        "seed": settings.seed,
        "measurements": list(how.measurements),
        "settings": public.model_dump(mode="json"),
        "folds": settings.rating.folds,
        "labels": _digest(public.labels),
    }
    if how.numbers:
        identity["numbers"] = {name: one.model_dump(mode="json") for name, one in how.numbers.items()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    out = folder / f"public-{key}"
    with by_one(out, say) as there:
        if there:
            return discover(out)
        return split_collection(
            read_labels(public.images, public.labels, how),
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


def _labels(public: PublicSettings, settings: Settings) -> Labels:
    """The columns that are named, and the one that is split by."""
    by = _column(public.by)
    beside = {by: by} if by is not None and by not in public.columns else {}
    return Labels(
        columns={**public.columns, **beside},
        measurements=[name for name in settings.measurements if name in public.columns],
        numbers={name: one for name, one in settings.numbers.items() if name in public.columns},
        words=public.grades,
        patient=public.patient,
        sheet=public.sheet,
        header_row=public.header_row,
    )


def planned(
    public: PublicSettings, *, settings: Settings
) -> tuple[Collection, Mapping[str, Mapping[str, str]]]:
    """What :func:`ensure` would make: the labels, and site -> patient -> ``train`` or ``test``; nothing is written.

    Raises:
        ConfigurationError: if the sites cannot be made as asked.
        DataError: if the labels or pictures cannot be used.
    """
    collection = read_labels(public.images, public.labels, _labels(public, settings))
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
        there = ", ".join(collection.manifest[0])
        raise DataError(f"Expected a column {column!r} in the manifest, to split by; there are: {there}")
    exams: dict[str, list[Row]] = {}
    highest: dict[str, int] = {}
    for row, readings in zip(collection.manifest, collection.readings, strict=True):
        patient = row["patient_id"]
        exams.setdefault(patient, []).append(row)
        highest[patient] = max(highest.get(patient, 0), _exam_grade(readings, collection))
    both = [patient for patient, rows in exams.items() if len({row.get("split", "") for row in rows}) > 1]
    if both:
        raise DataError(f"Expected one split per patient; {len(both)} have several: {both[:10]}")
    if len({bool(rows[0].get("split")) for rows in exams.values()}) > 1:
        raise DataError("Expected split to be train or test in every row, or in none")
    return [
        Patient(
            patient_id=patient,
            grade=highest[patient],
            group=_most_frequent(row[column] for row in rows) if column is not None else "",
            split=rows[0].get("split", ""),
        )
        for patient, rows in exams.items()
    ]


def _of_two_sites(collection: Collection, column: str | None) -> Iterator[str]:
    """Patients whom the column that is split by has at several sites: one person, or two of the same id."""
    groups: dict[str, set[str]] = {}
    for row in collection.manifest if column is not None else ():
        groups.setdefault(row["patient_id"], set()).add(row[column or ""])
    count = sum(len(found) > 1 for found in groups.values())
    if count:
        yield (
            f"{count} of {len(groups)} patients have several values of {column}: each goes with all exams to where "
            f"most are. If two sites give different people the same patient_id, make the ids distinct first"
        )


def _exam_grade(readings: Sequence[Row], collection: Collection) -> int:
    """The highest measurement of an exam, each the lower median of its readers; 0 where nobody graded it.

    Of a number the quarter of its range counts, 0 to 3, so that sites differ by it as they would by a grade.
    """
    given = [
        [int(text) for r in readings if (text := whole(r[name])).isdecimal()]
        for name in collection.measurements
    ]
    given += [
        [min(3, int(4 * of_range.share(float(r[name])))) for r in readings if r[name]]
        for name, of_range in collection.numbers.items()
    ]
    return max((median_low(grades) for grades in given if grades), default=0)


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
        parts = partition.by_assignment(patients, _assignment(Path(by.removeprefix("file:"))))
        return {_site_name(name): part for name, part in parts.items()}
    if is_object_path(by):
        rule = load_object(by, what="by")
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


def _assignment(path: Path) -> dict[str, str]:
    """Patient -> site, as a table says."""
    sites: dict[str, str] = {}
    errors = [
        f"  line {line}: site is {row['site']!r}, expected {sites[row['patient_id']]!r} as in an earlier line"
        for line, row in read_rows(path, ["patient_id", "site"]).rows
        if sites.setdefault(row["patient_id"], row["site"]) != row["site"]
    ]
    refuse(path, errors)
    return sites


def _weights(weights: Sequence[float], sites: int | None) -> Sequence[float]:
    count = sites if sites is not None else len(weights) or 2
    shares = list(weights) or [1.0] * count
    if len(shares) != count or not all(np.isfinite(w) and w > 0 for w in shares):
        raise ConfigurationError(f"Expected {count} positive weights, one per site, got {list(weights)}")
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


def _check_exams(collection: Collection, splits: Mapping[str, Mapping[str, str]]) -> None:
    """Within a site an exam's id stands once; other sites may use the same."""
    site_of = {patient: name for name, chosen in splits.items() for patient in chosen}
    first: dict[tuple[str, str], int] = {}
    errors = []
    for line, row in zip(collection.lines, collection.manifest, strict=True):
        site = site_of[row["patient_id"]]
        earlier = first.setdefault((site, row["exam_id"]), line)
        if earlier != line:
            errors.append(f"  lines {earlier} and {line}: exam_id {row['exam_id']!r} at {site}")
    if errors:
        more = f"\n  ... and {len(errors) - 10} more" if len(errors) > 10 else ""
        raise DataError(
            f"Expected each exam_id once at a site, {len(errors)} stand more often: split by the column that tells "
            f"the hospitals apart, or leave exam_id out of the columns, and lines are numbered:\n"
            + "\n".join(errors[:10])
            + more
        )


def _write_site(folder: Path, name: str, collection: Collection, chosen: Mapping[str, str]) -> None:
    rows = [index for index, row in enumerate(collection.manifest) if row["patient_id"] in chosen]
    folder.mkdir()
    (folder / "site.toml").write_text(
        SITE_TOML.format(name=name, minimum_cohort=MINIMUM_COHORT, budget=NO_BUDGET + DIAGNOSIS),
        encoding="utf-8",
    )
    write_folder(folder, collection, rows, splits=chosen)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"Expected a table of labels at {path}: {refusal(error)}") from None
