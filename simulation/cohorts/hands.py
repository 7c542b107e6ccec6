"""Cohorts of phantom radiographs of hands: which machine each site has, and who is drawn there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from common.sections.cohort import HandSettings
from simulation.cohorts.drawing import Progress, by_site, site_name
from simulation.hand import sheet as sheets
from simulation.hand.folders import Job, write_patient, write_site
from simulation.hand.machines import MACHINES, Machine, random_machine
from simulation.phantom.random import stream
from simulation.phantom.shifts import SiteShift, site_shifts

VERSION = 2
"""Of the generator: a cohort of another version is not taken for the same."""
UNSEEN = "unseen"


def machines(settings: HandSettings, *, seed: int) -> dict[str, Machine]:
    """The machine of each site: the five that are there, then others between these, and the unseen one.

    With ``shift.devices = "one"`` all but the unseen site have the first, with ``"drawn"`` each has one that no
    other cohort has.
    """
    chosen = {site_name(site): _machine(settings, site, seed=seed) for site in range(settings.sites)}
    if settings.unseen_device:
        chosen[UNSEEN] = random_machine(stream(seed, UNSEEN, "machine"))
    return chosen


def _machine(settings: HandSettings, site: int, *, seed: int) -> Machine:
    if settings.shift.devices == "drawn":
        return random_machine(stream(seed, site_name(site), "drawn"), name=f"drawn-{seed}-{site + 1}")
    index = site if settings.shift.devices == "own" else 0
    if index < len(MACHINES):
        return MACHINES[index]
    return random_machine(stream(seed, site_name(site), "machine"), name=f"between-{index + 1}")


def jobs(settings: HandSettings, *, seed: int, folders: Mapping[str, Path]) -> list[Job]:
    """What every patient of a cohort is drawn from, site by site.

    Args:
        settings: of the cohort.
        seed: of the cohort.
        folders: of the sites that are wanted, by name.
    """
    shifts = dict(zip(map(site_name, range(settings.sites)), site_shifts(settings), strict=True))
    shifts[UNSEEN] = SiteShift(patients=settings.patients)
    return [
        Job(
            seed=seed,
            settings=settings,
            site=name,
            trains=name != UNSEEN,
            index=index,
            machine=machine,
            folder=folders[name],
            shift=shifts[name],
        )
        for name, machine in machines(settings, seed=seed).items()
        if name in folders
        for index in range(shifts[name].patients)
    ]


def write(
    settings: HandSettings, *, seed: int, folder: Path, workers: int, progress: Progress | None
) -> list[dict[str, object]]:
    """Write all sites of a cohort into a folder that is there; returns what ``cohort.json`` says of each."""
    chosen = machines(settings, seed=seed)
    for name in chosen:
        (folder / name / "images").mkdir(parents=True)
    work = jobs(settings, seed=seed, folders={name: folder / name for name in chosen})
    for name, parts in by_site(work, write_patient, workers=workers, progress=progress).items():
        write_site(folder / name, name, parts, maximum_epsilon=settings.maximum_epsilon)
    return [
        {"name": name, "device": machine.name, "trains": name != UNSEEN} for name, machine in chosen.items()
    ]


def sheet(settings: HandSettings, *, seed: int, width_px: int) -> Image.Image:
    """A contact sheet: of each site the least, the middle and the most damaged hands."""
    shown = []
    sites = machines(settings, seed=seed)
    for name, machine in sites.items():
        work = jobs(settings, seed=seed, folders={name: Path()})
        ordered = sorted((job.radiograph() for job in work), key=lambda drawn: drawn.scores.total)
        places = (0, len(ordered) // 2, len(ordered) - 1)
        shown += [(ordered[place], machine) for place in places]
    return sheets.sheet(shown, columns=3, width_px=width_px)
