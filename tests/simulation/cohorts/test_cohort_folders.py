import csv
import hashlib
import json
import shutil
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image

import synofed
from common import settings
from common.errors import ConfigurationError, DataError
from common.sections.cohort import MachineProfile, PhantomSettings, ShiftSettings
from common.sections.section import section
from simulation.cohorts import cohort
from simulation.phantom import folders
from simulation.runs import simulate

SITES = ("site-a", "site-b")
SMALL = PhantomSettings(sites=2, patients=4, exams_per_patient=2, held_out=0.25, image_px=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "made"
    cohort.make(SMALL, seed=3, out=out, workers=1)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_sites_are_laid_out_as_a_hospital_has_them(folder: Path) -> None:
    found = cohort.discover(folder)
    assert [(site.name, site.trains) for site in found.sites] == [
        ("site-a", True),
        ("site-b", True),
        ("unseen", False),
    ]
    exams = []
    for site in found.sites:
        manifest, grades, truth = (
            rows(site.folder / f"{name}.csv") for name in ("manifest", "grades", "truth")
        )
        assert tuple(manifest[0]) == folders.MANIFEST
        assert tuple(grades[0]) == folders.GRADES
        assert tuple(truth[0]) == folders.TRUTH
        assert len(manifest) == len(truth) == 8
        assert len(grades) == 24
        assert tomllib.loads((site.folder / "site.toml").read_text())["name"] == site.name
        for row in manifest:
            for kind, mode in (("gs", "L"), ("doppler", "RGB")):
                with Image.open(site.folder / row[f"{kind}_path"]) as image:
                    x, y, width, height = map(int, row[f"{kind}_roi"].split())
                    assert image.mode == mode
                    assert x + width <= image.width
                    assert y + height <= image.height
        exams += [row["exam_id"] for row in manifest]
    assert len(set(exams)) == len(exams)


def test_age_and_sex_change_nothing_else(folder: Path, tmp_path: Path) -> None:
    cohort.make(SMALL.model_copy(update={"age_and_sex": True}), seed=3, out=tmp_path / "told", workers=1)
    for name in (*SITES, "unseen"):
        plain, told = folder / name, tmp_path / "told" / name
        without, given = rows(plain / "manifest.csv"), rows(told / "manifest.csv")
        assert tuple(given[0]) == (*folders.MANIFEST, *folders.AGE_AND_SEX)
        people = {row["patient_id"]: (row.pop("age"), row.pop("sex")) for row in given}
        assert given == without
        assert all(18 <= int(age) <= 95 and sex in ("F", "M") for age, sex in people.values())
        assert len(set(people.values())) > 1
        (told / "manifest.csv").write_bytes((plain / "manifest.csv").read_bytes())
        assert digest(told) == digest(plain)


def test_patients_are_held_out_whole(folder: Path) -> None:
    for site in cohort.discover(folder).sites:
        splits: dict[str, set[str]] = {}
        for row in rows(site.folder / "manifest.csv"):
            splits.setdefault(row["patient_id"], set()).add(row["split"])
        assert all(len(values) == 1 for values in splits.values())
        held_out = sum(values == {"test"} for values in splits.values())
        assert held_out == (1 if site.trains else 4)


def test_sites_have_different_devices(folder: Path) -> None:
    names = [site["device"] for site in json.loads((folder / "cohort.json").read_text())["sites"]]
    assert len(set(names)) == 3
    many = cohort.devices(PhantomSettings(sites=12), seed=1)
    assert len({device.name for device in many.values()}) == 13


def test_workers_do_not_change_a_byte(folder: Path, tmp_path: Path) -> None:
    cohort.make(SMALL, seed=3, out=tmp_path / "again", workers=2)
    assert digest(tmp_path / "again") == digest(folder)


def test_more_sites_leave_the_first_ones_as_they_are(folder: Path, tmp_path: Path) -> None:
    cohort.make(SMALL.model_copy(update={"sites": 1}), seed=3, out=tmp_path / "one", workers=1)
    assert digest(tmp_path / "one" / "site-a") == digest(folder / "site-a")


def test_an_interrupted_cohort_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 12
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cohort.make(SMALL, seed=3, out=tmp_path / "half", workers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_cohort_is_used_again(folder: Path) -> None:
    before = (folder / "cohort.json").stat().st_mtime_ns
    assert cohort.ensure(SMALL, seed=3, out=folder).sites == cohort.discover(folder).sites
    assert (folder / "cohort.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="seed 4"):
        cohort.ensure(SMALL, seed=4, out=folder)
    with pytest.raises(DataError, match="Expected nothing at"):
        cohort.make(SMALL, seed=3, out=folder)


def test_some_grades_are_broken_as_in_real_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "BROKEN_SHARE", 1.0)
    cohort.make(
        SMALL.model_copy(update={"sites": 1, "unseen_device": False}), seed=3, out=tmp_path / "c", workers=1
    )
    grades = rows(tmp_path / "c" / "site-a" / "grades.csv")
    assert all(
        row["vascularity"] == "" or (row["hypertrophy"], row["vascularity"]) == ("0", "2") for row in grades
    )


def test_ungraded_exams_are_further_training_patients_without_readings(folder: Path, tmp_path: Path) -> None:
    more = SMALL.model_copy(update={"ungraded_per_graded": 2})
    made = cohort.make(more, seed=3, out=tmp_path / "more", workers=1)
    for site in made.sites:
        manifest, grades = (rows(site.folder / f"{name}.csv") for name in ("manifest", "grades"))
        graded = {row["exam_id"] for row in grades}
        assert grades == rows(folder / site.name / "grades.csv")
        further = [row for row in manifest if row["exam_id"] not in graded]
        assert len(graded) == 8
        assert len(further) == (16 if site.trains else 0)
        assert {row["split"] for row in further} <= {"train"}
        assert not {row["patient_id"] for row in further} & {
            row["patient_id"] for row in manifest if row["exam_id"] in graded
        }
        assert all((site.folder / row["gs_path"]).is_file() for row in further)
    assert "ungraded_per_graded" not in SMALL.model_dump(mode="json")
    assert more.model_dump(mode="json")["ungraded_per_graded"] == 2


def test_folders_without_an_index_are_sites_too(tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.csv").write_text("exam_id\n")
    (tmp_path / "notes").mkdir()
    assert [site.name for site in cohort.discover(tmp_path).sites] == ["north", "south"]


def test_discover_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected site folders with a manifest\.csv in .*, got none$"):
        cohort.discover(tmp_path)
    with pytest.raises(DataError, match=r"got no folder$"):
        cohort.discover(tmp_path / "nowhere")
    (tmp_path / "manifest.csv").touch()
    with pytest.raises(DataError, match=r"got one site's own: name the folder that holds the sites'$"):
        cohort.discover(tmp_path)
    for name in ("north/manifest.csv", "south/site.toml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"got no manifest\.csv for south$"):
        cohort.discover(tmp_path)
    index = tmp_path / "cohort.json"
    index.write_text('{"sites": [{"name": "gone", "trains": true}]}')
    with pytest.raises(DataError, match="gone"):
        cohort.discover(tmp_path)
    for broken in ("{", "[]", '{"sites": [1]}'):
        index.write_text(broken)
        with pytest.raises(DataError):
            cohort.discover(tmp_path)


def test_the_contact_sheet_shows_every_site(folder: Path, tmp_path: Path) -> None:
    cohort.show(folder, tmp_path / "sheet.png", seed=1, cell_px=40)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 40
        assert sheet.width > 8 * 40


EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "machine.toml"
ONE_EACH = SMALL.model_copy(update={"patients": 1, "exams_per_patient": 1})


def test_the_first_site_has_the_machine_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = partial(synofed.make_cohort, sites=2, patients=1, exams=1, image_px=64, unseen=False, seed=3)
    own, usual = small("own", machines=[EXAMPLE]), small("usual")
    devices = [rows(folder / name / "manifest.csv")[0]["device"] for folder in (own, usual) for name in SITES]
    assert devices == ["clinic-7", "logiq-e9", "logiq-e9", "logiq-e9-breast"]
    drawn, measured = (
        np.asarray(Image.open(next((f / "site-a" / "images").glob("*_gs.png")))) for f in (own, usual)
    )
    assert drawn.shape == measured.shape
    assert (drawn != measured).mean() > 0.5
    assert cohort.discover(own).sites[0].trains
    index = json.loads((own / "cohort.json").read_text())
    assert index["settings"]["machines"][0]["maker"] == "CLINIC 7  L15-4"
    assert "machines" not in json.loads((usual / "cohort.json").read_text())["settings"]


CONFIGURATION = """
name = "own"
[images.gs]
kind = "grey"
[measurements.hypertrophy]
images = ["gs"]
[cohort.phantom]
machines = ["machine.toml"]
"""


def test_a_machines_content_shapes_the_cohort_and_not_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, machine = tmp_path / "own.toml", tmp_path / "machine.toml"
    config.write_text(CONFIGURATION, encoding="utf-8")
    shutil.copy(EXAMPLE, machine)
    first = settings.load(config)
    machine.write_text(machine.read_text().replace("noise_db = -50.0", "noise_db = -40.0"), encoding="utf-8")
    other = settings.load(config)
    usual = settings.load(config, overrides=["cohort.phantom.machines=[]"])
    assert first.plan_hash() == other.plan_hash() == usual.plan_hash()
    phantoms = [found.cohort.phantom for found in (first, other, usual) if found.cohort is not None]
    assert len({simulate._short_hash(phantom, 1) for phantom in phantoms if phantom is not None}) == 3
    machine.unlink()
    written = tomli_w.dumps(first.model_dump(mode="json", exclude_none=True))
    assert settings.parse(written) == first, "a run's own configuration needs no file"
    with pytest.raises(ConfigurationError, match=r"a machine's profile at machine\.toml"):
        settings.load(config)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mm_per_px = 0.070", "mm_per_px = 0.2", "mm_per_px: .* less than or equal to 0.09, got 0.2"),
        ("axial_px = 3.2", "axial_px = nan", "axial_px: .* finite number, got nan"),
        ('doppler = "power"', 'doppler = "both"', "doppler: .*'colour' or 'power', got 'both'"),
        ("standoff_mm", "standof_mm", "standoff_mm: is missing\n.*standof_mm: no such setting"),
        ("    4, 4, 5,", "    4, 5,", "tone: .* at least 27 items"),
        ("217, 228, 238", "217, 216, 238", "tone: expected grey levels of which none is below"),
        ("text_colour = [240, 240, 240]", "text_colour = [240, 240, 300]", "text_colour.2: .* 255, got 300"),
        ('name = "clinic-7"', 'name = "Clinic 7"', "name: .* got 'Clinic 7'"),
        ("name =", "name", "is not TOML"),
    ],
)
def test_a_machine_that_cannot_be_is_said_with_its_file_and_key(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"(?s)mine.toml .*{said}"):
        settings.machine_profile(tmp_path / "mine.toml")


def test_machines_need_sites_and_names_of_their_own() -> None:
    mine = settings.machine_profile(EXAMPLE)
    other = mine.model_copy(update={"name": "other"})
    known = mine.model_copy(update={"name": "artus"})
    for given, said in (
        ({"machines": [mine, mine]}, "names that differ, got clinic-7, clinic-7"),
        ({"machines": [mine, other], "sites": 1}, "has 2 of your own, with 1 sites"),
        ({"machines": [mine], "shift": {"devices": "drawn"}}, "room for 0"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            section(PhantomSettings, given, source="The cohort")
    with pytest.raises(ConfigurationError, match="no other machine has, got artus"):
        cohort.devices(SMALL.model_copy(update={"machines": (known,)}), seed=0)
    shared = PhantomSettings(sites=3, machines=(mine,), shift=ShiftSettings(devices="one"))
    assert {d.name for name, d in cohort.devices(shared, seed=0).items() if name != "unseen"} == {"clinic-7"}


@pytest.mark.parametrize("end", ["ge", "le"])
def test_a_machine_at_the_ends_of_what_is_allowed_can_be_drawn(end: str, tmp_path: Path) -> None:
    ends = {
        name: getattr(one, end)
        for name, field in MachineProfile.model_fields.items()
        for one in field.metadata
        if hasattr(one, end)
    }
    assert len(ends) == 12
    machine = settings.machine_profile(EXAMPLE).model_copy(update=ends)
    alone = ONE_EACH.model_copy(update={"sites": 1, "unseen_device": False, "machines": (machine,)})
    made = cohort.make(alone, seed=1, out=tmp_path / "made", workers=1)
    with Image.open(next((made.folder / "site-a" / "images").glob("*_gs.png"))) as picture:
        assert np.asarray(picture).std() > 5
