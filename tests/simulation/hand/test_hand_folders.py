"""Sites of radiographs: their tables agree with each other, with the pictures, and with what a client reads."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data.tables.rows import read_rows
from common.errors import DataError
from common.sections.cohort import CohortSettings, HandSettings, PhantomSettings, ShiftSettings
from simulation.cohorts import cohort, hands
from simulation.hand.machines import MACHINES
from simulation.hand.sites import severity_class

SMALL = HandSettings(sites=2, patients=6, held_out=0.5, width_px=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> cohort.Cohort:
    return cohort.make(SMALL, seed=1, out=tmp_path_factory.mktemp("hands") / "made", workers=1)


def table(path: Path) -> list[dict[str, str]]:
    return [row for _, row in read_rows(path, ["exam_id"]).rows]


def test_the_sites_of_a_picture_add_up_to_its_total(made: cohort.Cohort) -> None:
    for site in made.sites:
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for row in table(site.folder / "sites.csv"):
            sums[row["exam_id"], row["side"]] += int(row["grade"])
        truth = table(site.folder / "truth.csv")
        assert len(truth) == 6
        for row in truth:
            assert (int(row["left"]), int(row["right"])) == (
                sums[row["exam_id"], "left"],
                sums[row["exam_id"], "right"],
            )
            assert int(row["svdh"]) == int(row["left"]) + int(row["right"])
            assert int(row["class"]) == severity_class(int(row["svdh"]))
        given = table(site.folder / "grades.csv")
        assert len(given) == 2 * 6
        assert len({row["reader"] for row in given}) == 2


def test_pictures_are_grey_and_as_the_manifest_names_them(made: cohort.Cohort) -> None:
    assert [(site.name, site.trains) for site in made.sites] == [
        ("site-a", True),
        ("site-b", True),
        ("unseen", False),
    ]
    for site in made.sites:
        rows = table(site.folder / "manifest.csv")
        assert [row["split"] for row in rows].count("test") == (3 if site.trains else 6)
        for row in rows:
            with Image.open(site.folder / row["hands_path"]) as picture:
                assert (picture.mode, picture.size) == ("L", (64, 56))
                assert np.asarray(picture).std() > 10
    machines = [{row["device"] for row in table(site.folder / "manifest.csv")} for site in made.sites]
    assert machines == [{MACHINES[0].name}, {MACHINES[1].name}, {"unseen"}]


@pytest.mark.soak
def test_the_same_seed_writes_the_same_bytes_with_any_number_of_workers(
    made: cohort.Cohort, tmp_path: Path
) -> None:
    again = cohort.make(SMALL, seed=1, out=tmp_path / "again", workers=2)
    files = [path.relative_to(made.folder) for path in made.folder.rglob("*.*")]
    assert len(files) == 1 + 3 * (5 + 6)
    for file in files:
        assert (made.folder / file).read_bytes() == (again.folder / file).read_bytes()


def test_a_cohort_of_other_settings_or_of_ultrasound_is_not_taken_for_this_one(made: cohort.Cohort) -> None:
    assert cohort.ensure(SMALL, seed=1, out=made.folder) == made
    for other in (SMALL.model_copy(update={"patients": 7}), PhantomSettings()):
        with pytest.raises(DataError, match="Expected a cohort of seed 1 and the same settings"):
            cohort.ensure(other, seed=1, out=made.folder)
    assert json.loads((made.folder / "cohort.json").read_text())["version"] == hands.VERSION


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected nothing at"):
        cohort.make(SMALL, seed=1, out=tmp_path, workers=1)


def test_sites_differ_as_asked() -> None:
    shifted = SMALL.model_copy(update={"shift": ShiftSettings(devices="one", severity=1.0, largest=3)})
    assert {m.name for m in hands.machines(shifted, seed=1).values()} == {MACHINES[0].name, "unseen"}
    drawn = SMALL.model_copy(update={"shift": ShiftSettings(devices="drawn")})
    assert len({m.tone for m in hands.machines(drawn, seed=1).values()}) == 3
    many = hands.machines(SMALL.model_copy(update={"sites": 8}), seed=1)
    assert len({m.name for m in many.values()}) == 9
    work = hands.jobs(shifted, seed=1, folders={"site-a": Path(), "site-b": Path()})
    totals = {
        site: [job.radiograph().scores.total for job in work if job.site == site]
        for site in ("site-a", "site-b")
    }
    assert [len(found) for found in totals.values()] == [3, 9]
    assert np.median(totals["site-a"]) < np.median(totals["site-b"])
    with pytest.raises(ValueError, match="reader_bias must be 0"):
        HandSettings(shift=ShiftSettings(reader_bias=1.0))


def test_exactly_one_source() -> None:
    assert CohortSettings(hands=SMALL).drawn == SMALL
    seeded = CohortSettings(hands=SMALL).drawn_of(7)
    assert seeded.drawn is not None and seeded.drawn.seed == 7
    with pytest.raises(ValueError, match="exactly one of folder, phantom, hands, public"):
        CohortSettings(hands=SMALL, folder=Path())


def test_a_sheet_shows_each_site(made: cohort.Cohort, tmp_path: Path) -> None:
    cohort.show(made.folder, tmp_path / "sheet.png", cell_px=32)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (3 * 70, 3 * (56 + 22))
