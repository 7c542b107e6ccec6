"""Which plan the data are held against: a file's, the newest campaign's, or one made from the tables' columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from client.data.tables.rows import MOST_GRADES, grade, read_rows
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from common.errors import DataError, SynofedError
from common.sections.measurements import MeasurementSettings
from common.sections.methods import RatingSettings
from common.sections.networks import ImageSettings, NetworkSettings
from common.settings import Settings

PATH = "_path"
NO_GRADES = ("exam_id", "reader", "session", "patient_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A plan and where it comes from.

    Attributes:
        settings: the plan.
        source: in words.
        named: whether somebody means to run it.
    """

    settings: Settings
    source: str
    named: bool


def choose(site: Site, given: Settings | None) -> Chosen:
    """The plan to check with.

    Args:
        site: the site.
        given: of a file, which counts most.

    Raises:
        DataError: if there is no plan and the tables do not tell what they hold.
    """
    if given is not None:
        return Chosen(settings=given, source=f"the plan {given.name}", named=True)
    for plan_hash, state in _listed(site).items():
        if state.status is Status.LEFT:
            continue
        try:
            settings = decisions.plan(site, plan_hash, name=state.names[-1])
        except SynofedError:  # what is wrong with it is told campaign by campaign
            continue
        source = f"campaign {plan_hash[:12]} ({state.names[-1]})"
        return Chosen(settings=settings, source=source, named=True)
    settings = from_tables(site)
    return Chosen(settings=settings, source="small networks for every column of the tables", named=False)


def _listed(site: Site) -> Mapping[str, State]:
    """The campaigns; none if a decision about one cannot be read, which is reported elsewhere."""
    try:
        return decisions.listed(site)
    except SynofedError:
        return {}


def from_tables(site: Site) -> Settings:
    """Settings with the small backbone, every image and every graded column of a site's tables.

    Raises:
        DataError: if a table cannot be read, or has no image or no grades.
    """
    data = site.file.data
    manifest = read_rows(site.data_folder / data.manifest, ["exam_id", "patient_id"])
    images = [
        column.removesuffix(PATH) for column in manifest.columns if column.endswith(PATH) and column != PATH
    ]
    place = site.data_folder / data.grades
    grades = read_rows(place, ["exam_id", "reader"])
    graded = {
        column: highest + 1
        for column in grades.columns
        if column not in NO_GRADES
        and (highest := _highest(row[column] for _, row in grades.rows)) is not None
    }
    if not images or not graded:
        raise DataError(
            f"Expected a column such as gs_path in {site.data_folder / data.manifest} and one of whole grades in "
            f"{place}: the check needs them to know what the data hold, or a plan with --plan"
        )
    return _settings(images, graded)


def _highest(cells: Iterable[str]) -> int | None:
    """The highest grade of a column, at least 1; ``None`` where the column holds something else."""
    found = [cell for cell in cells if cell]
    try:
        grades = [int(known) for cell in found if (known := grade(cell, MOST_GRADES))]
    except DataError:
        return None
    return max(1, *grades) if grades else None


def _settings(images: list[str], graded: dict[str, int]) -> Settings:
    eoss = set(graded) == {"hypertrophy", "vascularity"}
    measurements = {
        name: MeasurementSettings(grades=4 if eoss else grades, images=tuple(images[:2]))
        for name, grades in sorted(graded.items())
    }
    kinds = {name: ImageSettings(kind="doppler" if name == "doppler" else "grey") for name in images}
    return Settings(
        name="check",
        validity="eoss" if eoss else "any",
        images=kinds,
        measurements=measurements,
        network=NetworkSettings(backbone="small", image_px=64, width=8),
        rating=RatingSettings(folds=2, replicas=1),
    )
