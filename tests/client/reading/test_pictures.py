"""What readers see of a picture, and what its pixels suggest."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from client.reading import quality
from client.reading.pictures import frame, suggested
from client.reading.worklist import EULAR_OMERACT, exams
from client.site.site import Site
from common.errors import DataError
from common.exam import Roi
from common.sections.cohort import PhantomSettings
from simulation.cohorts import cohort
from tests.reading_rooms import exams_of, make_site
from tests.site_folders import read_table, write_table


def noise(seed: int = 0, side: int = 96) -> np.ndarray:
    grey = np.random.default_rng(seed).integers(0, 200, (side, side, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


def test_a_frame_is_the_pictures_own_pixels(tmp_path: Path) -> None:
    stack = [Image.fromarray(noise(seed)) for seed in range(3)]
    stack[0].save(tmp_path / "clip.tif", save_all=True, append_images=stack[1:])
    for number in (1, 2, 3):
        shown = frame(tmp_path / "clip.tif", number)
        assert (shown.width, shown.height, shown.frames) == (96, 96, 3)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.png))), noise(number - 1))
    with pytest.raises(DataError, match="at least 4"):
        frame(tmp_path / "clip.tif", 4)
    with pytest.raises(DataError, match="cannot be read"):
        frame(tmp_path / "gone.png")


def test_a_changed_file_is_shown_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(1)).save(path)
    first = frame(path).png
    Image.fromarray(noise(2)).save(path)
    assert frame(path).png != first


def test_a_region_is_suggested_from_pictures_of_the_same_machine_and_size(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    rows = read_table(site.folder / "manifest.csv")
    for row in rows[1:]:
        row["device"] = "Other"
    rows[0]["gs_roi"] = ""
    write_table(site.folder / "manifest.csv", rows)
    listed = exams(site, key=b"k")
    assert suggested(listed[0], "gs", listed, {}, site.data_folder) is None
    for row in rows:
        row["device"] = "Same"
    write_table(site.folder / "manifest.csv", rows)
    listed = exams(site, key=b"k")
    assert suggested(listed[0], "gs", listed, {}, site.data_folder) == Roi.parse("6 4 30 28")
    drawn = {(exam.exam_id, "gs"): Roi(x=2, y=2, width=20, height=20) for exam in listed[1:]}
    assert suggested(listed[0], "gs", listed, drawn, site.data_folder) == Roi(x=2, y=2, width=20, height=20)


def test_blur_is_suggested_for_a_picture_that_is_less_sharp_than_usual() -> None:
    sharp = noise()
    blurred = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(2)))
    usual = quality.sharpness(sharp)
    assert quality.suggestions(sharp, usual_sharpness=usual, saturation=0.4) == ()
    assert quality.suggestions(blurred, usual_sharpness=usual, saturation=0.4) == ("blur",)
    assert quality.suggestions(blurred, usual_sharpness=None, saturation=0.4) == ()
    assert quality.sharpness(np.zeros((2, 2, 3), dtype=np.uint8)) == 0.0


def test_motion_and_aliasing_are_suggested_from_colour() -> None:
    flash = noise()
    flash[:, :60] = (220, 30, 10)
    assert quality.suggestions(flash, usual_sharpness=None, saturation=0.4) == ("motion",)
    vessel = noise()
    vessel[40:50, 20:60] = (220, 30, 10)
    assert quality.suggestions(vessel, usual_sharpness=None, saturation=0.4) == ()
    vessel[40:50, 20:60:2] = (10, 30, 220)
    assert quality.suggestions(vessel, usual_sharpness=None, saturation=0.4) == ("aliasing",)


@pytest.mark.slow
def test_phantoms_as_they_are_drawn_are_seldom_suspected(tmp_path: Path) -> None:
    phantoms = PhantomSettings(sites=1, patients=6, exams_per_patient=4, image_px=64)
    made = cohort.make(phantoms, seed=1, out=tmp_path / "c")

    found = exams_of(Site.open(made.sites[0].folder))
    reasons = [
        reason
        for exam in found.all().values()
        for name in exam.images
        for reason in found.image(exam, name).reasons
    ]
    assert len(found.all()) == 24
    assert len(reasons) <= 2


def test_bad_rows_are_listed_with_their_reason_and_cannot_be_opened(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    rows = read_table(site.folder / "manifest.csv")
    rows[0]["gs_path"] = "../../secret.png"
    rows[1]["gs_roi"] = "1 2 3"
    write_table(site.folder / "manifest.csv", rows)
    found = exams_of(site)
    first, second, third, *_ = found.all().values()
    assert "expected a path inside" in first.problem
    assert "gs_roi" in second.problem
    assert not third.problem
    with pytest.raises(DataError, match="Correct its row"):
        found.exam(first.token)
    with pytest.raises(DataError, match="of the worklist"):
        found.exam(first.exam_id)


def test_tokens_tell_nothing_and_change_with_the_process(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    one, other = exams_of(site), exams_of(site)
    assert not set(one.all()) & set(other.all())
    assert not any(exam.exam_id in token for token, exam in one.all().items())
    assert one.room.scheme == EULAR_OMERACT
