import json
import signal
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.data import store as store_module
from client.data.site_store import site_store
from client.data.store import Store, eligible, graded
from client.site.keys import site_secret
from client.site.site import Site
from common.errors import DataError
from common.imaging.roi import stored_px
from common.settings import Settings
from tests.patience import PATIENCE_S
from tests.site_folders import PUZZLES, make_settings, make_site_folder, read_table, ungrade, write_table

SETTINGS = make_settings()
PUZZLED = make_settings(text=PUZZLES)
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site_folder(
        tmp_path / "site", patients=6, exams_per_patient=2, held_out_patients=2, readers=3
    )


def open_anew(folder: Path, settings: Settings = SETTINGS) -> Store:
    """As another process would: nothing is open yet."""
    store_module._opened.clear()
    return site_store(Site.open(folder), settings)


def stores(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "store").glob("*/index.json"))


def picture(folder: Path, index: int, image: str = "gs") -> Path:
    return folder / read_table(folder / "manifest.csv")[index][f"{image}_path"]


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_store_has_the_exams_as_tensors(site: Path) -> None:
    opened = open_anew(site)
    side = stored_px(SETTINGS.network.image_px)
    assert opened.tensors.images["gs"].shape == (12, 1, side, side)
    assert opened.tensors.images["doppler"].shape == (12, 2, side, side)
    assert all(tensor.dtype == torch.uint8 for tensor in opened.tensors.images.values())
    assert opened.tensors.fold.tolist()[8:] == [-1] * 4
    assert set(opened.tensors.fold.tolist()) == {-1, 0, 1}
    assert opened.tensors.patient.tolist() == [i // 2 for i in range(12)]
    assert opened.usable == {"hypertrophy": 12, "vascularity": 12}
    assert opened.exams["exam_id"].tolist() == [r["exam_id"] for r in read_table(site / "manifest.csv")]
    assert opened.exams["fold"].tolist() == opened.tensors.fold.tolist()
    assert len(opened.reader_grades) == 36
    assert list(opened.reader_grades) == ["exam_id", "reader", "hypertrophy", "vascularity"]


def test_grades_are_the_consensus_of_the_readers(site: Path) -> None:
    opened = open_anew(site)
    for name, stored in opened.tensors.grades.items():
        median = opened.reader_grades.groupby("exam_id", sort=False)[name].median()
        assert stored.tolist() == median.loc[opened.exams["exam_id"]].tolist()


def test_a_gap_is_missing_and_not_counted(site: Path) -> None:
    rows = read_table(site / "grades.csv")
    write_table(
        site / "grades.csv", [row | {"vascularity": ""} if i < 3 else row for i, row in enumerate(rows)]
    )
    opened = open_anew(site)
    assert opened.tensors.grades["vascularity"][0] == -1
    assert opened.usable == {"hypertrophy": 12, "vascularity": 11}


def test_bad_pictures_are_quarantined_and_the_rest_goes_on(site: Path) -> None:
    picture(site, 1).write_bytes(picture(site, 1).read_bytes()[:100])
    picture(site, 3, "doppler").write_bytes(b"")
    picture(site, 4).unlink()
    rows = read_table(site / "manifest.csv")
    rows[6]["gs_roi"] = "0 0 100 100"
    write_table(site / "manifest.csv", rows)
    opened = open_anew(site)
    reasons = {entry.line: entry.reason for entry in opened.quarantined}
    assert list(reasons) == [3, 5, 6, 8]
    assert reasons[3].startswith("gs_path: expected a whole PNG")
    assert reasons[5].startswith("doppler_path: is empty (0 bytes)")
    assert reasons[6] == "gs_path: the file cannot be read (No such file or directory)"
    assert reasons[8] == "gs_path: expected an ROI inside 48 x 40 pixels, got 0 0 100 100"
    assert len(opened.tensors) == 8
    assert len(np.load(stores(site)[0] / "gs.npy")) == 8
    whole = make_site_folder(
        site.parent / "whole", patients=6, exams_per_patient=2, held_out_patients=2, readers=3
    )
    kept = [0, 2, 5, 7, 8, 9, 10, 11]
    assert torch.equal(opened.tensors.images["doppler"], open_anew(whole).tensors.images["doppler"][kept])


def test_a_picture_that_comes_back_is_taken_up(site: Path) -> None:
    content = picture(site, 0).read_bytes()
    picture(site, 0).unlink()
    assert len(open_anew(site).tensors) == 11
    picture(site, 0).write_bytes(content)
    assert len(open_anew(site).tensors) == 12


def test_a_site_without_any_usable_exam_is_refused_with_reasons(site: Path) -> None:
    for path in (site / "images").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="all 12 are quarantined, for example:\n  line 2: gs_path"):
        open_anew(site)
    assert stores(site) == []
    assert not list((site / "store").glob(".building*"))


