import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from common.errors import DataError
from common.exam import Roi
from common.imaging.doppler import flow_mask
from common.sections.cohort import PhantomSettings
from simulation.cohorts import cohort
from simulation.evaluation.heatmap_truth import jobs, regions_of
from simulation.phantom.masks import Region

SMALL = PhantomSettings(sites=2, patients=3, exams_per_patient=3, image_px=96, unseen_device=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> cohort.Cohort:
    out = tmp_path_factory.mktemp("masks") / "cohort"
    return cohort.make(SMALL, seed=4, out=out, workers=1)


def rows(site: cohort.CohortSite, table: str) -> dict[str, dict[str, str]]:
    with (site.folder / f"{table}.csv").open(newline="") as file:
        return {row["exam_id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def found(made: cohort.Cohort) -> dict[str, dict[str, Region]]:
    found = regions_of(
        jobs(made), [(site.name, exam) for site in made.sites for exam in rows(site, "manifest")]
    )
    return {exam_id: both for (_, exam_id), both in found.items()}


def test_a_region_is_what_the_manifest_says(made: cohort.Cohort, found: dict[str, dict[str, Region]]) -> None:
    assert len(found) == 2 * 3 * 3
    for site in made.sites:
        for exam_id, row in rows(site, "manifest").items():
            for kind in ("gs", "doppler"):
                roi = Roi.parse(row[f"{kind}_roi"])
                with Image.open(site.folder / row[f"{kind}_path"]) as image:
                    shown = np.asarray(image)[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
                assert np.array_equal(found[exam_id][kind].shown, shown)
                assert found[exam_id][kind].wanted.shape == shown.shape[:2]


def test_synovium_is_where_there_is_hypertrophy(
    made: cohort.Cohort, found: dict[str, dict[str, Region]]
) -> None:
    grades = {e: int(row["hypertrophy"]) for site in made.sites for e, row in rows(site, "truth").items()}
    assert {0, 1} <= {min(grade, 1) for grade in grades.values()}
    for exam_id, grade in grades.items():
        for region in found[exam_id].values():
            assert region.wanted.any() == (grade > 0)


def test_synovium_is_darker_than_what_is_around_it(
    made: cohort.Cohort, found: dict[str, dict[str, Region]]
) -> None:
    grades = {e: int(row["hypertrophy"]) for site in made.sites for e, row in rows(site, "truth").items()}
    differences = []
    for exam_id, exam in found.items():
        if grades[exam_id] < 2:  # around a thin layer on the bone lies as much shadow as tissue
            continue
        mask, shown = exam["gs"].wanted, exam["gs"].shown
        if mask.any():
            ring = binary_dilation(mask, iterations=6) & ~binary_dilation(mask, iterations=1)
            differences.append(float(shown[ring].mean()) - float(shown[mask].mean()))
    assert len(differences) > 3
    assert min(differences) > 0
    assert np.mean(differences) > 10  # of 255 grey levels


def test_flow_is_inside_the_synovium_unless_the_truth_says_otherwise(
    made: cohort.Cohort, found: dict[str, dict[str, Region]]
) -> None:
    outside = {e: row["flow_outside"] == "1" for site in made.sites for e, row in rows(site, "truth").items()}
    inside = total = 0
    for exam_id, exam in found.items():
        if outside[exam_id]:
            continue
        flow = flow_mask(exam["doppler"].shown, saturation=0.4) > 0
        inside += int((flow & exam["doppler"].wanted).sum())
        total += int(flow.sum())
    assert total > 100
    assert inside > 0.7 * total  # the rest are false specks, the box and what blooms over the border


def test_shares_keep_area_and_place(found: dict[str, dict[str, Region]]) -> None:
    for exam in found.values():
        for region in exam.values():
            shares = region.shares(24)
            assert shares.shape == (24, 24)
            assert shares.mean() == pytest.approx(region.wanted.mean(), abs=0.004)
            if region.wanted.any():
                there = np.argwhere(region.wanted).mean(0) / len(region.wanted)
                here = (np.argwhere(shares >= 0) * shares.reshape(-1, 1)).sum(0) / shares.sum() / 24
                np.testing.assert_allclose(here + 0.5 / 24, there + 0.5 / 96, atol=0.03)


def test_what_is_not_this_cohort_is_refused(made: cohort.Cohort, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected exams of the phantom cohort, got nobody"):
        regions_of(jobs(made), [("site-a", "nobody")])
    copy = cohort.discover(shutil.copytree(made.folder, tmp_path / "copy"))
    path = copy.sites[0].folder / "images" / "site-a-p000-e00_gs.png"
    with Image.open(path) as image:
        changed = image.rotate(180)
    changed.save(path)
    with pytest.raises(DataError, match="gs picture of site-a-p000-e00"):
        regions_of(jobs(copy), [("site-a", "site-a-p000-e00")])
    index = copy.folder / "cohort.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="got 99"):
        jobs(copy)
    index.unlink()
    with pytest.raises(DataError, match="Expected a cohort of phantoms"):
        jobs(copy)
