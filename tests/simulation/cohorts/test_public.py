import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.data.site_store import site_store
from client.site.site import Site
from common.errors import ConfigurationError, DataError
from common.settings import parse
from simulation.cohorts import partition, public
from simulation.cohorts.cohort import discover
from simulation.cohorts.partition import Patient
from tests.site_folders import make_site_folder, read_table, write_table

COLUMNS = {"gs_path": "path", "patient_id": "group", "device": "device", "steatosis": "label"}


def make_pictures(folder: Path, *, patients: int = 24, exams: int = 3, split: bool = False) -> Path:
    """A folder of pictures and ``labels.csv`` with a spare, ungraded row."""
    rng = np.random.default_rng(5)
    (folder / "set").mkdir(parents=True)
    rows = []
    for patient in range(patients):
        for exam in range(exams):
            path = f"set/{patient}_{exam}.jpg"
            Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(folder / path)
            row = {"path": path, "group": f"p{patient}", "device": "ABC"[patient % 3], "label": patient % 4}
            if split:
                row["split"] = "test" if patient % 3 == 0 else "train"
            rows.append({key: str(value) for key, value in row.items()})
    rows.append({**rows[0], "path": "elsewhere.png", "label": ""})
    write_table(folder / "labels.csv", rows)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures") / "public")


def collection(folder: Path, **extra: str) -> public.Collection:
    return public.read_labels(folder, folder / "labels.csv", COLUMNS | extra)


def site_patients(folder: Path) -> dict[str, set[str]]:
    return {
        site.name: {row["patient_id"] for row in read_table(site.folder / "manifest.csv")}
        for site in discover(folder).sites
    }


