"""Cohorts of sites: making phantom ones, finding those in a folder, and showing what they look like."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from client.data.tables.rows import read_rows
from common.errors import ConfigurationError, DataError
from common.machine import file_lock
from common.sections.cohort import Drawn, HandSettings, PhantomSettings
from simulation.cohorts import hands
from simulation.cohorts.drawing import Progress, by_site, site_name
from simulation.phantom.devices import FITTED, Device, jittered, random_device
from simulation.phantom.diagnosis import deal
from simulation.phantom.folders import Job, write_patient, write_site
from simulation.phantom.random import stream
from simulation.phantom.shifts import SiteShift, site_shifts

VERSION = 4
"""Of the generator: a cohort of another version is not taken for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSite:
    """A site's folder; ``trains`` is false for a site that is only tested on."""

    name: str
    folder: Path
    trains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Site folders that belong together."""

    folder: Path
    sites: tuple[CohortSite, ...]


def devices(settings: PhantomSettings, *, seed: int) -> dict[str, Device]:
    """The machine of each site: the cohort's own, the five measured ones, other presets of these, and the unseen one.

    With ``shift.devices = "one"`` all but the unseen site have the first, with ``"drawn"`` each has one that no
    other cohort has.

    Raises:
        ConfigurationError: if a machine of the cohort's own is called as one of the others.
    """
    taken = {"unseen", *(device.name for device in FITTED)}
    known = [machine.name for machine in settings.machines if machine.name in taken]
    if known:
        raise ConfigurationError(
            f"Expected names for cohort.phantom.machines that no other machine has, got {', '.join(known)}"
        )
    chosen = {site_name(site): _machine(settings, site, seed=seed) for site in range(settings.sites)}
    if settings.unseen_device:
        chosen["unseen"] = random_device(stream(seed, "unseen", "device"))
    return chosen


def _machine(settings: PhantomSettings, site: int, *, seed: int) -> Device:
    name = site_name(site)
    if settings.shift.devices == "drawn":
        rng = stream(seed, name, "drawn")
        return random_device(rng, name=f"drawn-{seed}-{site + 1}", spread=settings.shift.spread)
    index = site if settings.shift.devices == "own" else 0  # of shared machines: the first
    if index < len(settings.machines):
        return Device(**settings.machines[index].model_dump())
    index -= len(settings.machines)
    device = FITTED[index % len(FITTED)]
    if index < len(FITTED):
        return device
    return jittered(device, stream(seed, name, "device"), name=f"{device.name}-{index // len(FITTED) + 1}")


def jobs(settings: PhantomSettings, *, seed: int, folders: Mapping[str, Path]) -> list[Job]:
    """What every patient of a cohort is made from, site by site.

    Args:
        settings: of the cohort.
        seed: of the cohort.
        folders: of the sites that are wanted, by name.
    """
    shifts = dict(zip(map(site_name, range(settings.sites)), site_shifts(settings), strict=True))
    shifts["unseen"] = SiteShift(patients=settings.patients)
    placed = [
        (name, index, machines[index % len(machines)])
        for name, machines in site_machines(settings, seed=seed).items()
        for index in range(_patients(settings, shifts[name], trains=_trains(settings, name)))
    ]
    diagnoses = _diagnoses(settings, seed, [device.name for *_, device in placed])
    return [
        Job(
            seed=seed,
            settings=settings,
            site=name,
            trains=_trains(settings, name),
            index=index,
            device=device,
            folder=folders[name],
            shift=shifts[name],
            exams=settings.exams_per_patient
            + _has_one_more(settings, seed, name, index, shifts[name].patients),
            diagnosis=diagnosis,
        )
        for (name, index, device), diagnosis in zip(placed, diagnoses, strict=True)
        if name in folders
    ]


def site_machines(settings: PhantomSettings, *, seed: int) -> dict[str, tuple[Device, ...]]:
    """The machines of each site; more than one where sites share the cohort's.

    Raises:
        ConfigurationError: as of :func:`devices`.
    """
    chosen = devices(settings, seed=seed)
    if settings.shift.devices != "shared":
        return {name: (device,) for name, device in chosen.items()}
    shared = tuple(Device(**machine.model_dump()) for machine in settings.machines)
    return {name: (device,) if name == "unseen" else shared for name, device in chosen.items()}


def _diagnoses(settings: PhantomSettings, seed: int, machines: list[str]) -> list[str]:
    """Of every patient of a cohort: dealt where they show, or else empty. Machines have places from -1 to 1."""
    if settings.diagnosis is None:
        return [""] * len(machines)
    names = list(dict.fromkeys(machines))
    places = dict(zip(names, np.linspace(-1, 1, len(names)), strict=True))
    return deal(seed, settings.diagnosis, [float(places[name]) for name in machines])


def _has_one_more(settings: PhantomSettings, seed: int, site: str, index: int, patients: int) -> bool:
    if not settings.one_exam_more:
        return False
    order = stream(seed, site, "one exam more").permutation(patients)
    return index in order[: round(settings.one_exam_more * patients)]


def _trains(settings: PhantomSettings, name: str) -> bool:
    return name != "unseen" or settings.unseen_trains


def _patients(settings: PhantomSettings, shift: SiteShift, *, trains: bool) -> int:
    """How many a site has: the graded ones, and where it trains the ungraded after them."""
    return shift.patients * (1 + settings.ungraded_per_graded * trains)


def make(
    settings: Drawn,
    *,
    seed: int,
    out: Path,
    workers: int = 2,
    progress: Progress | None = None,
) -> Cohort:
    """Make a cohort of phantom sites; ``out`` appears under its name only when it is complete.

    Args:
        settings: number of sites, patients, exams; of ultrasound or of radiographs.
        seed: the same seed and settings give the same bytes, whatever the number of workers.
        out: folder to be made; must not exist.
        workers: processes; 1 makes everything in this one.
        progress: called with the number of patients done and of all.

    Raises:
        DataError: if ``out`` exists or cannot be written.
    """
    if out.exists():
        raise DataError(f"Expected nothing at {out} yet: choose another place, or remove what is there")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_cohort(settings, seed, draft, workers, progress)
        draft.chmod(0o755)
        place(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return discover(out)


def place(draft: Path, out: Path) -> None:
    """Rename a folder that is complete to its place.

    Raises:
        DataError: if something is there meanwhile, which stays as it is.
    """
    try:
        draft.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise DataError(
            f"Expected no folder at {out}, another process has made one meanwhile: it stays as it is"
        ) from None


@contextmanager
def by_one(out: Path, say: Callable[[str], None] | None) -> Iterator[bool]:
    """Let one process at a time make a folder that all may use.

    Args:
        out: the folder.
        say: told in a line for which process this one waits.

    Yields:
        Whether it is there: it was, or the process that was waited for has made it.
    """

    def waits(process: str) -> None:
        if say is not None:
            say(f"{out} is being made by process {process}: waiting for it")

    if out.exists():
        yield True
        return
    with file_lock.alone_beside(out, wait=waits):
        yield out.exists()


def ensure(
    settings: Drawn,
    *,
    seed: int,
    out: Path,
    workers: int = 2,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Cohort:
    """The cohort at ``out`` if it has this seed and these settings, or else a new one.

    Args:
        settings: number of sites, patients, exams.
        seed: of the cohort.
        out: its folder.
        workers: processes that make it.
        progress: as of :func:`make`.
        say: as of :func:`by_one`.

    Raises:
        DataError: if something else is at ``out``.
    """
    with by_one(out, say) as there:
        if not there:
            return make(settings, seed=seed, out=out, workers=workers, progress=progress)
    found = _index(out) or {}
    wanted = _identity(settings, seed)
    if any(found.get(key) != value for key, value in wanted.items()):
        raise DataError(
            f"Expected a cohort of seed {seed} and the same settings at {out}, got a different one: remove it"
        )
    return discover(out)


def discover(folder: Path) -> Cohort:
    """The sites of a folder: those that ``cohort.json`` names, or else all subfolders with a manifest.

    A subfolder with ``site.toml`` alone is a site whose manifest is missing.

    Raises:
        DataError: if the folder has no sites, or one that is named is missing.
    """
    index = _index(folder)
    if index is None:
        files = (path for name in ("manifest.csv", "site.toml") for path in folder.glob(f"*/{name}"))
        names = [(name, True) for name in sorted({path.parent.name for path in files})]
    else:
        try:
            names = [(str(site["name"]), bool(site["trains"])) for site in index["sites"]]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"Expected a list of sites with name and trains in {folder / 'cohort.json'}"
            ) from error
    missing = [name for name, _ in names if not (folder / name / "manifest.csv").is_file()]
    if not names or missing:
        what = f"no manifest.csv for {', '.join(missing)}" if missing else _instead_of_sites(folder)
        raise DataError(f"Expected site folders with a manifest.csv in {folder}, got {what}")
    return Cohort(
        folder=folder,
        sites=tuple(CohortSite(name=name, folder=folder / name, trains=trains) for name, trains in names),
    )


def _instead_of_sites(folder: Path) -> str:
    if (folder / "manifest.csv").is_file():
        return "one site's own: name the folder that holds the sites'"
    return "none" if folder.is_dir() else "no folder"


def show(folder: Path, out: Path, *, seed: int = 0, cell_px: int = 168) -> None:
    """Draw a contact sheet: a row for each device, a pair of pictures for each true hypertrophy grade 0-3.

    Of radiographs a row has a site's least, middle and most damaged hands.

    Args:
        folder: of a cohort with ``truth.csv`` at its sites.
        out: PNG to be written.
        seed: chooses the examples.
        cell_px: side of one picture.
    """
    cohort, made = discover(folder), drawn(folder)
    if made is not None and isinstance(made[0], HandSettings):
        hands.sheet(made[0], seed=made[1], width_px=2 * cell_px).save(out)
        return
    rows = [_examples(site, stream(seed, "show", site.name)) for site in cohort.sites]
    font, gap, left = ImageFont.load_default(size=13), 6, 96
    sheet = Image.new("RGB", (left + 4 * (2 * cell_px + gap), 20 + len(rows) * (cell_px + 18)), "white")
    draw = ImageDraw.Draw(sheet)
    for grade in range(4):
        draw.text((left + grade * (2 * cell_px + gap), 3), f"hypertrophy {grade}", fill="black", font=font)
    for r, (site, examples) in enumerate(zip(cohort.sites, rows, strict=True)):
        top = 20 + r * (cell_px + 18)
        draw.text((4, top + 4), site.name, fill="black", font=font)
        for grade, (device, vascularity, pair) in examples.items():
            x = left + grade * (2 * cell_px + gap)
            draw.text((4, top + 20), device, fill="black", font=font)
            for i, picture in enumerate(pair):
                sheet.paste(
                    picture.resize((cell_px, cell_px), Image.Resampling.LANCZOS), (x + i * cell_px, top)
                )
            draw.text((x, top + cell_px + 1), f"vascularity {vascularity}", fill="black", font=font)
    sheet.save(out)


def _examples(site: CohortSite, rng: np.random.Generator) -> dict[int, tuple[str, str, list[Image.Image]]]:
    truth = {row["exam_id"]: row for row in _table(site.folder / "truth.csv")}
    manifest = _table(site.folder / "manifest.csv")
    examples = {}
    for grade in range(4):
        rows = [row for row in manifest if truth[row["exam_id"]]["hypertrophy"] == str(grade)]
        if rows:
            row = rows[int(rng.integers(len(rows)))]
            pair = [
                _crop(site.folder / row[f"{kind}_path"], row[f"{kind}_roi"]) for kind in ("gs", "doppler")
            ]
            examples[grade] = (row["device"], truth[row["exam_id"]]["vascularity"], pair)
    return examples


def _crop(path: Path, roi: str) -> Image.Image:
    x, y, width, height = (int(part) for part in roi.split())
    with Image.open(path) as image:
        return image.convert("RGB").crop((x, y, x + width, y + height))


def _table(path: Path) -> list[dict[str, str]]:
    return [row for _, row in read_rows(path, ["exam_id"]).rows]


def _index(folder: Path) -> dict[str, Any] | None:
    path = folder / "cohort.json"
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Expected JSON in {path}: {error}") from error
    if not isinstance(index, dict):
        raise DataError(f"Expected an object in {path}, got {type(index).__name__}")
    return index


def drawn(folder: Path) -> tuple[Drawn, int] | None:
    """Settings and seed of a cohort of phantoms that this version draws alike; ``None``: of no such.

    Raises:
        DataError: if another version made it.
    """
    index = _index(folder) or {}
    for kind in (PhantomSettings, HandSettings):
        try:
            settings, found = (
                kind.model_validate(index["settings"]),
                (int(index["version"]), int(index["seed"])),
            )
        except (ValueError, KeyError, TypeError):
            continue
        if found[0] != version(settings):
            raise DataError(
                f"Expected a cohort of version {version(settings)} in {folder}, got {found[0]}: make it anew"
            )
        return settings, found[1]
    return None


def version(settings: Drawn) -> int:
    """Of the generator that draws such a cohort."""
    return hands.VERSION if isinstance(settings, HandSettings) else VERSION


def _identity(settings: Drawn, seed: int) -> dict[str, Any]:
    return {"version": version(settings), "seed": seed, "settings": settings.model_dump(mode="json")}


def _write_cohort(settings: Drawn, seed: int, folder: Path, workers: int, progress: Progress | None) -> None:
    if isinstance(settings, HandSettings):
        sites = hands.write(settings, seed=seed, folder=folder, workers=workers, progress=progress)
    else:
        sites = _write_sites(settings, seed=seed, folder=folder, workers=workers, progress=progress)
    text = json.dumps(_identity(settings, seed) | {"sites": sites}, indent=2)
    (folder / "cohort.json").write_text(text + "\n", encoding="utf-8")


def _write_sites(
    settings: PhantomSettings, *, seed: int, folder: Path, workers: int, progress: Progress | None
) -> list[dict[str, object]]:
    chosen = site_machines(settings, seed=seed)
    for name in chosen:
        (folder / name / "images").mkdir(parents=True)
    work = jobs(settings, seed=seed, folders={name: folder / name for name in chosen})
    for name, parts in by_site(work, write_patient, workers=workers, progress=progress).items():
        write_site(
            folder / name,
            name,
            parts,
            maximum_epsilon=settings.maximum_epsilon,
            diagnosis=settings.diagnosis is not None,
            age_and_sex=settings.age_and_sex,
        )
    return [
        {"name": name, "device": ", ".join(m.name for m in machines), "trains": _trains(settings, name)}
        for name, machines in chosen.items()
    ]
