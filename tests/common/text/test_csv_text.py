import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.text import csv_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\rx", "  =1", "\uff1d1", "'=1", "''@x"]
)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert csv_text.safe(text) == f"'{text}"


@pytest.mark.parametrize("cell", ["", "a-b", "O'Neill", "'quoted'", "2", -1, -0.5, None])
def test_other_text_and_numbers_stay(cell: csv_text.Cell) -> None:
    assert csv_text.safe(cell) == cell


@given(st.one_of(TEXT, TEXT.map("'=".__add__), TEXT.map("-".__add__)))
def test_reading_back_gives_what_was_written(text: str) -> None:
    safe = csv_text.safe(text)
    assert isinstance(safe, str)
    assert csv_text.original(safe) == text
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1))
def test_a_table_read_back_is_the_same(rows: list[tuple[str, str]]) -> None:
    text = csv_text.table(("=a", "b"), rows)
    found = [[csv_text.original(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]
    assert found == [["=a", "b"], *map(list, rows)]


def test_a_frame_is_written_as_pandas_does_but_for_dangerous_text() -> None:
    frame = pd.DataFrame(
        {"exam_id": ["=1", "e"], "grade": pd.array([1, None], dtype="Int64"), "p": [-0.25, 1.0]}
    )
    assert csv_text.of_frame(frame) == "exam_id,grade,p\n'=1,1,-0.25\ne,,1.0\n"
