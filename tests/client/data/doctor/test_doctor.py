import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synofed
from client.data.doctor import check as doctor
from client.data.doctor.findings import TITLES, Finding, Kind, Report
from client.data.doctor.hashes import alike, likeness
from client.data.doctor.looks import Look, Place, look
from client.data.doctor.row_checks import side_in
from common.errors import DataError
from common.sections.cohort import PhantomSettings
from simulation.phantom.devices import FITTED
from simulation.phantom.folders import Job, write_patient, write_site
from simulation.phantom.shifts import SiteShift
from tests.client.cli.test_site_cli import Command
from tests.client.data.dicom_files import speckle, with_flow, with_text
from tests.client.data.picture_files import png16
from tests.site_folders import read_table, write_table

Rows = list[dict[str, str]]


class Folder:
    """A data folder without a fault: three patients, two joints each, two readers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "images").mkdir(parents=True)
        manifest: Rows = []
        grades: Rows = []
        for i in range(6):
            exam, side = f"x{i}", ("left", "right")[i % 2]
            row = {
                "exam_id": exam,
                "patient_id": f"hosp-{'ABC'[i // 2]}",
                "visit": "2024-03-01",
                "side": side,
                "joint": "MCP",
                "digit": "2",
            }
            for image in ("gs", "doppler"):
                row |= {f"{image}_path": f"images/{exam}_{image}.png", f"{image}_roi": "10 10 120 100"}
            manifest.append(row)
            self.picture(exam, "gs", speckle(i))
            self.picture(exam, "doppler", with_flow(speckle(i)))
            grades += [
                {"exam_id": exam, "reader": reader, "session": "1", "hypertrophy": "2", "vascularity": "1"}
                for reader in ("r1", "r2")
            ]
        write_table(path / "manifest.csv", manifest)
        write_table(path / "grades.csv", grades)

    def picture(self, exam: str, image: str, rgb: np.ndarray) -> None:
        Image.fromarray(rgb).save(self.path / "images" / f"{exam}_{image}.png")

    def change(self, table: str, number: int, values: Mapping[str, str]) -> None:
        rows = read_table(self.path / f"{table}.csv")
        rows[number].update(values)
        write_table(self.path / f"{table}.csv", rows)

    def append(self, table: str, values: Mapping[str, str], *, like: int = 0) -> None:
        rows = read_table(self.path / f"{table}.csv")
        write_table(self.path / f"{table}.csv", [*rows, {**rows[like], **values}])


def copy_of(rgb: np.ndarray) -> np.ndarray:
    """Brighter, smaller, and through JPEG."""
    file = io.BytesIO()
    bright = np.clip(rgb.astype(float) * 1.2 + 8, 0, 255).astype(np.uint8)
    Image.fromarray(bright).resize((150, 120)).save(file, "JPEG", quality=70)
    return np.asarray(Image.open(file))


def found(report: Report) -> dict[Kind, list[Finding]]:
    by_check: dict[Kind, list[Finding]] = {}
    for finding in report.findings:
        by_check.setdefault(finding.check, []).append(finding)
    return by_check


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "data")


def test_a_folder_without_a_fault_is_clean(folder: Folder) -> None:
    report = doctor.check(folder.path)
    assert report.findings == ()
    assert (report.exams, report.patients, report.pictures) == (6, 3, 12)


@pytest.mark.parametrize(
    ("spoil", "check", "exam", "says"),
    [
        (lambda f: f.picture("x3", "gs", speckle(0)), "duplicate", "x3", "gs in line 2"),
        (lambda f: f.picture("x4", "gs", copy_of(speckle(0))), "copy", "x4", "line 2, of another patient"),
        (lambda f: f.change("manifest", 2, {"patient_id": "HOSP_a"}), "ids", "x2", "'HOSP_a' and 'hosp-A'"),
        (lambda f: f.change("manifest", 2, {"doppler_path": ""}), "missing", "x2", "doppler"),
        (lambda f: (f.path / "images" / "x2_gs.png").unlink(), "missing", "x2", "cannot be read"),
        (
            lambda f: (f.path / "images" / "x2_gs.png").write_bytes(b"no"),
            "missing",
            "x2",
            "of no known picture",
        ),
        (
            lambda f: (f.picture("x1", "gs", with_flow(speckle(1))), f.picture("x1", "doppler", speckle(1))),
            "swapped",
            "x1",
            "gs shows colour, doppler none",
        ),
        (lambda f: f.picture("x1", "doppler", speckle(77)), "swapped", "x1", "a reader saw flow"),
        (lambda f: f.change("manifest", 1, {"exam_id": "x1-LEFT"}), "side", "x1-LEFT", "exam_id says left"),
        (lambda f: f.change("manifest", 1, {"side": "L"}), None, "", ""),
        (lambda f: f.change("grades", 4, {"hypertrophy": "0"}), "impossible", "x2", "hypertrophy 0 with"),
        (lambda f: f.change("grades", 4, {"vascularity": "7"}), "impossible", "x2", "'7'"),
        (lambda f: f.append("grades", {"hypertrophy": "1"}, like=4), "grades", "x2", "otherwise in line 6"),
        (lambda f: f.append("grades", {"session": "2", "hypertrophy": "3"}), None, "", ""),
        (
            lambda f: f.picture("x5", "gs", with_text(speckle(5), "MUSTERMANN", (30, 60))),
            "text",
            "x5",
            "in or near the ROI",
        ),
        (lambda f: f.change("manifest", 5, {"gs_roi": "100 10 120 100"}), "roi", "x5", "200 x 160"),
        (lambda f: f.change("manifest", 5, {"gs_roi": "1 2 3"}), "rows", "x5", "gs_roi"),
        (lambda f: f.change("manifest", 5, {"gs_path": "../x.png"}), "rows", "x5", "gs_path"),
        (lambda f: f.change("manifest", 5, {"exam_id": "x4"}), "rows", "x4", "stands in line 6"),
        (lambda f: f.change("manifest", 5, {"patient_id": ""}), "rows", "x5", "patient_id is empty"),
    ],
)
def test_each_fault_is_found_once_where_it_is(
    folder: Folder, spoil: Callable[[Folder], object], check: Kind | None, exam: str, says: str
) -> None:
    spoil(folder)
    problems = [finding for finding in doctor.check(folder.path).findings if finding.problem]
    if check is None:
        assert problems == []
        return
    mine = [finding for finding in problems if finding.check == check]
    assert [finding.exam_id for finding in mine] == [exam]
    assert says in mine[0].what


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (
            lambda f: (
                f.picture("x1", "doppler", speckle(77)),
                f.change("grades", 2, {"vascularity": "0"}),
                f.change("grades", 3, {"vascularity": "0"}),
            ),
            "swapped",
        ),
        (lambda f: f.change("grades", 2, {"hypertrophy": "", "vascularity": ""}), None),
        (
            lambda f: [f.change("grades", i, {"hypertrophy": "", "vascularity": ""}) for i in (2, 3)],
            "ungraded",
        ),
        (lambda f: f.append("grades", {"exam_id": "stranger"}), "ungraded"),
        (lambda f: f.change("grades", 2, {"vascularity": "3"}), "grades"),
        (lambda f: f.change("manifest", 1, {"side": "left"}), "twice"),
        (
            lambda f: f.picture("x5", "gs", with_text(speckle(5), "KLINIK", (140, 140))),
            "text",
        ),
    ],
)
def test_what_may_be_right_is_only_to_be_looked_at(
    folder: Folder, spoil: Callable[[Folder], object], check: Kind | None
) -> None:
    spoil(folder)
    report = doctor.check(folder.path)
    assert report.problems == 0
    assert [finding.check for finding in report.findings] == ([check] if check else [])


def test_a_patient_is_in_one_split(folder: Folder) -> None:
    rows = read_table(folder.path / "manifest.csv")
    write_table(
        folder.path / "manifest.csv",
        [{**row, "split": "test" if i == 1 else "train"} for i, row in enumerate(rows)],
    )
    assert [finding.exam_id for finding in found(doctor.check(folder.path))["rows"]] == ["x1"]


def test_a_patients_own_pictures_may_look_alike(folder: Folder) -> None:
    folder.picture("x1", "gs", copy_of(speckle(0)))
    assert doctor.check(folder.path).problems == 0


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("p1_L_MCP2_gs", "left"),
        ("handRight2", "right"),
        ("mcp2_re", "right"),
        ("links-rechts", ""),
        ("e3f2", ""),
        ("LIVER", ""),
        ("p000-e01_gs", ""),
    ],
)
def test_sides_in_names(name: str, side: str) -> None:
    assert side_in(name) == side


def test_phantom_pictures_are_told_apart_and_their_copies_found(tmp_path: Path) -> None:
    settings = PhantomSettings(image_px=96, exams_per_patient=4)
    (tmp_path / "images").mkdir()
    shift = SiteShift(patients=3)
    parts = [
        write_patient(
            Job(
                exams=4,
                seed=1,
                settings=settings,
                site="s",
                trains=True,
                index=i,
                device=FITTED[0],
                folder=tmp_path,
                shift=shift,
            )
        )
        for i in range(3)
    ]
    write_site(tmp_path, "s", parts)
    report = doctor.check(tmp_path)
    by_check = found(report)
    assert report.exams == 12
    assert not {"copy", "duplicate", "ids", "side", "roi", "missing", "rows"} & by_check.keys()
    assert len(by_check["text"]) >= 20  # every phantom screen has a header
    pictures = [
        np.asarray(Image.open(p).convert("L")) for p in sorted((tmp_path / "images").glob("*_gs.png"))
    ]
    copies = [np.asarray(Image.fromarray(copy_of(np.stack([p] * 3, axis=-1))).convert("L")) for p in pictures]
    pairs = set(alike([likeness(p) for p in (*pictures, *copies)]))
    assert pairs == {(i, i + 12) for i in range(12)}


def test_it_needs_a_manifest_with_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a table"):
        doctor.check(tmp_path)
    write_table(tmp_path / "manifest.csv", [{"exam_id": "a", "patient_id": "b"}])
    with pytest.raises(DataError, match="such as gs_path"):
        doctor.check(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(arguments: Sequence[object]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["synofed", "data", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return call


def test_the_screen_has_counts_and_the_file_the_rows(
    folder: Folder, command: Command, tmp_path: Path
) -> None:
    assert command([folder.path])[0] == 0
    folder.change("manifest", 2, {"patient_id": "HOSP_a"})
    code, said = command([folder.path])
    assert code == 4
    assert TITLES["ids"] in said
    assert "HOSP" not in said
    detail = folder.path / "check.csv"
    assert detail.stat().st_mode & 0o777 == 0o600
    with detail.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["check"], row["severity"], row["exam_id"]) for row in rows] == [("ids", "problem", "x2")]
    code, said = command([folder.path, "--json", "--detail", tmp_path / "rows.csv"])
    assert code == 4
    counts = json.loads(said.splitlines()[0])
    assert counts["checks"]["ids"] == {"problems": 1, "warnings": 0}
    assert (tmp_path / "rows.csv").read_bytes() == detail.read_bytes()


def test_a_sites_folder_names_its_data(folder: Folder, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "site.toml").write_text('name = "north"\n[data]\nfolder = "../data"\n', encoding="utf-8")
    assert doctor.check(site).exams == 6


@pytest.mark.parametrize(("encoding", "separator"), [("cp1252", ";"), ("cp1252", ","), ("utf-16", "\t")])
def test_tables_of_any_program_are_checked(folder: Folder, encoding: str, separator: str) -> None:
    folder.change("manifest", 0, {"visit": "2024-03-01", "digit": "2"})
    for name in ("manifest.csv", "grades.csv"):
        text = (folder.path / name).read_text(encoding="utf-8").replace("hosp-A", "höst\u2013A")
        (folder.path / name).write_bytes(text.replace(",", separator).encode(encoding))
    report = doctor.check(folder.path)
    assert (report.exams, report.patients, report.findings) == (6, 3, ())


def test_an_id_that_lost_its_zeros_is_named_with_the_exam_that_it_is(folder: Folder) -> None:
    folder.change("manifest", 0, {"exam_id": "007"})
    for number in (0, 1):
        folder.change("grades", number, {"exam_id": "7"})
    whats = [finding.what for finding in found(doctor.check(folder.path))["ungraded"]]
    assert "is not in the manifest, but '007' is: have zeros been lost?" in whats


def _deep(folder: Folder, exam: str, shift: int) -> None:
    values = (speckle(int(exam[1:]))[..., 0].astype(np.uint16) << shift).astype(np.uint16)
    (folder.path / "images" / f"{exam}_gs.png").write_bytes(png16(values))


@pytest.mark.parametrize(
    ("spoil", "check", "problem", "says"),
    [
        (lambda f: f.picture("x3", "gs", speckle(3) // 16), "dark", True, "hardly a pixel"),
        (lambda f: f.picture("x3", "gs", np.zeros_like(speckle(3))), "dark", True, "hardly a pixel"),
        (lambda f: f.picture("x3", "gs", speckle(3) // 32 + 100), "flat", True, "within"),
        (lambda f: f.picture("x3", "gs", np.full_like(speckle(3), 200)), "flat", True, "within 0"),
        (
            lambda f: f.picture("x3", "gs", speckle(3, width=160, height=200)),
            "turned",
            False,
            "160 x 200 pixels, where 5 others are 200 x 160",
        ),
        (
            lambda f: f.picture("x3", "gs", _turned_within_its_frame(3)),
            "turned",
            False,
            "drawn out downwards",
        ),
        (lambda f: _deep(f, "x3", 4), "guess", False, "images/x3_gs.png: 16 bits per channel, of which 12"),
    ],
)
def test_black_flat_turned_and_guessed_pictures_are_found(
    folder: Folder, spoil: Callable[[Folder], object], check: Kind, problem: bool, says: str
) -> None:
    spoil(folder)
    report = doctor.check(folder.path)
    (finding,) = found(report)[check]
    assert (finding.exam_id, finding.problem) == ("x3", problem)
    assert says in finding.what
    assert not {"dark", "flat", "turned", "guess"} - {check} & found(report).keys()


def _turned_within_its_frame(seed: int) -> np.ndarray:
    """Turned by a quarter, and as wide and high as it was."""
    return np.ascontiguousarray(np.rot90(speckle(seed, width=200, height=200)))[:160]


def test_a_folder_where_every_picture_is_upright_has_none_turned(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(speckle(3)).transpose(Image.Transpose.ROTATE_90)
    stored.save(folder.path / "images" / "x3_gs.png", exif=exif)
    assert doctor.check(folder.path).findings == ()


@pytest.mark.parametrize(
    ("roi", "check", "says"),
    [
        ("30 17 0 0", "rows", "its area is zero"),
        ("30 17 0 224", "rows", "its area is zero"),
        ("-5 0 50 50", "rows", "negative"),
        ("0 0 99999 99999", "roi", "the ROI reaches out of 200 x 160 pixels"),
        ("250 250 20 20", "roi", "the ROI reaches out of 200 x 160 pixels"),
        ("a b c d", "rows", "'a' is no whole number"),
        ("30,17,224,224", "rows", "set apart by blanks"),
        ("nan 1 2 3", "rows", "'nan' is no whole number"),
        ("1e9 0 10 10", "rows", "'1e9' is no whole number"),
        ("30 17 1 1", "rows", "narrower or lower than 16 pixels"),
        ("30 17 224", "rows", "got 3 numbers, not 4"),
    ],
)
def test_each_fault_of_a_region_is_named(folder: Folder, roi: str, check: Kind, says: str) -> None:
    folder.change("manifest", 3, {"gs_roi": roi})
    (finding,) = doctor.check(folder.path).findings
    assert (finding.check, finding.exam_id, finding.problem) == (check, "x3", True)
    assert says in finding.what


def test_a_file_of_several_pictures_is_none_that_can_be_read(folder: Folder) -> None:
    pages = [Image.fromarray(speckle(seed)) for seed in (3, 8)]
    pages[0].save(folder.path / "images" / "x3_gs.png", format="TIFF", save_all=True, append_images=pages[1:])
    (finding,) = found(doctor.check(folder.path))["missing"]
    assert "2 pictures, expected one" in finding.what


def test_progress_tells_of_every_picture(folder: Folder) -> None:
    told: list[tuple[int, int]] = []
    doctor.check(folder.path, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 12) for done in range(1, 13)]


def test_a_negative_is_no_copy() -> None:
    picture = speckle(1)[..., 0]
    pictures = [likeness(picture), likeness(255 - picture), likeness(picture // 2)]
    assert list(alike(pictures)) == [(0, 2)]


def test_text_and_colour_of_a_clip_are_found_in_any_frame(tmp_path: Path) -> None:
    frames = [speckle(0) for _ in range(4)]
    frames[2] = with_flow(with_text(frames[2], "KOWALSKI 1957", (40, 120), size=14))
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "clip.tif", save_all=True, append_images=others)
    place = Place(line=2, exam_id="e", patient_id="p", image="gs_clip", path="clip.tif", roi=None)
    (seen,) = look(tmp_path, [place])
    assert isinstance(seen, Look)
    assert (seen.text_in_roi, seen.coloured, seen.size) == (1, True, (200, 160))
    ((_, reason),) = look(tmp_path, [replace(place, image="gs")])  # type: ignore[misc]  # it cannot be looked at
    assert reason.startswith("holds 4 pictures")


def twelve_patients(tmp_path: Path, *, tied: bool) -> Report:
    """Two machines, two diagnoses; each patient's machine is that of the diagnosis, or of every second."""
    folder = Folder(tmp_path / ("tied" if tied else "mixed"))
    rows: Rows = []
    grades: Rows = []
    for i in range(24):
        row = read_table(folder.path / "manifest.csv")[i % 6]
        diagnosis = ("RA+", "PsA")[i % 2]
        machine = ("one", "two")[i % 2 if tied else i // 2 % 2]
        rows.append(
            {**row, "exam_id": f"y{i}", "patient_id": f"q{i}", "device": machine, "diagnosis": diagnosis}
        )
        grades.append(
            {
                "exam_id": f"y{i}",
                "reader": "r1",
                "session": "1",
                "hypertrophy": str(i // 4 % 2),
                "vascularity": "0",
            }
        )
    write_table(folder.path / "manifest.csv", rows)
    write_table(folder.path / "grades.csv", grades)
    return doctor.check(folder.path)


def test_a_machine_that_goes_with_the_diagnosis_is_told_and_no_problem(tmp_path: Path) -> None:
    tied, mixed = (
        [f for f in twelve_patients(tmp_path, tied=tied).findings if f.check == "linked"]
        for tied in (True, False)
    )
    assert mixed == []
    assert [(f.problem, f.line, f.exam_id) for f in tied] == [(False, 0, "")]
    assert "The machine tells diagnosis" in tied[0].what
