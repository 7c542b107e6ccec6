"""Tables of grades as hospitals keep them, imported beside pictures."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from openpyxl.worksheet.worksheet import Worksheet
from PIL import Image

from client.data.ingest import mapping
from client.data.ingest.ingest import Ingested, ingest
from common.errors import DataError
from tests.client.data.dicom_files import speckle
from tests.site_folders import read_table

MAPPING = r"""
{settings}
[facts]
patient_id = [{{of = "name", pattern = '([^/_]+)_\d{{8}}_'}}]
visit = [{{of = "name", pattern = '_(\d{{8}})_'}}]
side = [{{of = "name", pattern = '_(L|R)_'}}]
joint = [{{of = "name", pattern = '_(MCP)'}}]
digit = [{{of = "name", pattern = '_MCP([1-5])'}}]
image = ["is:gs"]
[pair]
images = ["gs"]
same = ["patient_id", "visit", "side", "joint", "digit"]
[grades]
path = "{file}"
{more}
exam = {{patient_id = "Pat-ID", visit = "Datum", side = "Seite", joint = "Gelenk", digit = "Finger"}}
reader = "Untersucher"
columns = {{hypertrophy = "{columns[0]}", vascularity = "{columns[1]}"}}
"""
HEADER = ["Pat-ID", "Datum", "Seite", "Gelenk", "Finger", "Untersucher", "Synovitis GS", "PD-Grad"]
PATIENTS = ("00123", "00007")
ROWS = [
    [p, "01.03.2024", side, "MCP", "2", "Dr. Weber", "2", "1"]
    for p in PATIENTS
    for side in ("links", "rechts")
]
GRADES = HEADER[6], HEADER[7]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheets") / "export"
    folder.mkdir()
    for i, patient in enumerate(PATIENTS):
        for j, side in enumerate("LR"):
            grey = Image.fromarray(speckle(2 * i + j)).convert("L")
            grey.save(folder / f"{patient}_20240301_{side}_MCP2_GS.png")
    return folder


def bring(
    export: Path,
    tmp_path: Path,
    file: str,
    *,
    settings: str = "",
    more: str = "",
    columns: tuple[str, str] = GRADES,
) -> Ingested:
    text = MAPPING.format(file=file, settings=settings, more=more, columns=columns)
    (tmp_path / "m.toml").write_text(text, encoding="utf-8")
    return ingest(export, tmp_path / "data", mapping.load(tmp_path / "m.toml"), private=tmp_path / "private")


def csv_file(path: Path, rows: list[list[str]], *, header: list[str] = HEADER, above: str = "") -> str:
    lines = [*above.splitlines(), *(";".join(row) for row in [header, *rows])]
    path.write_bytes("\r\n".join([*lines, ""]).encode("cp1252"))
    return path.name


def workbook(path: Path, fill: Callable[[Worksheet], None]) -> str:
    book = openpyxl.Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    fill(sheet)
    book.save(path)
    return path.name


def as_it_is(sheet: Worksheet) -> None:
    sheet.append(HEADER)
    for row in ROWS:
        sheet.append([*row[:6], int(row[6]), int(row[7])])


def grades(tmp_path: Path) -> list[tuple[str, str]]:
    return sorted(
        (row["hypertrophy"], row["vascularity"]) for row in read_table(tmp_path / "data" / "grades.csv")
    )


def test_a_formula_without_a_stored_value_is_named_row_by_row(export: Path, tmp_path: Path) -> None:
    def fill(sheet: Worksheet) -> None:
        as_it_is(sheet)
        sheet["G2"], sheet["G3"], sheet["H4"] = "=MAX(1,0)", "=H3+1", "#DIV/0!"
        sheet["H4"].data_type = "e"

    done = bring(export, tmp_path, workbook(tmp_path / "x.xlsx", fill))
    formula = "is a formula without a stored value: open the file in a spreadsheet program and save it there"
    assert done.grade_problems == {f"Synovitis GS {formula}": 2, "PD-Grad is the error #DIV/0!": 1}
    problems = read_table(tmp_path / "private" / "data-problems.csv")
    assert [row["where"] for row in problems] == ["grades line 2", "grades line 3", "grades line 4"]
    assert grades(tmp_path) == [("", "1"), ("", "1"), ("2", ""), ("2", "1")]


def test_lost_zeros_are_suspected_and_a_setting_pads_them(export: Path, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "g.csv", [[row[0].lstrip("0"), *row[1:]] for row in ROWS])
    said = r"4 x no imported exam fits it: its patient id has lost zeros in front.* set patient_id_digits = 5"
    with pytest.raises(DataError, match=said):
        bring(export, tmp_path, file)
    done = bring(export, tmp_path, file, settings="patient_id_digits = 5")
    assert (done.readings, done.ungraded, done.grade_problems) == (4, 0, {})


def test_padding_gives_the_ids_that_the_export_has_the_same_pseudonyms(export: Path, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "g.csv", ROWS)
    bring(export, tmp_path, file)
    before = (tmp_path / "data" / "manifest.csv").read_bytes()
    (tmp_path / "data").rename(tmp_path / "before")
    bring(export, tmp_path, file, settings="patient_id_digits = 5")
    assert (tmp_path / "data" / "manifest.csv").read_bytes() == before


@pytest.mark.parametrize("number_format", ["General", "00000"])
def test_ids_that_became_numbers_are_read_as_they_are_shown_or_suspected(
    export: Path, tmp_path: Path, number_format: str
) -> None:
    def fill(sheet: Worksheet) -> None:
        sheet.append(HEADER)
        for row in ROWS:
            sheet.append([int(row[0]), dt.datetime(2024, 3, 1), *row[2:4], 2, row[5], 2.0, 1.0])
        for cell in sheet["A"][1:]:
            cell.number_format = number_format

    file = workbook(tmp_path / "x.xlsx", fill)
    if number_format == "General":
        with pytest.raises(DataError, match="patient_id_digits = 5"):
            bring(export, tmp_path, file)
        bring(export, tmp_path, file, settings="patient_id_digits = 5")
    else:
        bring(export, tmp_path, file)
    assert grades(tmp_path) == [("2", "1")] * 4


@pytest.mark.parametrize(
    "above", ["Befunde, Rheumatologie, 2024;;;;;;;\n;;;;;;;", "sep=;", "Stand: heute\n\n"]
)
def test_titles_above_the_header_are_passed_over(export: Path, tmp_path: Path, above: str) -> None:
    assert bring(export, tmp_path, csv_file(tmp_path / "g.csv", ROWS, above=above)).readings == 4


def test_the_header_may_be_named_where_two_lines_would_fit(export: Path, tmp_path: Path) -> None:
    draft = [[*row[:6], "0", "0"] for row in ROWS[:1]]
    above = "\n".join(";".join(row) for row in [HEADER, *draft])
    file = csv_file(tmp_path / "g.csv", ROWS, above=above)
    with pytest.raises(DataError, match=r"Expected the header in line 99 of .*, it has 7 lines"):
        bring(export, tmp_path, file, more="header_row = 99")
    done = bring(export, tmp_path, file, more="header_row = 3")
    assert (done.readings, done.grade_problems) == (4, {})


def test_a_header_of_two_rows_is_read(export: Path, tmp_path: Path) -> None:
    def groups(sheet: Worksheet) -> None:
        sheet.append(["Patient", "", "Gelenk", "", "", "Befund", "", ""])
        for cells in ("A1:B1", "C1:E1", "F1:H1"):
            sheet.merge_cells(cells)
        as_it_is(sheet)

    assert bring(export, tmp_path, workbook(tmp_path / "x.xlsx", groups)).readings == 4


def test_columns_below_a_group_are_called_by_both(export: Path, tmp_path: Path) -> None:
    def groups(sheet: Worksheet) -> None:
        sheet.append([*HEADER[:6], "Erstbefund", "", "Zweitbefund", ""])
        sheet.append([""] * 6 + ["GS", "PD"] * 2)
        for cells in (*(f"{c}1:{c}2" for c in "ABCDEF"), "G1:H1", "I1:J1"):
            sheet.merge_cells(cells)
        for row in ROWS:
            sheet.append([*row, "3", "3"])

    bring(
        export, tmp_path, workbook(tmp_path / "x.xlsx", groups), columns=("Zweitbefund GS", "Erstbefund PD")
    )
    assert grades(tmp_path) == [("3", "1")] * 4


def test_a_cell_merged_over_rows_counts_in_each_and_one_over_columns_is_named(
    export: Path, tmp_path: Path
) -> None:
    def merged(sheet: Worksheet) -> None:
        as_it_is(sheet)
        sheet.merge_cells("A2:A3")
        sheet.merge_cells("G5:H5")

    done = bring(export, tmp_path, workbook(tmp_path / "x.xlsx", merged))
    assert grades(tmp_path) == [("2", "1")] * 3
    ((what, count),) = done.grade_problems.items()
    assert count == 1
    assert "Synovitis GS is merged with the cells beside it" in what


def test_rows_that_are_moved_or_come_again_are_named(export: Path, tmp_path: Path) -> None:
    rows = [
        ROWS[0],
        [*ROWS[1][:5], "Weber", "Arzt", "2", "1"],
        ROWS[2][:6],
        ROWS[3],
        ROWS[0],
        [*ROWS[3][:6], "0", "0"],
    ]
    done = bring(export, tmp_path, csv_file(tmp_path / "g.csv", rows))
    assert done.grade_problems == {
        "has 9 cells, expected 8": 1,
        "has 6 cells, expected 8": 1,
        "says what an earlier row says": 1,
        "grades otherwise than an earlier row of the same exam and reader, which counts": 1,
    }
    assert grades(tmp_path) == [("2", "1")] * 2


def test_an_id_of_the_link_table_that_lost_its_zeros_is_listed(export: Path, tmp_path: Path) -> None:
    (tmp_path / "links.csv").write_text("patient_id;person\n123;a\n99;b\n", encoding="utf-8")
    done = bring(export, tmp_path, csv_file(tmp_path / "g.csv", ROWS), settings='patients = "links.csv"')
    assert done.look_alike_ids == 1
    listed = read_table(tmp_path / "private" / "data-problems.csv")
    assert [row["what"] for row in listed] == ["00123 | 123"]
