import csv
import math
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from client.data.tables.agreement import reader_agreement
from client.data.tables.tables import Tables, read_tables
from client.site.site import Site
from common.errors import ConfigurationError, DataError
from common.settings import Settings
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

SETTINGS = make_settings()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site_folder(tmp_path / "site", patients=4, exams_per_patient=2, readers=3)


def tables(folder: Path, *, rule: str = "median", settings: Settings = SETTINGS) -> Tables:
    return read_tables(folder, manifest="manifest.csv", grades="grades.csv", rule=rule, settings=settings)


def edit(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Let ``change`` alter the list of rows of a table."""
    rows = read_table(path)
    change(rows)
    write_table(path, rows)


def regrade(folder: Path, index: int, **grades: str) -> None:
    """Give all readings of the manifest's ``index``-th exam these grades."""
    exam = read_table(folder / "manifest.csv")[index]["exam_id"]

    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            if row["exam_id"] == exam:
                row.update(grades)

    edit(folder / "grades.csv", change)


def test_a_valid_folder_is_read_in_the_manifests_order(site: Path) -> None:
    read = tables(site)
    assert [exam.exam_id for exam in read.exams] == [r["exam_id"] for r in read_table(site / "manifest.csv")]
    assert len(read.readings) == 24
    assert read.quarantined == ()
    assert read.notes == ()
    assert read.exams[0].device == "Resona 7"


def test_all_errors_of_the_manifest_at_once_with_line_column_value_and_what_is_allowed(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        rows[0]["patient_id"] = ""
        rows[1]["gs_path"] = "../secret.png"
        rows[2]["doppler_path"] = "/etc/passwd"
        rows[3]["gs_roi"] = "1 2 3"
        rows[4]["split"] = "validation"
        rows[6]["exam_id"] = rows[5]["exam_id"] = "same"
        for row in rows:
            row.setdefault("split", "")
            row.setdefault("fold", "")
        rows[7]["fold"] = "9"

    edit(site / "manifest.csv", change)
    with pytest.raises(DataError, match="has 7 errors; nothing was imported") as caught:
        tables(site)
    for expected in (
        "line 2: patient_id is empty, expected an identifier",
        "line 3: gs_path is '../secret.png', expected a path inside the data folder",
        "line 4: doppler_path is '/etc/passwd', expected a path inside the data folder",
        "line 5: gs_roi is '1 2 3', expected 'x y width height' in pixels",
        "line 6: split is 'validation', expected train, test or nothing",
        "line 8: exam_id 'same' stands in line 7 already",
        "line 9: fold is '9', expected 0 to 1 or nothing",
    ):
        assert expected in str(caught.value)


def test_a_patient_in_two_splits_or_folds_is_an_error(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for index, row in enumerate(rows):
            row["split"] = "test" if index == 1 else "train"
            row["fold"] = "1" if index == 3 else "0"

    edit(site / "manifest.csv", change)
    with pytest.raises(DataError, match="has 2 errors") as caught:
        tables(site)
    assert "line 3: split is 'test', but 'train' in line 2 for the same patient_id" in str(caught.value)
    assert "line 5: fold is 1, but 0 in line 4 for the same patient_id" in str(caught.value)


def test_a_link_that_leads_out_of_the_folder_is_an_error(site: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"x")
    link = site / read_table(site / "manifest.csv")[0]["gs_path"]
    link.unlink()
    link.symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="leads out of the data folder"):
        tables(site)


def test_many_errors_are_counted_and_cut(tmp_path: Path) -> None:
    site = make_site_folder(tmp_path / "s", patients=60, exams_per_patient=1, images=["gs"])
    edit(site / "manifest.csv", lambda rows: [row.update(gs_path="") for row in rows])
    with pytest.raises(DataError, match=r"has 60 errors(?s:.*)and 10 more"):
        tables(site, settings=make_settings(images=["gs"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "missing: exam_id, patient_id, gs_path, doppler_path"),
        (b"exam_id,patient_id,gs_path\n1,2,3\n", "missing: doppler_path"),
        (b"exam_id,patient_id,gs_path,doppler_path\n", "at least one row"),
        (b"exam_id,patient_id,gs_path,doppler_path\n1,\x81,a,b\n", "line 2 has the byte 0x81"),
        (b"exam_id,exam_id,patient_id,gs_path,doppler_path\n1,1,2,3,4\n", "twice: exam_id"),
        (b"exam_id,patient_id,gs_path,doppler_path\n1,2,3,4,5\n", "line 2: has 5 cells, expected 4"),
        (b'exam_id,patient_id,gs_path,doppler_path\n"1,2,3,4\n', "not a table"),
    ],
)
def test_a_table_that_is_none_stops(site: Path, content: bytes, message: str) -> None:
    (site / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        tables(site)


def test_missing_tables_stop(site: Path) -> None:
    (site / "grades.csv").unlink()
    with pytest.raises(DataError, match=r"Expected a table at .*grades"):
        tables(site)
    (site / "manifest.csv").unlink()
    with pytest.raises(DataError, match=r"Expected a table at .*manifest"):
        tables(site)


def test_a_byte_order_mark_crlf_and_blank_lines_are_fine(site: Path) -> None:
    before = tables(site)
    for name in ("manifest.csv", "grades.csv"):
        text = (site / name).read_text().replace("\n", "\r\n") + "\r\n\r\n"
        (site / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    after = tables(site)
    assert [e.targets for e in after.exams] == [e.targets for e in before.exams]


def test_unknown_columns_and_stray_grades_are_noted(site: Path) -> None:
    edit(site / "manifest.csv", lambda rows: [row.update(probe="L23-15", visit="1") for row in rows])
    edit(site / "grades.csv", lambda rows: rows.append({**rows[0], "exam_id": "elsewhere"}))
    assert tables(site).notes == (
        "columns of the manifest that are not used: probe",
        "1 graded exams are not in the manifest",
    )


def test_an_exam_with_an_impossible_pair_or_a_grade_that_is_none_is_quarantined(site: Path) -> None:
    regrade(site, 0, hypertrophy="0", vascularity="2")
    regrade(site, 1, hypertrophy="4")
    regrade(site, 2, hypertrophy="mild")
    regrade(site, 3, hypertrophy="", vascularity="")
    read = tables(site)
    rule = 'validity "eoss" has no vascularity without hypertrophy'
    assert [(q.line, q.reason) for q in read.quarantined] == [
        (2, f"grades line 2: hypertrophy 0 with vascularity 2 cannot be: {rule}"),
        (3, "grades line 5: hypertrophy is '4', expected 0 to 3 or nothing"),
        (4, "grades line 8: hypertrophy is 'mild', expected 0 to 3 or nothing"),
        (5, "no reader gave a grade"),
    ]
    assert len(read.exams) == 4


def test_one_impossible_pair_among_several_readers_quarantines(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        rows[1].update(hypertrophy="0", vascularity="1")

    edit(site / "grades.csv", change)
    assert [q.line for q in tables(site).quarantined] == [2]


def test_an_exam_without_any_row_of_grades_is_quarantined(site: Path) -> None:
    edit(site / "grades.csv", lambda rows: rows.__delitem__(slice(0, 3)))
    assert [(q.line, q.reason) for q in tables(site).quarantined] == [(2, "no reader gave a grade")]


def test_a_gap_leaves_the_exam_for_the_other_measurement(site: Path) -> None:
    regrade(site, 0, hypertrophy="2", vascularity="")
    read = tables(site)
    assert read.exams[0].targets == {"hypertrophy": 2, "vascularity": None}
    assert read.quarantined == ()


def test_grades_of_a_spreadsheet_with_gaps_are_whole_numbers(site: Path) -> None:
    regrade(site, 0, hypertrophy="2.0", vascularity="1.0")
    regrade(site, 1, hypertrophy="1.5")
    read = tables(site)
    assert read.exams[0].targets == {"hypertrophy": 2, "vascularity": 1}
    assert [q.line for q in read.quarantined] == [3]


def test_a_consensus_that_cannot_be_is_repaired(site: Path) -> None:
    """The medians, each over the readers who graded it, are hypertrophy 0 and vascularity 1."""

    def change(rows: list[dict[str, str]]) -> None:
        for row, (h, v) in zip(rows, [("0", ""), ("0", ""), ("1", "1")], strict=False):
            row.update(hypertrophy=h, vascularity=v)

    edit(site / "grades.csv", change)
    assert tables(site).exams[0].targets == {"hypertrophy": 0, "vascularity": 0}


def test_the_rule_decides_between_readers(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for row, h in zip(rows, "133", strict=False):
            row.update(hypertrophy=h, vascularity="0")

    edit(site / "grades.csv", change)
    chosen = {
        rule: tables(site, rule=rule).exams[0].targets["hypertrophy"] for rule in ("median", "reader:r1")
    }
    assert chosen == {"median": 3, "reader:r1": 1}
    with pytest.raises(DataError, match=r"Expected reader 'r9' of site.toml in .*, got r1, r2, r3"):
        tables(site, rule="reader:r9")


def test_a_readers_second_session_does_not_count_twice(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for row, h in zip(rows, "133", strict=False):
            row.update(hypertrophy=h, vascularity="0")
        rows += [{**rows[0], "session": str(session)} for session in range(2, 9)]

    edit(site / "grades.csv", change)
    assert tables(site).exams[0].targets["hypertrophy"] == 3


def test_kappa_between_readers(site: Path) -> None:
    found = reader_agreement(tables(site).readings, SETTINGS)
    assert [(a.measurement, a.readers) for a in found[:3]] == [
        ("hypertrophy", ("r1", "r2")),
        ("hypertrophy", ("r1", "r3")),
        ("hypertrophy", ("r2", "r3")),
    ]
    assert found[0].exams == 8
    assert found[0].kappa_linear == pytest.approx(1.0)
    assert 0 < found[1].kappa_linear < found[1].kappa_quadratic < 1
    assert reader_agreement((), SETTINGS) == ()


def test_readers_without_a_common_exam_have_no_kappa(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        rows[:] = [row for i, row in enumerate(rows) if (row["reader"] == "r1") == (i < 12)]

    edit(site / "grades.csv", change)
    found = reader_agreement(tables(site).readings, SETTINGS)
    assert found[0].exams == 0
    assert math.isnan(found[0].kappa_linear)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("name = ", ConfigurationError, "is not TOML"),
        ('name = "a b"', ConfigurationError, "name"),
        (
            'name = "a"\ncolour = 1\n[data]\nconsensus = "mean"',
            ConfigurationError,
            "(?s)consensus.*colour: no such",
        ),
        ('name = "a"\n[policy]\nminimum_cohort = 0', ConfigurationError, "policy.minimum_cohort"),
    ],
)
def test_a_site_file_that_cannot_be_used(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(error, match=message):
        Site.open(tmp_path)


def test_a_folder_that_is_no_sites(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a site's folder with site.toml"):
        Site.open(tmp_path / "nowhere")


def rewrite(path: Path, encoding: str, separator: str) -> None:
    """Write a table anew as another program would."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    path.write_bytes("\r\n".join(separator.join(row) for row in rows).encode(encoding))


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("cp1252", ";"), ("utf-16", "\t"), ("utf-16-le", ","), ("utf-8-sig", ";"), ("cp1252", ",")],
)
def test_a_sites_tables_are_read_whatever_program_wrote_them(
    site: Path, encoding: str, separator: str
) -> None:
    edit(
        site / "manifest.csv",
        lambda rows: [row.update(diagnosis="Spondyloarthritis \u2013 müde") for row in rows],
    )
    before = tables(site)
    for name in ("manifest.csv", "grades.csv"):
        rewrite(site / name, encoding, separator)
    after = tables(site)
    assert after.exams == before.exams
    assert after.readings == before.readings
    assert after.exams[0].diagnosis == "Spondyloarthritis \u2013 müde"


def test_a_workbook_may_be_a_sites_table(site: Path) -> None:
    before = tables(site)
    book = openpyxl.Workbook()
    for row in csv.reader((site / "manifest.csv").read_text(encoding="utf-8").splitlines()):
        book.active.append(row)
    book.save(site / "m.xlsx")
    after = read_tables(site, manifest="m.xlsx", grades="grades.csv", rule="median", settings=SETTINGS)
    assert after.exams == before.exams


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"exam_id,patient_id,gs_path,doppler_path,split\n1,2,3,4\n1,2\n", "has 2 errors"),
        (b"exam_id,patient_id,gs_path,doppler_path,split\n1,2,3,4\n", "line 2: has 4 cells, expected 5"),
        (b"exam_id,patient_id,gs_path,doppler_path,split,split\n1,2,3,4,,\n", "twice: split"),
        (b'exam_id,patient_id,gs_path,doppler_path\n"1,2,3,4\n5,6,7,8\n', "that begins in line 2"),
        (b"<html><table><tr><td>exam_id", "is a page in HTML"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel file"),
    ],
)
def test_a_table_that_would_be_read_wrongly_stops(site: Path, content: bytes, message: str) -> None:
    (site / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        tables(site)


def test_separators_at_the_end_of_rows_are_no_cells(site: Path) -> None:
    before = tables(site)
    for name in ("manifest.csv", "grades.csv"):
        text = (site / name).read_text(encoding="utf-8")
        (site / name).write_text("".join(f"{line},,\n" for line in text.splitlines()), encoding="utf-8")
    assert tables(site).exams == before.exams


def test_a_reader_who_contradicts_himself_quarantines(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        rows[0].update(hypertrophy="1", vascularity="1")
        rows.append({**rows[0], "hypertrophy": "3"})
        rows.append(dict(rows[4]))

    edit(site / "grades.csv", change)
    assert [(q.line, q.reason) for q in tables(site).quarantined] == [
        (2, "grades line 26: hypertrophy is 3, but 1 in line 2 by the same reader")
    ]


def test_zeros_that_a_spreadsheet_dropped_are_suspected(site: Path) -> None:
    for name in ("manifest.csv", "grades.csv"):
        edit(site / name, lambda rows: [row.update(exam_id=f"00{row['exam_id'][-6:]}") for row in rows])
    for table, form in (("manifest.csv", "{:05d}"), ("grades.csv", "{}")):
        numbers: dict[str, int] = {}
        rows = read_table(site / table)
        for row in rows:
            row["exam_id"] = form.format(numbers.setdefault(row["exam_id"], len(numbers)))
        write_table(site / table, rows)
    (note,) = tables(site).notes
    assert note.startswith("8 graded exams are not in the manifest; 8 of them would be, but for zeros")


def test_folds_of_a_column_with_gaps_are_whole_numbers(site: Path) -> None:
    edit(site / "manifest.csv", lambda rows: [row.update(fold="1.0", split="train") for row in rows])
    assert {exam.fold for exam in tables(site).exams} == {1}


def test_text_that_a_spreadsheet_would_run_is_read_back(site: Path) -> None:
    edit(site / "manifest.csv", lambda rows: [row.update(device="'=HYPERLINK(1)") for row in rows])
    assert {exam.device for exam in tables(site).exams} == {"=HYPERLINK(1)"}


def test_a_table_of_validity_quarantines_by_its_pattern(site: Path) -> None:
    regrade(site, 0, hypertrophy="1", vascularity="3")
    regrade(site, 1, hypertrophy="1", vascularity="2")
    rule = {"forbidden": [{"hypertrophy": [0, 1], "vascularity": 3}]}
    settings = Settings.model_validate({**SETTINGS.model_dump(), "validity": rule})
    quarantined = {q.line: q.reason for q in tables(site, settings=settings).quarantined}
    why = "validity.forbidden has hypertrophy 0|1, vascularity 3"
    assert quarantined[2] == f"grades line 2: hypertrophy 1 with vascularity 3 cannot be: {why}"
    assert 3 not in quarantined


def test_an_exam_that_the_manifest_excludes_is_quarantined_with_its_reason(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for row, reason in zip(rows, ("blur", "aliasing; motion", "", *[""] * len(rows)), strict=False):
            row["excluded"] = reason

    edit(site / "manifest.csv", change)
    read = tables(site)
    assert [(q.line, q.reason) for q in read.quarantined] == [
        (2, "excluded in the manifest: blur"),
        (3, "excluded in the manifest: aliasing; motion"),
    ]
    assert read.ungraded == ()
    assert read.notes == ()


def test_sex_and_exclusion_are_read_and_wrong_ones_are_named(site: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for row, sex in zip(rows, ("F", "F", "m", "", "other", "other", "", ""), strict=True):
            row["sex"] = sex

    edit(site / "manifest.csv", change)
    assert [exam.sex for exam in tables(site).exams] == ["F", "F", "M", "", "other", "other", "", ""]

    def spoil(rows: list[dict[str, str]]) -> None:
        rows[1]["sex"] = "M"
        rows[2]["sex"] = "weiblich"
        for row in rows:
            row["excluded"] = "yes" if row is rows[4] else ""

    edit(site / "manifest.csv", spoil)
    with pytest.raises(DataError, match="has 3 errors") as caught:
        tables(site)
    for expected in (
        "line 3: sex is 'M', but another in line 2 for the same patient_id",
        "line 4: sex is 'weiblich', expected F, M, other or nothing",
        "line 6: excluded is 'yes', expected a reason, such as blur",
    ):
        assert expected in str(caught.value)


def test_adjudicated_takes_the_fourth_reader_then_the_discussion_then_what_all_say(site: Path) -> None:
    exams = [row["exam_id"] for row in read_table(site / "manifest.csv")]
    pairs = {  # each reader alone
        exams[0]: ("11", "11", "11"),  # they agree
        exams[1]: ("10", "20", "20"),  # settled in discussion
        exams[2]: ("10", "20", "30"),  # left open there, decided by a fourth
        exams[3]: ("10", "20", "20"),  # settled by nobody
        exams[4]: ("21", "22", "21"),  # of one measurement alone
    }
    rows = [
        {"exam_id": exam, "reader": f"r{i}", "session": "", "hypertrophy": both[0], "vascularity": both[1]}
        for exam, given in pairs.items()
        for i, both in enumerate(given)
    ]

    def settled(exam: str, session: str, reader: str, h: str, v: str) -> None:
        rows.append(
            {"exam_id": exam, "reader": reader, "session": session, "hypertrophy": h, "vascularity": v}
        )

    settled(exams[1], "discussion", "all", "1", "0")
    settled(exams[2], "Discussion", "all", "2", "0")
    settled(exams[2], "adjudication", "fourth", "3", "1")
    write_table(site / "grades.csv", rows)
    read = tables(site, rule="adjudicated")
    targets = {exam.exam_id: tuple(exam.targets.values()) for exam in read.exams}
    assert targets[exams[0]] == (1, 1)
    assert targets[exams[1]] == (1, 0), "not the majority's 2"
    assert targets[exams[2]] == (3, 1), "who decides goes before the discussion"
    assert targets[exams[3]] == (None, 0), "what all say alike stands"
    assert targets[exams[4]] == (2, None)
    assert all("no reader gave a grade" in q.reason for q in read.quarantined)
    readers = {row.readers for row in reader_agreement(read.readings, SETTINGS)}
    assert not any({"fourth", "all"} & set(pair) for pair in readers), "what was settled is no reader's own"


def test_readers_who_differ_in_all_are_quarantined_until_somebody_decides(site: Path) -> None:
    exam = read_table(site / "manifest.csv")[0]["exam_id"]

    def change(rows: list[dict[str, str]]) -> None:
        for index, row in enumerate(row for row in rows if row["exam_id"] == exam):
            row.update(hypertrophy=str(index + 1), vascularity=str(index))

    edit(site / "grades.csv", change)
    read = tables(site, rule="adjudicated")
    reasons = {q.exam_id: q.reason for q in read.quarantined}
    assert reasons[exam] == "no agreement of its readers, and no session adjudication or discussion"
    assert exam not in {each.exam_id for each in read.ungraded}, "it was graded"
    assert Site.open(make_site_folder(site.parent / "other", consensus="adjudicated")).file.data.consensus
