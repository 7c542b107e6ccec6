import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import synofed
from client.data.ingest import mapping
from client.data.ingest.ingest import Ingested, ingest
from client.data.pictures import burned_in, dicom
from client.data.pictures.arrays import write_arrays
from client.data.tables.manifest import read_manifest
from client.data.tables.tables import read_tables
from common.errors import ConfigurationError, DataError
from tests.client.cli.test_site_cli import Command
from tests.client.data.dicom_files import FLOW, TISSUE, on_screen, speckle, with_flow, with_text, write_dicom
from tests.client.data.export import DICOM_ID, DUAL_ID, MAPPING, SECRETS, Export, make_export
from tests.site_folders import make_settings

Rows = list[dict[str, str]]


def rows(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(export: Export, out: Path, *, private: Path | None = None, replace: bool = False) -> Ingested:
    place = private or out.with_name(out.name + ".private")
    return ingest(export.source, out, mapping.load(export.mapping), private=place, replace=replace)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def everything(folder: Path) -> str:
    """Names and bytes of all files, as one text without case."""
    parts = [name + "\n" + content.decode("latin-1") for name, content in contents(folder).items()]
    return "\n".join(parts).casefold()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(arguments: Sequence[object]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["synofed", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return call


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Path, Ingested]:
    base = tmp_path_factory.mktemp("import")
    export = make_export(base)
    return export, base / "data", run(export, base / "data")


def test_an_export_of_two_machines_becomes_exams_of_two_patients(
    imported: tuple[Export, Path, Ingested],
) -> None:
    _, data, done = imported
    assert (done.exams, done.patients, done.files, done.other_files) == (5, 2, 7, 1)
    assert done.kept_by == {"profile hs40-dual": 6, "region tag": 4}
    found = {(r["device"], r["side"], r["joint"], r["digit"]) for r in rows(data / "manifest.csv")}
    assert found == {
        ("MyLab Twice", "left", "MCP", "2"),
        ("MyLab Twice", "left", "PIP", "3"),
        ("HS40", "left", "MCP", "3"),
        ("HS40", "right", "MCP", "3"),
        ("HS40", "right", "PIP", "2"),
    }


def test_a_site_can_train_on_it(imported: tuple[Export, Path, Ingested]) -> None:
    _, data, _ = imported
    data.with_name("arrays").mkdir()
    plan = make_settings()
    exams, unknown = read_manifest(data, data / "manifest.csv", plan)
    tables = read_tables(data, manifest="manifest.csv", grades="grades.csv", rule="median", settings=plan)
    assert (len(exams), unknown) == (5, ())
    assert len(tables.exams) + len(tables.quarantined) == 5
    assert {q.reason for q in tables.quarantined} == {"no reader gave a grade"}
    written = write_arrays(data.with_name("arrays"), data, exams, plan, None)
    assert (len(written.kept), written.quarantined) == (5, ())
    flow = np.load(data.with_name("arrays") / "doppler.npy")[:, 1]
    assert (flow.reshape(5, -1).max(axis=1) == 255).all()


def test_only_the_region_is_kept_and_each_picture_goes_with_its_own(
    imported: tuple[Export, Path, Ingested],
) -> None:
    _, data, _ = imported
    exam = next(r for r in rows(data / "manifest.csv") if (r["joint"], r["digit"]) == ("MCP", "2"))
    grey = np.asarray(Image.open(data / exam["gs_path"]).convert("RGB"))
    doppler = np.asarray(Image.open(data / exam["doppler_path"]))
    assert (grey == speckle(0)).all()
    assert (doppler == with_flow(speckle(0))).all()


def test_the_scale_of_a_scan_is_kept_for_the_ruler(imported: tuple[Export, Path, Ingested]) -> None:
    _, data, _ = imported
    scales = {row["device"]: row["gs_mm_per_px"] for row in rows(data / "manifest.csv")}
    assert scales == {"MyLab Twice": "0.08", "HS40": ""}


@pytest.mark.parametrize(
    ("change", "spacing"),
    [
        ({}, 0.08),
        ({"PhysicalUnitsXDirection": 4}, None),
        ({"PhysicalDeltaY": -0.008}, 0.08),  # measured from below
        ({"PhysicalDeltaY": 0.009}, None),
        ({"PhysicalDeltaX": 0.0, "PhysicalDeltaY": 0.0}, None),
    ],
)
def test_a_scale_that_is_no_length_or_differs_by_axis_is_none(
    tmp_path: Path, change: dict[str, float], spacing: float | None
) -> None:
    path = tmp_path / "a.dcm"
    file = write_dicom(path, speckle(0), regions=[(0, 0, 63, 63, TISSUE)])
    for name, value in change.items():
        setattr(file.SequenceOfUltrasoundRegions[0], name, value)
    file.save_as(path)
    assert [region.mm_per_px for region in dicom.read(path.read_bytes(), frame=None).regions] == [spacing]


def test_grades_find_their_exams_through_words_dates_and_linked_ids(
    imported: tuple[Export, Path, Ingested],
) -> None:
    _, data, done = imported
    joints = {r["exam_id"]: (r["side"], r["joint"], r["digit"]) for r in rows(data / "manifest.csv")}
    given = {
        (*joints[r["exam_id"]], r["reader"]): (r["hypertrophy"], r["vascularity"])
        for r in rows(data / "grades.csv")
    }
    readers = {key[-1] for key in given}
    assert len(readers) == 2
    assert sorted((key[:3], value) for key, value in given.items()) == [
        (("left", "MCP", "2"), ("1", "")),
        (("left", "MCP", "2"), ("2", "1")),
        (("right", "MCP", "3"), ("3", "2")),
        (("right", "PIP", "2"), ("", "0")),
    ]
    assert sum(done.grade_problems.values()) == 2


def test_nothing_of_a_person_is_in_any_byte_of_the_output(imported: tuple[Export, Path, Ingested]) -> None:
    export, data, _ = imported
    text = everything(data)
    for secret in (*SECRETS, *export.uids):
        assert secret.casefold() not in text, secret
    links = (data.with_name("data.private") / "data-links.csv").read_text(encoding="utf-8")
    for known in (DICOM_ID, DUAL_ID, "dicom/IMG_000100.dcm", export.uids[0]):
        assert known in links


def test_what_undoes_the_pseudonyms_is_for_its_owner_only(imported: tuple[Export, Path, Ingested]) -> None:
    private = imported[1].with_name("data.private")
    assert private.stat().st_mode & 0o077 == 0
    names = {"key", "data-links.csv", "data-problems.csv", "data-contact-sheet.png"}
    assert names <= {path.name for path in private.iterdir()}
    for name in names:
        assert (private / name).stat().st_mode & 0o777 == 0o600


def test_the_contact_sheet_shows_each_machine(imported: tuple[Export, Path, Ingested]) -> None:
    sheet = Image.open(imported[1].with_name("data.private") / "data-contact-sheet.png")
    assert sheet.width == 3 * 480  # a screen and the two scans on it
    green = (np.asarray(sheet) == (60, 220, 60)).all(axis=2)
    assert green.sum() > 1000


identifier = st.text("ABCDEFGHJKLMNPQRSTUVWXYZ", min_size=8, max_size=14)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=identifier, patient=identifier, accession=identifier, place=identifier, stem=identifier)
def test_no_identifier_gets_through_whatever_it_is(
    tmp_path_factory: pytest.TempPathFactory, name: str, patient: str, accession: str, place: str, stem: str
) -> None:
    base = tmp_path_factory.mktemp("leak")
    source = base / place
    source.mkdir()
    tags = {
        "PatientName": name,
        "AccessionNumber": accession,
        "InstitutionName": place,
        "ImageComments": name,
        "DeviceSerialNumber": stem,
        "StudyDescription": f"{name} {patient}",
    }
    for picture in (speckle(1), with_flow(speckle(1))):
        is_flow = bool((picture != speckle(1)).any())
        path = source / f"{stem}{is_flow}.dcm"
        write_dicom(path, picture, patient_id=patient, tags=tags, regions=[(0, 0, 199, 159, TISSUE)])
    info = PngInfo()
    info.add_text("Comment", name)
    Image.fromarray(speckle(3)).save(source / f"{stem}.png", pnginfo=info)
    done = ingest(source, base / "out", mapping.Mapping(), private=base / "private")
    assert done.exams == 1
    text = everything(base / "out")
    for secret in (name, patient, accession, place, stem):
        assert secret.casefold() not in text


def test_a_device_name_that_holds_an_identifier_is_refused(tmp_path: Path) -> None:
    for i, picture in enumerate((speckle(1), with_flow(speckle(1)))):
        write_dicom(tmp_path / f"{i}.dcm", picture, tags={"ManufacturerModelName": "MyLab of Mustermann"})
    with pytest.raises(DataError, match="device: it holds the PatientName"):
        ingest(tmp_path, tmp_path.with_name("o"), mapping.Mapping(), private=tmp_path.with_name("p"))


def test_a_file_that_was_exported_twice_is_taken_once(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    shutil.copytree(export.source / "dicom", export.source / "again" / "dicom")
    done = run(export, tmp_path / "data")
    assert done.exams == 5
    assert done.left_out == {"the same picture as an earlier file": 4}


def test_the_same_key_gives_the_same_folder_and_another_other_names(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    run(export, tmp_path / "a", private=tmp_path / "key1")
    run(export, tmp_path / "b", private=tmp_path / "key1")
    run(export, tmp_path / "c", private=tmp_path / "key2")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    patients = [{r["patient_id"] for r in rows(tmp_path / x / "manifest.csv")} for x in "ac"]
    assert not patients[0] & patients[1]


def test_dates_are_shifted_by_patient_kept_or_dropped(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    for dates, expected in (("kept", {"2024-03-01"}), ("none", {""})):
        export.mapping.write_text(MAPPING + f'\n[visit]\ndates = "{dates}"\n', encoding="utf-8")
        run(export, tmp_path / dates)
        assert {r["visit"] for r in rows(tmp_path / dates / "manifest.csv")} == expected
    export.mapping.write_text(MAPPING, encoding="utf-8")
    run(export, tmp_path / "shifted")
    by_patient: dict[str, set[str]] = {}
    for row in rows(tmp_path / "shifted" / "manifest.csv"):
        by_patient.setdefault(row["patient_id"], set()).add(row["visit"])
    assert all(len(days) == 1 and max(days) < "2024-03-01" for days in by_patient.values())


def test_bad_pictures_are_listed_without_their_names_and_the_rest_goes_on(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    torn = export.source / "dicom" / "IMG_000111.dcm"
    torn.write_bytes(torn.read_bytes()[:6000])
    done = run(export, tmp_path / "data")
    assert done.exams == 4
    listed = rows(tmp_path / "data" / "quarantine.csv")
    assert {r["source"]: r["reason"] for r in listed}["3"] == "no Doppler picture goes with it"
    assert "4" in {r["source"] for r in listed}
    assert "IMG_" not in (tmp_path / "data" / "quarantine.csv").read_text(encoding="utf-8")
    links = rows(tmp_path / "data.private" / "data-links.csv")
    assert any(r["file"] == "dicom/IMG_000111.dcm" and r["reason"] for r in links)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: shutil.rmtree(e.source), "Expected a folder of pictures"),
        (lambda e: (e.source.parent / "grades.csv").write_text("a;b\n1;2\n"), "missing: Pat-ID"),
        (lambda e: (e.source.parent / "patients.csv").unlink(), "Expected a table"),
        (
            lambda e: (e.source.parent / "patients.csv").write_text("patient_id,person\nA,1\nA,2\n"),
            "another person",
        ),
        (lambda e: [p.write_bytes(b"") for p in e.source.rglob("*.*")], "got 8 of other kinds"),
        (
            lambda e: (e.source.parent / "grades.csv").write_text(_unfitting()),
            "none of its rows could be used",
        ),
    ],
)
def test_a_structural_error_stops_and_leaves_nothing(
    tmp_path: Path, spoil: Callable[[Export], object], says: str
) -> None:
    export = make_export(tmp_path)
    spoil(export)
    with pytest.raises(DataError, match=says):
        run(export, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.glob(".data*"))


def _unfitting() -> str:
    return "Pat-ID;Datum;Seite;Gelenk;Finger;Untersucher;Höhe;PD\nX;2024-03-01;R;PIP;2;W;1;1\n"


def test_what_an_interrupted_import_left_is_cleared_away(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    (tmp_path / ".data.building" / "images").mkdir(parents=True)
    (tmp_path / ".data.building" / "images" / "half.png").write_bytes(b"half")
    run(export, tmp_path / "data")
    assert not (tmp_path / ".data.building").exists()
    assert not list((tmp_path / "data").rglob("half.png"))


KILLED = """
import os, signal, sys
from pathlib import Path
from client.data.ingest import mapping
from client.data.ingest.ingest import ingest
source, out, meaning, private = map(Path, sys.argv[1:])
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)
ingest(source, out, mapping.load(meaning), private=private, progress=kill)
"""


def test_a_killed_import_leaves_no_folder_and_the_next_one_is_whole(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    data, private = tmp_path / "data", tmp_path / "p"
    arguments = [export.source, data, export.mapping, private]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], check=False, cwd=Path(__file__).parents[4]
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / ".data.building").exists()
    assert not data.exists()
    key = (private / "key").read_bytes()
    assert run(export, data, private=private).exams == 5
    assert not (tmp_path / ".data.building").exists()
    assert (private / "key").read_bytes() == key


def test_a_folder_that_is_there_is_never_overwritten_unasked(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    run(export, tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(DataError, match="--replace"):
        run(export, tmp_path / "data")
    assert contents(tmp_path / "data") == before
    run(export, tmp_path / "data", replace=True)
    assert contents(tmp_path / "data.before-1") == before


@pytest.mark.parametrize(("out", "private"), [("export/x", "p"), ("data", "data/p"), (".", "p")])
def test_folders_within_one_another_are_refused(tmp_path: Path, out: str, private: str) -> None:
    export = make_export(tmp_path)
    with pytest.raises(DataError, match="outside of"):
        run(export, tmp_path / out, private=tmp_path / private)


def test_a_private_folder_that_others_can_open_is_refused(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    (tmp_path / "p").mkdir(mode=0o755)
    with pytest.raises(DataError, match="chmod 700"):
        run(export, tmp_path / "data", private=tmp_path / "p")


@pytest.mark.parametrize(("action", "exams", "masked"), [("mask", 1, 1), ("refuse", 0, 0), ("keep", 1, 0)])
def test_text_inside_the_scan_is_masked_refused_or_kept(
    tmp_path: Path, action: str, exams: int, masked: int
) -> None:
    source = tmp_path / "export"
    source.mkdir()
    written = with_text(speckle(5), "ID 4711 WEBER", (40, 100))
    regions = [(40, 30, 239, 189, TISSUE)]
    write_dicom(source / "a.dcm", on_screen(written), regions=regions)
    write_dicom(
        source / "b.dcm", on_screen(with_flow(speckle(5))), regions=[*regions, (70, 60, 189, 159, FLOW)]
    )
    meaning = mapping.Mapping.model_validate({"burned_in": {"action": action}, "roi": {"rule": "colour_box"}})
    if not exams:
        with pytest.raises(DataError, match="text is burned in at 1 places"):
            ingest(source, tmp_path / "data", meaning, private=tmp_path / "p")
        return
    done = ingest(source, tmp_path / "data", meaning, private=tmp_path / "p")
    assert (done.exams, done.masked) == (exams, masked)
    row = rows(tmp_path / "data" / "manifest.csv")[0]
    assert row["gs_roi"] == row["doppler_roi"] == "30 30 120 100"
    kept = np.asarray(Image.open(tmp_path / "data" / row["gs_path"]).convert("RGB"))
    assert len(burned_in.find(kept)) == (0 if action == "mask" else 1)
    same = (kept == speckle(5)).all(axis=2)
    assert same[:90].all()  # the rest of the scan is untouched


def test_rois_and_facts_come_from_tables_too(tmp_path: Path) -> None:
    source = tmp_path / "export"
    (source / "x").mkdir(parents=True)
    for i, picture in enumerate((speckle(5), with_flow(speckle(5)))):
        Image.fromarray(picture).save(source / "x" / f"B{i}.PNG")
    (tmp_path / "rois.csv").write_text(
        "file;x;y;width;height\nx/b0.png;10,4;20;100;90\nB1.png;11;20;100;90\n", encoding="utf-8"
    )
    (tmp_path / "list.csv").write_text(
        "Datei,Patient,Art\nX\\B0,Huber,B-Mode\nX\\B1,Huber,PD\n", encoding="utf-8"
    )
    (tmp_path / "m.toml").write_text(
        '[facts]\npatient_id = ["table:Patient"]\nimage = ["table:Art"]\n'
        '[table]\npath = "list.csv"\nfile = "Datei"\n[roi]\nrule = "table"\ntable = "rois.csv"\n'
        '[values.image]\n"B-Mode" = "gs"\n',
        encoding="utf-8",
    )
    done = ingest(source, tmp_path / "data", mapping.load(tmp_path / "m.toml"), private=tmp_path / "p")
    assert done.exams == 1
    row = rows(tmp_path / "data" / "manifest.csv")[0]
    assert (row["gs_roi"], row["doppler_roi"]) == ("10 20 100 90", "11 20 100 90")
    (tmp_path / "rois.csv").write_text(
        "file;x;y;width;height\nB0;150;20;100;90\nB1;11;20;10;10\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="expected the ROI inside the kept part"):
        ingest(source, tmp_path / "e", mapping.load(tmp_path / "m.toml"), private=tmp_path / "p")


def test_a_profile_paints_over_what_always_stands_in_one_place(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    masked = MAPPING.replace(
        'name = "hs40-dual"', 'name = "hs40-dual"\nmask = [[10, 30, 30, 40], [300, 0, 9, 9]]'
    )
    export.mapping.write_text(masked, encoding="utf-8")
    done = run(export, tmp_path / "data")
    assert (done.exams, done.masked) == (5, 3)
    exam = next(
        r for r in rows(tmp_path / "data" / "manifest.csv") if r["joint"] == "PIP" and r["device"] == "HS40"
    )
    grey = np.asarray(Image.open(tmp_path / "data" / exam["gs_path"]).convert("RGB"))
    corner = grey[:30, :20].reshape(-1, 3)
    assert (corner == corner[0]).all()
    same = (grey == speckle(102)).all(axis=2)
    assert same[30:].all()
    assert same[:, 20:].all()


def test_ids_of_one_person_that_nobody_linked_are_counted_and_listed_in_private(tmp_path: Path) -> None:
    source = tmp_path / "export"
    source.mkdir()
    for patient in ("0004711-X", "4711x", "4712x"):
        for i, picture in enumerate((speckle(5), with_flow(speckle(5)))):
            write_dicom(source / f"{patient}{i}.dcm", picture, patient_id=patient)
    done = ingest(source, tmp_path / "data", mapping.Mapping(), private=tmp_path / "p")
    assert (done.patients, done.look_alike_ids) == (3, 1)
    listed = (tmp_path / "p" / "data-problems.csv").read_text(encoding="utf-8")
    assert "0004711-X | 4711x" in listed


def test_the_command_tells_counts_and_names_nobody(command: Command, tmp_path: Path) -> None:
    export = make_export(tmp_path)
    arguments = ["ingest", export.source, "--out", tmp_path / "data", "--mapping", export.mapping]
    code, said = command(arguments)
    assert code == 0
    assert "5" in said
    assert "synofed data check" in said
    assert not [s for s in SECRETS if s.casefold() in said.casefold()]
    code, said = command(arguments)
    assert (code, "--replace" in said) == (4, True)
    code, said = command([*arguments, "--replace", "--json"])
    assert (code, json.loads(said)["exams"]) == (0, 5)
    code, said = command(["check", tmp_path / "data", "--json"])
    assert (code, json.loads(said)["problems"]) == (0, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[facts]\nside = ['tag:NoSuchThing']", "keyword of a public DICOM element"),
        ("[facts]\nside = [{of = 'name', pattern = '('}]", "regular expression"),
        ("[facts]\nside = [{of = 'name', pattern = 'a'}]", "one group"),
        ("[facts]\nside = ['table:X']", r"a \[table\] section"),
        ("[roi]\nrule = 'table'", "roi.table"),
        ("[grades]\npath = 'g.csv'\nexam = {side = 'S'}", "grades.columns or"),
        ("colour = 1", "no such setting"),
    ],
)
def test_a_mapping_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "m.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        mapping.load(tmp_path / "m.toml")


def test_the_example_mapping_can_be_read() -> None:
    example = Path(__file__).parents[4] / "configs" / "mapping.example.toml"
    assert mapping.EXAMPLE.read_bytes() == example.read_bytes()
    meaning = mapping.load(example)
    assert meaning.grades is not None
    assert meaning.grades.measurements == ("hypertrophy", "vascularity")