def test_a_store_is_built_once_and_then_opened(site: Path) -> None:
    told: list[tuple[int, int]] = []
    store_module._opened.clear()
    first = site_store(Site.open(site), SETTINGS, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (12, 12)
    assert site_store(Site.open(site), SETTINGS) is first
    built = stores(site)[0].stat().st_ino
    second = open_anew(site)
    assert stores(site)[0].stat().st_ino == built
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.tensors.images["gs"], first.tensors.images["gs"])
    assert second.exams.equals(first.exams)


def test_a_changed_picture_or_table_makes_it_anew_with_another_fingerprint(site: Path) -> None:
    first = open_anew(site)
    Image.new("L", (48, 40), 200).save(picture(site, 0))
    second = open_anew(site)
    assert second.tensors.images["gs"][0].float().mean() == 200
    assert torch.equal(second.tensors.images["gs"][1:], first.tensors.images["gs"][1:])
    rows = read_table(site / "grades.csv")
    write_table(site / "grades.csv", [row | {"session": "7"} for row in rows])
    third = site_store(Site.open(site), SETTINGS)  # a table is looked at even where the store is open
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert len(stores(site)) == 1


def test_settings_that_shape_the_store_give_another_and_others_do_not(site: Path) -> None:
    open_anew(site)
    open_anew(site, make_settings(text="replicas = 1\n[training]\nbatch_size = 3"))
    assert len(stores(site)) == 1
    open_anew(site, make_settings(image_px=20))
    open_anew(site, make_settings(folds=3))
    assert len(stores(site)) == 3


def test_the_fingerprint_is_keyed_by_the_sites_secret(tmp_path: Path) -> None:
    twins = [
        make_site_folder(tmp_path / name, patients=6, seed=4, held_out_patients=2) for name in ("one", "two")
    ]
    one, two = (open_anew(folder) for folder in twins)
    assert one.fingerprint != two.fingerprint
    secret = twins[0] / "store" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert site_secret(twins[0]) == secret.read_bytes()
    assert len(secret.read_bytes()) == 32
    assert sorted(path.name for path in secret.parent.iterdir() if path.name.startswith(".")) == [".lock"]


def test_a_damaged_secret_is_not_replaced(site: Path) -> None:
    (site / "store").mkdir()
    (site / "store" / "secret").write_bytes(b"short")
    with pytest.raises(DataError, match="restore it from a backup"):
        open_anew(site)


@pytest.mark.parametrize("damage", ["index", "half index", "array", "half array", "other array"])
def test_a_damaged_store_is_built_again(site: Path, damage: str) -> None:
    first = open_anew(site)
    before = first.tensors.images["gs"].clone()
    folder = stores(site)[0]
    index, array = folder / "index.json", folder / "gs.npy"
    if damage == "index":
        index.write_text("[]")
    elif damage == "half index":
        index.write_bytes(index.read_bytes()[:50])
    elif damage == "array":
        array.unlink()
    elif damage == "half array":
        array.write_bytes(array.read_bytes()[:200])
    else:
        np.save(array, np.zeros((3, 1, 4, 4), dtype=np.uint8))
    assert torch.equal(open_anew(site).tensors.images["gs"], before)