@pytest.mark.parametrize("by", ["dirichlet", "size", "device", "column:device"])
def test_each_patient_is_at_one_site_and_every_site_opens(pictures: Path, tmp_path: Path, by: str) -> None:
    cohort = public.split_collection(
        collection(pictures), by=by, sites=3, seed=1, out=tmp_path / "c", held_out=0.25, least_patients=3
    )
    patients = site_patients(tmp_path / "c")
    everyone = [patient for members in patients.values() for patient in members]
    assert sorted(everyone) == sorted({f"p{i}" for i in range(24)})
    settings = parse(
        'name="t"\n[images.gs]\nkind="grey"\n[measurements.steatosis]\nimages=["gs"]\n'
        "[network]\nimage_px=16\n[rating]\nfolds=3"
    )
    for site in cohort.sites:
        store = site_store(Site.open(site.folder), settings)
        assert site.trains
        assert not store.quarantined
        assert store.usable == {"steatosis": 3 * len(patients[site.name])}
        assert set(store.tensors.fold.tolist()) == {-1, 0, 1, 2}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(pictures: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        public.split_collection(collection(pictures), by="dirichlet", sites=3, seed=seed, out=tmp_path / name)
    tables = {
        name: [p.read_bytes() for p in sorted((tmp_path / name).rglob("*.csv"))] for name in ("a", "b", "c")
    }
    assert tables["a"] == tables["b"]
    assert tables["a"] != tables["c"]


def test_pictures_are_copies_and_grades_have_one_reader(pictures: Path, tmp_path: Path) -> None:
    cohort = public.split_collection(collection(pictures), by="size", sites=2, seed=1, out=tmp_path / "c")
    row = read_table(cohort.sites[0].folder / "manifest.csv")[0]
    copy = cohort.sites[0].folder / row["gs_path"]
    assert row["gs_path"].startswith("images/set/")
    assert copy.read_bytes() == (pictures / row["gs_path"].removeprefix("images/")).read_bytes()
    assert copy.stat().st_nlink == 1
    assert {g["reader"] for g in read_table(cohort.sites[0].folder / "grades.csv")} == {"consensus"}


def test_device_split_names_sites_after_devices_and_joins_the_smallest(
    pictures: Path, tmp_path: Path
) -> None:
    public.split_collection(collection(pictures), by="device", sites=None, seed=1, out=tmp_path / "three")
    assert list(site_patients(tmp_path / "three")) == ["a", "b", "c"]
    public.split_collection(collection(pictures), by="device", sites=2, seed=1, out=tmp_path / "two")
    assert {k: len(v) for k, v in site_patients(tmp_path / "two").items()} == {"site-1": 16, "site-2": 8}
    with pytest.raises(ConfigurationError, match="at least 4 groups"):
        public.split_collection(collection(pictures), by="device", sites=4, seed=1, out=tmp_path / "four")


def test_size_split_follows_the_weights(pictures: Path, tmp_path: Path) -> None:
    public.split_collection(
        collection(pictures),
        by="size",
        sites=3,
        weights=(1.0, 2.0, 3.0),
        seed=1,
        out=tmp_path / "c",
        held_out=0.1,
    )
    assert [len(p) for p in site_patients(tmp_path / "c").values()] == [4, 8, 12]
    with pytest.raises(ConfigurationError, match="3 positive weights"):
        public.split_collection(
            collection(pictures), by="size", sites=3, weights=(1.0, 2.0), seed=1, out=tmp_path / "d"
        )


def test_file_split_follows_the_table(pictures: Path, tmp_path: Path) -> None:
    table = [{"patient_id": f"p{i}", "site": "north" if i < 10 else "south"} for i in range(24)]
    write_table(tmp_path / "who.csv", table)
    by = f"file:{tmp_path / 'who.csv'}"
    public.split_collection(collection(pictures), by=by, sites=None, seed=1, out=tmp_path / "c")
    assert {k: len(v) for k, v in site_patients(tmp_path / "c").items()} == {"north": 10, "south": 14}
    write_table(tmp_path / "who.csv", table[:-1])
    with pytest.raises(DataError, match="1 have none"):
        public.split_collection(collection(pictures), by=by, sites=None, seed=1, out=tmp_path / "d")
    write_table(tmp_path / "who.csv", [row | {"site": "../up"} for row in table])
    with pytest.raises(DataError, match="site names"):
        public.split_collection(collection(pictures), by=by, sites=None, seed=1, out=tmp_path / "e")
    assert not list(tmp_path.glob(".*"))


def test_a_split_column_is_honoured(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "public", split=True)
    public.split_collection(
        collection(folder, split="split"), by="dirichlet", sites=2, seed=3, out=tmp_path / "c"
    )
    for site in discover(tmp_path / "c").sites:
        for row in read_table(site.folder / "manifest.csv"):
            assert row["split"] == ("test" if int(row["patient_id"][1:]) % 3 == 0 else "train")


def test_a_site_whose_patients_are_all_held_out_does_not_train(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "public", split=True)  # device A has the patients that are held out
    cohort = public.split_collection(
        collection(folder, split="split"), by="device", sites=3, seed=3, out=tmp_path / "c"
    )
    assert {site.name: site.trains for site in cohort.sites} == {"a": False, "b": True, "c": True}


def test_held_out_patients_are_a_share_of_each_grade() -> None:
    patients = [Patient(patient_id=str(i), grade=i % 4) for i in range(80)]
    chosen = partition.choose_held_out(patients, share=0.3, rng=np.random.default_rng(0))
    tested = Counter(patient.grade for patient in patients if chosen[patient.patient_id] == "test")
    assert tested == {0: 6, 1: 6, 2: 6, 3: 6}


@given(n=st.integers(1, 60), share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_training_patients_foresees_what_is_held_out(n: int, share: float, seed: int) -> None:
    patients = [Patient(patient_id=str(i), grade=i % 3) for i in range(n)]
    chosen = partition.choose_held_out(patients, share=share, rng=np.random.default_rng(seed))
    training = sum(where == "train" for where in chosen.values())
    assert training == partition.training_patients(patients, held_out=share)


@given(n=st.integers(30, 80), sites=st.integers(1, 4), alpha=st.floats(0.3, 10), seed=st.integers(0, 10))
def test_dirichlet_keeps_everyone_and_leaves_enough_to_train_on(
    n: int, sites: int, alpha: float, seed: int
) -> None:
    patients = [Patient(patient_id=str(i), grade=i % 4) for i in range(n)]
    parts = partition.by_dirichlet(
        patients,
        sites=sites,
        alpha=alpha,
        least_patients=2,
        held_out=0.3,
        rng=np.random.default_rng(seed),
    )
    assert sorted(p.patient_id for part in parts.values() for p in part) == sorted(map(str, range(n)))
    assert all(partition.training_patients(part, held_out=0.3) >= 2 for part in parts.values())


def test_small_alpha_makes_sites_differ_more() -> None:
    patients = [Patient(patient_id=str(i), grade=i % 4) for i in range(400)]

    def unlikeness(alpha: float) -> float:
        parts = partition.by_dirichlet(
            patients,
            sites=4,
            alpha=alpha,
            least_patients=1,
            held_out=0.3,
            rng=np.random.default_rng(1),
        )
        shares = [np.bincount([p.grade for p in part], minlength=4) / len(part) for part in parts.values()]
        return float(np.std(shares, axis=0).mean())

    assert unlikeness(0.2) > 2 * unlikeness(50.0)


def test_too_many_sites_are_refused_with_advice(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="raise alpha, or lower sites"):
        public.split_collection(
            collection(pictures), by="dirichlet", sites=8, seed=0, out=tmp_path / "c", least_patients=5
        )
    with pytest.raises(ConfigurationError, match="fewer sites or folds"):
        public.split_collection(
            collection(pictures), by="size", sites=8, seed=0, out=tmp_path / "c", least_patients=5
        )
    with pytest.raises(ConfigurationError, match="got 'colour'"):
        public.split_collection(collection(pictures), by="colour", sites=2, seed=0, out=tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_import_makes_a_collection_that_can_be_split(pictures: Path, tmp_path: Path) -> None:
    assert collection(pictures).ungraded == 1
    manifest = public.import_pictures(pictures, pictures / "labels.csv", COLUMNS, tmp_path / "set")
    again = public.read_collection(manifest)
    assert len(again.manifest) == len(again.grades) == 72
    public.split(manifest, by="dirichlet", sites=2, seed=0, out=tmp_path / "c")
    row = read_table(next((tmp_path / "c").glob("*/manifest.csv")))[0]
    assert row["gs_path"].count("images/") == 1
    with pytest.raises(DataError, match="Expected nothing at"):
        public.import_pictures(pictures, pictures / "labels.csv", COLUMNS, tmp_path / "set")


def test_a_site_folder_can_be_split_with_all_its_readers(tmp_path: Path) -> None:
    make_site_folder(tmp_path / "whole", patients=12, readers=3)
    cohort = public.split(tmp_path / "whole/manifest.csv", by="size", sites=2, seed=0, out=tmp_path / "c")
    for site in cohort.sites:
        assert {row["reader"] for row in read_table(site.folder / "grades.csv")} == {"r1", "r2", "r3"}


def test_all_errors_of_the_labels_at_once(pictures: Path, tmp_path: Path) -> None:
    rows = read_table(pictures / "labels.csv")[:6]
    rows[1]["label"] = "mild"
    rows[2]["path"] = "../labels.csv"
    rows[3]["path"] = "set/none.jpg"
    rows[4]["group"] = ""
    for index, row in enumerate(rows):
        row["split"] = "validation" if index == 5 else "train"
    write_table(tmp_path / "labels.csv", rows)
    with pytest.raises(DataError, match="has 5 errors") as caught:
        public.read_labels(pictures, tmp_path / "labels.csv", COLUMNS | {"split": "split"})
    for line, text in (
        (3, "steatosis is 'mild'"),
        (4, "gs_path"),
        (5, "gs_path"),
        (6, "patient_id is empty"),
        (7, "split is 'validation'"),
    ):
        assert f"line {line}: {text}" in str(caught.value)


def test_labels_without_a_column_or_a_file(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing: score"):
        public.read_labels(pictures, pictures / "labels.csv", COLUMNS | {"steatosis": "score"})
    with pytest.raises(DataError, match="Expected a table"):
        public.read_labels(pictures, tmp_path / "none.csv", COLUMNS)
    with pytest.raises(ConfigurationError, match="measurement"):
        public.read_labels(pictures, pictures / "labels.csv", {"gs_path": "path", "patient_id": "group"})


def test_ensure_makes_a_cohort_once(pictures: Path, tmp_path: Path) -> None:
    settings = parse(
        'name="t"\n[images.gs]\nkind="grey"\n[measurements.steatosis]\nimages=["gs"]\n[rating]\nfolds=3\n'
        f'[cohort.public]\nimages="{pictures}"\nlabels="{pictures}/labels.csv"\nsites=2\n'
        f"[cohort.public.columns]\n" + "\n".join(f'{k}="{v}"' for k, v in COLUMNS.items())
    )
    assert settings.cohort is not None
    assert settings.cohort.public is not None
    first = public.ensure(settings.cohort.public, settings=settings, folder=tmp_path)
    stamp = first.folder.stat().st_mtime_ns
    again = public.ensure(settings.cohort.public, settings=settings, folder=tmp_path)
    assert again == first
    assert again.folder.stat().st_mtime_ns == stamp
    index = json.loads((first.folder / "cohort.json").read_text())
    assert index["seed"] == 0
    assert index["settings"]["by"] == "dirichlet"
    other = settings.cohort.public.model_copy(update={"alpha": 5.0})
    assert public.ensure(other, settings=settings, folder=tmp_path).folder != first.folder


def test_tables_with_a_byte_order_mark_and_crlf_are_read(pictures: Path, tmp_path: Path) -> None:
    with (pictures / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    text = "\r\n".join(",".join(row) for row in rows)
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(public.read_labels(pictures, tmp_path / "labels.csv", COLUMNS).manifest) == 72


HOSPITALS = {
    "us_path": "file",
    "patient_id": "patient",
    "exam_id": "exam",
    "device": "hospital",
    "grade": "grade",
}


def make_hospitals(folder: Path) -> Path:
    """Two hospitals that both number their exams from 1; south's grades are 3 minus north's."""
    rng = np.random.default_rng(9)
    folder.mkdir()
    rows = []
    for hospital, name in enumerate(("north", "south")):
        for exam in range(16):
            file = f"{name}{exam}.png"
            Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(folder / file)
            grade = (exam // 2 + exam) % 4
            rows.append(
                {
                    "patient": f"p{8 * hospital + exam // 2:03d}",
                    "exam": str(exam + 1),
                    "file": file,
                    "grade": str(3 - grade if hospital else grade),
                    "hospital": name,
                }
            )
    write_table(folder / "labels.csv", rows)
    return folder


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hospitals(tmp_path_factory.mktemp("hospitals") / "data")


def site_grades(folder: Path) -> dict[str, dict[str, str]]:
    return {
        site.name: {row["exam_id"]: row["grade"] for row in read_table(site.folder / "grades.csv")}
        for site in discover(folder).sites
    }


@pytest.mark.parametrize("way", ["labels", "imported"])
def test_exam_ids_that_coincide_at_two_sites_are_two_exams(hospitals: Path, tmp_path: Path, way: str) -> None:
    if way == "labels":
        found = public.read_labels(hospitals, hospitals / "labels.csv", HOSPITALS)
        public.split_collection(found, by="device", sites=2, seed=7, out=tmp_path / "c")
    else:
        manifest = public.import_pictures(hospitals, hospitals / "labels.csv", HOSPITALS, tmp_path / "set")
        public.split(manifest, by="device", sites=2, seed=7, out=tmp_path / "c")
    rows = read_table(hospitals / "labels.csv")
    expected = {
        name: {row["exam"]: row["grade"] for row in rows if row["hospital"] == name}
        for name in ("north", "south")
    }
    assert site_grades(tmp_path / "c") == expected
    assert len(read_table(tmp_path / "c" / "south" / "grades.csv")) == 16
    settings = parse(
        'name="t"\n[images.us]\nkind="grey"\n[measurements.grade]\nimages=["us"]\n[network]\nimage_px=16'
    )
    store = site_store(Site.open(tmp_path / "c" / "south"), settings)
    targets = dict(zip(store.exams["exam_id"], store.tensors.grades["grade"].tolist(), strict=True))
    assert targets == {exam: int(grade) for exam, grade in expected["south"].items()}


def test_readings_that_nobody_can_place_are_refused(hospitals: Path, tmp_path: Path) -> None:
    manifest = public.import_pictures(hospitals, hospitals / "labels.csv", HOSPITALS, tmp_path / "set")
    grades = read_table(tmp_path / "set" / "grades.csv")
    assert list(grades[0]) == ["patient_id", "exam_id", "reader", "session", "grade"]
    write_table(
        tmp_path / "set" / "grades.csv", [{k: v for k, v in r.items() if k != "patient_id"} for r in grades]
    )
    with pytest.raises(DataError, match="has 32 errors") as caught:
        public.split(manifest, by="device", sites=2, seed=7, out=tmp_path / "c")
    assert "line 2: exam_id is '1', which stands in lines 2, 18 of the manifest" in str(caught.value)
    write_table(tmp_path / "set" / "grades.csv", [{**row, "patient_id": "p000"} for row in grades])
    with pytest.raises(DataError, match="has 28 errors"):
        public.split(manifest, by="device", sites=2, seed=7, out=tmp_path / "c")


def test_within_a_site_an_exam_id_stands_once(hospitals: Path, tmp_path: Path) -> None:
    found = public.read_labels(hospitals, hospitals / "labels.csv", HOSPITALS)
    with pytest.raises(
        DataError, match=r"(?s)each exam_id once at a site, 16 stand.*lines 2 and 18: exam_id '1' at"
    ):
        public.split_collection(found, by="device", sites=1, seed=7, out=tmp_path / "c")
    rows = read_table(hospitals / "labels.csv")
    rows[1]["exam"] = "1"
    write_table(tmp_path / "labels.csv", rows)
    with pytest.raises(DataError, match="line 3: exam_id '1' of this patient_id stands in line 2 already"):
        public.read_labels(hospitals, tmp_path / "labels.csv", HOSPITALS)


def test_another_patients_reading_is_refused(pictures: Path, tmp_path: Path) -> None:
    manifest = public.import_pictures(pictures, pictures / "labels.csv", COLUMNS, tmp_path / "set")
    grades = read_table(tmp_path / "set" / "grades.csv")
    write_table(tmp_path / "set" / "grades.csv", [row | {"patient_id": "p1"} for row in grades])
    with pytest.raises(DataError, match=r"line 2: patient_id is 'p1', expected 'p0' as the manifest"):
        public.read_collection(manifest)


LABELS = "patient,exam,file,remark,grade,checked\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LABELS + "p,e,f.png,knee, 3, swollen,0,1\n", "line 2: has 8 cells, expected 6"),
        (LABELS + "p,e,f.png\n", "line 2: has 3 cells, expected 6"),
        ("patient,exam,file,grade,grade\np,e,f.png,0,1\n", "twice: grade"),
        (LABELS + 'p,e,f.png,x,0,1\np,e2,f.png,"y,1,1\n', "row that begins in line 3"),
    ],
)
def test_labels_are_read_as_strictly_as_a_hospitals_own_tables(tmp_path: Path, text: str, says: str) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "f.png")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    columns = {"us_path": "file", "patient_id": "patient", "exam_id": "exam", "grade": "grade"}
    with pytest.raises(DataError, match=says):
        public.read_labels(tmp_path, tmp_path / "labels.csv", columns)


@pytest.mark.parametrize("form", ["{}.0", "{}", "{},0", "Grad {}"])
def test_whole_numbers_are_read_as_in_a_sites_grades(pictures: Path, tmp_path: Path, form: str) -> None:
    rows = read_table(pictures / "labels.csv")
    lines = [";".join(rows[0])] + [
        ";".join([*list(row.values())[:-1], form.format(row["label"]) if row["label"] else ""])
        for row in rows
    ]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    found = public.read_labels(pictures, tmp_path / "labels.csv", COLUMNS)
    assert [row["steatosis"] for row in found.grades] == [row["label"] for row in rows[:-1]]
    assert found.ungraded == 1


def test_a_number_beside_the_grades_is_no_measurement(pictures: Path, tmp_path: Path) -> None:
    rows = [row | {"weight_kg": str(40 + i)} for i, row in enumerate(read_table(pictures / "labels.csv"))]
    write_table(tmp_path / "labels.csv", rows)
    columns = COLUMNS | {"weight_kg": "weight_kg"}
    with pytest.raises(ConfigurationError, match="which of steatosis, weight_kg are graded"):
        public.read_labels(pictures, tmp_path / "labels.csv", columns)
    how = public.Labels(columns=columns, measurements=["steatosis"])
    manifest = public.import_pictures(pictures, tmp_path / "labels.csv", how, tmp_path / "set")
    assert list(read_table(tmp_path / "set" / "grades.csv")[0]) == [
        "exam_id",
        "reader",
        "session",
        "steatosis",
    ]
    assert read_table(manifest)[1]["weight_kg"] == "41"
    plain = public.split_collection(collection(pictures), by="dirichlet", sites=2, seed=3, out=tmp_path / "a")
    aged = public.split(manifest, by="dirichlet", sites=2, seed=3, out=tmp_path / "b")
    assert site_patients(plain.folder) == site_patients(aged.folder)


NUMBERS = """
name = "t"
method = "svdh"
images.gs.kind = "grey"
numbers.svdh = {{largest = 280, step = 0.5, images = ["gs"]}}
measurements.severity = {{number = "svdh", edges = [70, 140, 210], images = ["gs"]}}
network.image_px = 16
rating.folds = 2
federation.selection = "last"
cohort.public = {{images = "{folder}", labels = "{folder}/labels.csv", sites = 2, alpha = 0.5, columns = \
{{gs_path = "path", patient_id = "group", device = "device", svdh = "total"}}}}
"""


def test_numbers_are_read_from_a_column_and_sites_differ_by_them(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "public")
    rows = read_table(folder / "labels.csv")
    for row in rows[:-1]:
        row["total"] = f"{int(row['label']) * 70 + 12},5"
    write_table(folder / "labels.csv", [{"total": "", **row, "label": ""} for row in rows])
    settings = parse(NUMBERS.format(folder=folder))
    assert settings.cohort is not None
    assert settings.cohort.public is not None
    cohort = public.ensure(settings.cohort.public, settings=settings, folder=tmp_path / "cohorts")
    found: list[float] = []
    for site in cohort.sites:
        store = site_store(Site.open(site.folder), settings)
        shares = store.tensors.numbers["svdh"]
        found += [round(280 * share, 3) for share in shares.tolist()]
        np.testing.assert_array_equal(store.tensors.grades["severity"], (shares * 4).int())
    assert sorted(set(found)) == [12.5, 82.5, 152.5, 222.5]
    assert len(found) == 72
    by_quarter = public.read_labels(
        folder, folder / "labels.csv", public._labels(settings.cohort.public, settings)
    )
    patients = public._patients(by_quarter, column=None)
    assert {int(p.patient_id[1:]) % 4 == p.grade for p in patients} == {True}
    rows[0]["total"] = "281"
    write_table(folder / "labels.csv", rows)
    with pytest.raises(DataError, match=r"svdh is '281', expected a number from 0 to 280 in steps of 0\.5"):
        public.ensure(settings.cohort.public, settings=settings, folder=tmp_path / "others")


def test_words_are_one_error_and_a_map_makes_grades_of_them(pictures: Path, tmp_path: Path) -> None:
    names = ("normal", "Benign", "malignant", "")
    rows = [
        row | {"label": names[int(row["label"])] if row["label"] else ""}
        for row in read_table(pictures / "labels.csv")
    ]
    write_table(tmp_path / "labels.csv", rows)
    with pytest.raises(DataError, match="has 1 error;") as caught:
        public.read_labels(pictures, tmp_path / "labels.csv", COLUMNS)
    assert "steatosis is 'normal' in 18 rows, 'Benign' in 18 rows, 'malignant' in 18 rows" in str(
        caught.value
    )
    assert "--grades Benign=0,malignant=1,normal=2" in str(caught.value)
    words = {"Normal": 0, "benign": 1, "malignant": 2}
    found = public.read_labels(pictures, tmp_path / "labels.csv", public.Labels(columns=COLUMNS, words=words))
    assert Counter(row["steatosis"] for row in found.grades) == {"0": 18, "1": 18, "2": 18}
    with pytest.raises(
        DataError, match=r"(?s)has 18 errors.*steatosis is 'malignant', expected .* normal, benign or"
    ):
        public.read_labels(
            pictures,
            tmp_path / "labels.csv",
            public.Labels(columns=COLUMNS, words={"normal": 0, "benign": 1}),
        )


def test_each_picture_may_be_a_patient(pictures: Path, tmp_path: Path) -> None:
    columns = {name: theirs for name, theirs in COLUMNS.items() if name != "patient_id"}
    how = public.Labels(columns=columns, patient="each-picture")
    found = public.read_labels(pictures, pictures / "labels.csv", how)
    assert len({row["patient_id"] for row in found.manifest}) == 72
    public.split_collection(found, by="size", sites=2, seed=0, out=tmp_path / "c")
    by_column = public.read_labels(
        pictures, pictures / "labels.csv", public.Labels(columns=columns, patient="group")
    )
    assert by_column.manifest == collection(pictures).manifest
    with pytest.raises(ConfigurationError, match="got both"):
        public.read_labels(
            pictures, pictures / "labels.csv", public.Labels(columns=COLUMNS, patient="each-picture")
        )


def test_a_column_that_passes_through_import_can_be_split_by(hospitals: Path, tmp_path: Path) -> None:
    columns = {name: theirs for name, theirs in HOSPITALS.items() if name != "device"} | {
        "hospital": "hospital"
    }
    how = public.Labels(columns=columns, measurements=["grade"])
    manifest = public.import_pictures(hospitals, hospitals / "labels.csv", how, tmp_path / "set")
    public.split(manifest, by="column:hospital", sites=None, seed=0, out=tmp_path / "c")
    assert list(site_patients(tmp_path / "c")) == ["north", "south"]
    assert "hospital" in read_table(tmp_path / "c" / "north" / "manifest.csv")[0]


def test_a_run_may_split_by_a_column_that_it_does_not_name(hospitals: Path, tmp_path: Path) -> None:
    settings = parse(
        'name="t"\n[images.us]\nkind="grey"\n[measurements.grade]\nimages=["us"]\n[rating]\nfolds=2\n'
        f'[cohort.public]\nimages="{hospitals}"\nlabels="{hospitals}/labels.csv"\nsites=2\nby="column:hospital"\n'
        '[cohort.public.columns]\nus_path="file"\npatient_id="patient"\nexam_id="exam"\ngrade="grade"\nscore="grade"\n'
    )
    assert settings.cohort is not None
    assert settings.cohort.public is not None
    assert set(settings.cohort.public.model_dump()) == {
        "images", "labels", "columns", "by", "sites", "alpha", "weights", "held_out",
    }  # fmt: skip
    made = public.ensure(settings.cohort.public, settings=settings, folder=tmp_path)
    assert list(site_patients(made.folder)) == ["north", "south"]
    row = read_table(made.folder / "north" / "grades.csv")[0]
    assert list(row) == ["exam_id", "reader", "session", "grade"]


def test_pictures_that_two_patients_have_alike_are_found(pictures: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 255, (12, 12), dtype=np.uint8)
    picture = Image.fromarray(cells).resize((240, 240), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "one.png")
    picture.save(tmp_path / "same.bmp.png")
    picture.resize((160, 160)).save(tmp_path / "near.jpg", quality=80)
    other = rng.integers(0, 255, (12, 12), dtype=np.uint8)
    Image.fromarray(other).resize((240, 240), Image.Resampling.BICUBIC).save(tmp_path / "other.png")
    patients = {"one.png": "a", "same.bmp.png": "b", "near.jpg": "c", "other.png": "d"}
    rows = [{"path": path, "group": who, "device": "X", "label": "1"} for path, who in patients.items()]
    write_table(
        tmp_path / "labels.csv", [*rows, rows[0] | {"group": "a", "path": "same.bmp.png", "label": "2"}]
    )
    public.import_pictures(tmp_path, tmp_path / "labels.csv", COLUMNS, tmp_path / "set")
    found = read_table(tmp_path / "set" / "copies.csv")
    pairs = {(row["patient_id"], row["other_patient_id"], row["same_pixels"]) for row in found}
    assert {("a", "b", "yes"), ("a", "c", "no"), ("b", "c", "no")} <= pairs
    assert not any("d" in pair for pair in pairs)
    assert not any(row["patient_id"] == row["other_patient_id"] for row in found)
    (said,) = public.remarks(tmp_path / "set")
    assert f"{len(found)} pictures are the same, or nearly, at two patients" in said
    public.import_pictures(pictures, pictures / "labels.csv", COLUMNS, tmp_path / "clean")
    assert public.remarks(tmp_path / "clean") == ()


def test_an_assignment_that_contradicts_itself_or_lost_its_zeros_is_said(
    hospitals: Path, tmp_path: Path
) -> None:
    rows = [
        row | {"patient": row["patient"].removeprefix("p")} for row in read_table(hospitals / "labels.csv")
    ]
    write_table(tmp_path / "labels.csv", rows)
    found = public.read_labels(hospitals, tmp_path / "labels.csv", HOSPITALS)
    by = f"file:{tmp_path / 'who.csv'}"
    write_table(tmp_path / "who.csv", [{"patient_id": str(i), "site": "s"} for i in range(16)])
    with pytest.raises(DataError, match=r"16 have none.*; 16 of them have one but for zeros"):
        public.split_collection(found, by=by, sites=None, seed=0, out=tmp_path / "c")
    write_table(tmp_path / "who.csv", [{"patient_id": "000", "site": s} for s in "ab"])
    with pytest.raises(DataError, match="line 3: site is 'b', expected 'a' as in an earlier line"):
        public.split_collection(found, by=by, sites=None, seed=0, out=tmp_path / "c")


def test_patients_whom_two_sites_have_are_said(hospitals: Path, tmp_path: Path) -> None:
    rows = [
        row | {"patient": f"p{index % 8}", "exam": str(index)}
        for index, row in enumerate(read_table(hospitals / "labels.csv"))
    ]
    write_table(tmp_path / "labels.csv", rows)
    found = public.read_labels(hospitals, tmp_path / "labels.csv", HOSPITALS)
    public.split_collection(found, by="device", sites=1, seed=0, out=tmp_path / "one")
    (said,) = public.remarks(tmp_path / "one")
    assert said.startswith(
        "8 of 8 patients have several values of device: each goes with all exams to where most are"
    )
    public.split_collection(found, by="size", sites=2, seed=0, out=tmp_path / "two")
    assert public.remarks(tmp_path / "two") == ()


def test_a_picture_that_stands_twice_is_refused(pictures: Path, tmp_path: Path) -> None:
    rows = read_table(pictures / "labels.csv")
    write_table(tmp_path / "labels.csv", [*rows, rows[0], rows[1] | {"label": "3"}])
    with pytest.raises(
        DataError, match=r"(?s)has 2 errors.*line 75: has the pictures of line 2, expected one row per exam"
    ):
        public.read_labels(pictures, tmp_path / "labels.csv", COLUMNS)
