import datetime as dt
from pathlib import Path

import openpyxl
import pytest
from openpyxl.chart import BarChart

from client.data.tables.file_rows import FileRows
from client.data.tables.rows import Table, grade, read_table
from common.errors import DataError

NEEDED = ("Pat-ID", "Höhe")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_dialect_gives_the_same_rows(tmp_path: Path, encoding: str, delimiter: str) -> None:
    lines = [["Pat-ID", "Höhe", "Wörter"], ["007", '"2"', "a b"], ["8", "", "ä"], ["", "", ""]]
    text = "\r\n".join(delimiter.join(line) for line in lines)
    (tmp_path / "t").write_bytes(text.encode(encoding))
    table = read_table(tmp_path / "t", needed=NEEDED)
    assert table.columns == ("Pat-ID", "Höhe", "Wörter")
    assert table.rows == (
        (2, {"Pat-ID": "007", "Höhe": "2", "Wörter": "a b"}),
        (3, {"Pat-ID": "8", "Höhe": "", "Wörter": "ä"}),
    )


def test_a_workbook_is_read_by_sheet_with_dates_and_numbers_as_one_writes_them(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    first = book.active
    assert first is not None
    first.append(["x"])
    sheet = book.create_sheet("Befunde")
    sheet.append(["Pat-ID", "Höhe", "Datum", None])
    sheet.append(["007", 2.0, dt.datetime(2024, 3, 1), None])
    sheet.append([None, None, None, None])
    sheet.append([8, 1.5, dt.date(2024, 3, 2), "stray"])
    book.save(tmp_path / "t.xlsx")
    table = read_table(tmp_path / "t.xlsx", needed=NEEDED, sheet="Befunde")
    assert table.columns == ("Pat-ID", "Höhe", "Datum")
    assert table.rows == (
        (2, {"Pat-ID": "007", "Höhe": "2", "Datum": "2024-03-01"}),
        (4, {"Pat-ID": "8", "Höhe": "1.5", "Datum": "2024-03-02"}),
    )
    with pytest.raises(DataError, match="has no sheet 'Blatt', but 'Sheet', 'Befunde'"):
        read_table(tmp_path / "t.xlsx", needed=NEEDED, sheet="Blatt")
    with pytest.raises(DataError, match="missing: Pat-ID, Höhe; there are: x"):
        read_table(tmp_path / "t.xlsx", needed=NEEDED)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "there are: none"),
        (b"Pat-ID;H\xf6he\n", "at least one row"),
        (b"Pat-ID;H\xf6he;Pat-ID\n1;2;3\n", "twice: Pat-ID"),
        (b"PK\x03\x04 is no workbook", "not an XLSX"),
        (b"PK\x03\x04mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "is an OpenDocument table"),
        (b"Pat-ID;H\xc3\xb6he\n1;\x002\n", "holds zero bytes"),
        (b"Pat-ID;H\xf6he\n1;\x81\n", "line 2 has the byte 0x81"),
        (b"x\n" * 25 + b"Pat-ID;H\xf6he\n1;2\n", "missing: Pat-ID"),
        (b'Pat-ID,H\xc3\xb6he\n"1,2\n', "not a table"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_table(tmp_path / "t", needed=NEEDED)


def test_charts_are_no_tables_and_lines_of_two_code_pages_are_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["Pat-ID", "Höhe"])
    book.active.append(["1", 2])
    book.create_chartsheet(index=0).add_chart(BarChart())
    book.save(tmp_path / "t.xlsx")
    assert read_table(tmp_path / "t.xlsx", needed=NEEDED).rows == ((2, {"Pat-ID": "1", "Höhe": "2"}),)
    (tmp_path / "t.csv").write_bytes("Pat-ID,Höhe\nMüller,1\n".encode() + "Höhn,2\n".encode("cp1252"))
    assert [row["Pat-ID"] for _, row in read_table(tmp_path / "t.csv", needed=NEEDED).rows] == [
        "Müller",
        "Höhn",
    ]


@pytest.mark.parametrize(
    ("text", "is_read_as"),
    [
        ("2", "2"),
        ("2,0", "2"),
        ("2.0", "2"),
        ("Grad 3", "3"),
        ("grade 1", "1"),
        ("0°", "0"),
        ("", ""),
        ("-", ""),
    ],
)
def test_grades_as_hospitals_write_them(text: str, is_read_as: str) -> None:
    assert grade(text, 4) == is_read_as


@pytest.mark.parametrize("text", ["4", "1,5", "1-2", "II", "siehe Brief", "-1", "2 3"])
def test_what_is_no_grade_is_refused_unrepeated(text: str) -> None:
    with pytest.raises(DataError, match="0 to 3") as caught:
        grade(text, 4)
    assert "Brief" not in str(caught.value)


def test_files_are_found_by_path_name_or_stem_and_never_by_a_name_of_several() -> None:
    table = Table(
        columns=("f", "v"),
        rows=tuple((i, {"f": f, "v": f}) for i, f in enumerate(("a\\X.png", "Y.PNG", "z"))),
    )
    files = FileRows(table, "f", ["a/x.png", "b/x.png", "b/y.png", "c/z.png", "d/z.dcm"])
    assert [row["v"] for _, row in files.of("a/x.png")] == ["a\\X.png"]
    assert files.of("b/x.png") == []
    assert [row["v"] for _, row in files.of("b/y.png")] == ["Y.PNG"]
    with pytest.raises(DataError, match="fits several files"):
        files.of("c/z.png")