def test_data_may_lie_in_another_folder(site: Path, tmp_path: Path) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    toml = (site / "site.toml").read_text().replace("[data]", f'[data]\nfolder = "{site}"')
    (desk / "site.toml").write_text(toml)
    assert len(open_anew(desk).tensors) == 12
    assert stores(desk)
    assert not (site / "store").exists()


def test_one_image_and_one_measurement_of_three_grades(tmp_path: Path) -> None:
    folder = make_site_folder(
        tmp_path / "liver", images=["us"], measurements=["steatosis"], grades=3, roi=None, suffix=".jpg"
    )
    settings = make_settings(images=["us"], measurements=["steatosis"], grades=3)
    opened = open_anew(folder, settings)
    assert set(opened.tensors.images) == {"us"}
    assert opened.usable == {"steatosis": 30}


def test_the_truth_is_never_opened(site: Path) -> None:
    (site / "truth.csv").mkdir()  # cannot be read as a file
    assert len(open_anew(site).tensors) == 12


def test_threads_share_one_store(site: Path) -> None:
    store_module._opened.clear()
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: site_store(Site.open(site), SETTINGS), range(8)))
    assert all(one is opened[0] for one in opened)


OPEN = """
    import sys
    from pathlib import Path
    from client.site.site import Site
    from client.data.site_store import site_store
    from tests.site_folders import make_settings
    store = site_store(Site.open(Path(sys.argv[1])), make_settings())
    print(store.fingerprint, len(store.tensors), int(store.tensors.images["gs"].sum()))
"""
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from client.site.site import Site
    from client.data.site_store import site_store
    from tests.site_folders import make_settings
    def kill(done, of):
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    site_store(Site.open(Path(sys.argv[1])), make_settings(), progress=kill)
"""


@pytest.mark.soak
@pytest.mark.ci
def test_processes_that_build_at_once_get_the_same_store(site: Path) -> None:
    running = [run_python(OPEN, site) for _ in range(2)]
    results = [process.communicate(timeout=PATIENCE_S) for process in running]
    assert [process.returncode for process in running] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert len(stores(site)) == 1


@pytest.mark.soak
def test_a_builder_that_is_killed_leaves_nothing_half(site: Path) -> None:
    process = run_python(KILLED, site)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL
    assert stores(site) == []
    assert len(list((site / "store").glob(".building*"))) == 1
    assert len(open_anew(site).tensors) == 12
    assert not list((site / "store").glob(".building*"))


def test_a_folder_that_cannot_be_written_is_an_error_of_data(site: Path) -> None:
    (site / "store").write_bytes(b"in the way")
    with pytest.raises(DataError, match="cannot be written"):
        open_anew(site)


def test_what_is_stored_says_nothing_of_the_truth_or_secret(site: Path) -> None:
    open_anew(site)
    index = json.loads((stores(site)[0] / "index.json").read_text())
    assert site_secret(site).hex() not in json.dumps(index)


UNGRADED = (0, 4, 5, 10)
"""One exam of two, both exams, and one exam of a patient who is held out."""


def test_exams_without_grades_follow_the_graded_ones_where_puzzles_learn_from_them(site: Path) -> None:
    ungrade(site, UNGRADED)
    plain, puzzled = open_anew(site), open_anew(site, PUZZLED)
    assert [entry.line for entry in plain.quarantined] == [2, 6, 7, 12]
    assert [entry.line for entry in puzzled.quarantined] == [12]  # held out: nothing to test on
    assert {entry.reason for entry in puzzled.quarantined} == {"no reader gave a grade"}
    names = [row["exam_id"] for row in read_table(site / "manifest.csv")]
    assert puzzled.exams["exam_id"].tolist() == [names[i] for i in (1, 2, 3, 6, 7, 8, 9, 11, 0, 4, 5)]
    assert puzzled.tensors.graded.tolist() == [True] * 8 + [False] * 3
    assert all((values[8:] == -1).all() for values in puzzled.tensors.grades.values())
    assert puzzled.usable == plain.usable
    assert puzzled.patients == plain.patients
    fold = dict(zip(puzzled.exams["exam_id"], puzzled.tensors.fold.tolist(), strict=True))
    assert fold[names[0]] == fold[names[1]]
    assert fold[names[4]] == fold[names[5]] != -1
    assert set(eligible(puzzled)) - set(eligible(plain)) == {"site-a-p002"}
    side = stored_px(SETTINGS.network.image_px)
    assert puzzled.tensors.images["gs"].shape == (11, 1, side, side)
    assert puzzled.tensors.images["gs"][8:].flatten(1).any(dim=1).all()
    for one, other in ((graded(puzzled), plain), (graded(plain), plain)):
        assert one.exams.equals(other.exams)
        assert torch.equal(one.tensors.fold, other.tensors.fold)
        assert torch.equal(one.tensors.patient, other.tensors.patient)
        for name in ("gs", "doppler"):
            assert torch.equal(one.tensors.images[name], other.tensors.images[name])
        for name, values in one.tensors.grades.items():
            assert torch.equal(values, other.tensors.grades[name])


def test_a_grade_that_cannot_be_is_not_taken_for_none(site: Path) -> None:
    rows = read_table(site / "grades.csv")
    for row in rows[:3]:
        row |= {"hypertrophy": "0", "vascularity": "2"}
    for row in rows[3:6]:
        row |= {"hypertrophy": "", "vascularity": "mild"}
    write_table(site / "grades.csv", rows)
    opened = open_anew(site, PUZZLED)
    assert [entry.line for entry in opened.quarantined] == [2, 3]
    assert len(opened.tensors) == 10
    assert opened.tensors.graded.all()


def test_without_puzzles_an_exam_without_grades_costs_no_byte_and_is_not_read(site: Path) -> None:
    gone = ungrade(site, UNGRADED)
    told: list[tuple[int, int]] = []
    store_module._opened.clear()
    opened = site_store(Site.open(site), SETTINGS, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (8, 8)
    fewer = site.parent / "fewer"
    fewer.mkdir()
    (fewer / "site.toml").write_bytes((site / "site.toml").read_bytes())
    (fewer / "grades.csv").write_bytes((site / "grades.csv").read_bytes())
    (site / "images").rename(fewer / "images")
    rows = read_table(site / "manifest.csv")
    write_table(fewer / "manifest.csv", [row for row in rows if row["exam_id"] not in gone])
    alike = open_anew(fewer)
    assert opened.exams.equals(alike.exams)
    (one,), (other,) = stores(site), stores(fewer)
    for name in ("gs.npy", "doppler.npy"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    indices = [json.loads((place / "index.json").read_text()) for place in (one, other)]
    assert all(indices[0][key] == indices[1][key] for key in ("exams", "grades", "fold", "notes"))


def test_with_and_without_puzzles_are_two_stores(site: Path) -> None:
    open_anew(site)
    open_anew(site, PUZZLED)
    open_anew(site, make_settings(text='pretraining = "none"'))
    assert len(stores(site)) == 2


def test_a_site_whose_exams_nobody_graded_has_them_for_puzzles_alone(site: Path) -> None:
    gaps = {"hypertrophy": "", "vascularity": ""}
    write_table(site / "grades.csv", [row | gaps for row in read_table(site / "grades.csv")])
    with pytest.raises(DataError, match="all 12 are quarantined"):
        open_anew(site)
    opened = open_anew(site, PUZZLED)
    assert opened.usable == {"hypertrophy": 0, "vascularity": 0}
    assert len(opened.tensors) == 8
    assert set(opened.tensors.fold.tolist()) <= {0, 1}
    assert len(graded(opened).tensors) == 0
